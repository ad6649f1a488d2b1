"""Signals as a wish to end: the first lets what is on its way come in, a second one waits for nothing."""

from __future__ import annotations

import asyncio
import signal

_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)


def stopping(told: list[int] | None = None) -> asyncio.Event:
    """An event of the running loop that is set by TERM, HUP, INT and USR1; the second signal cancels the task.

    `told` gets those that came.
    """
    came = told if told is not None else []
    loop, task, stop = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def ask(number: int) -> None:
        came.append(number)
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in _ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has its reason
            loop.add_signal_handler(number, ask, number)
    return stop
