"""`launcher over-ssh`: what another launcher runs here; nobody types it.

With a command after `--` it is that command, but one that ends when the other end of the connection does: sshd leaves a
program without a terminal running for ever. Without, it answers requests (launcher.api.remote.answers).
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import BinaryIO

import launcher

_END_S = 10.0  # to tidy up; then it ends anyhow


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--version-here", metavar="V", help="the version of the launcher that asks")
    parser.add_argument("--cluster-here", metavar="NAME", help="what that one calls this cluster")


def run(arguments: argparse.Namespace) -> int:
    """Answer, or run the command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for hung_up in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(hung_up, _interrupted)
    if arguments.engine_args:
        from launcher.cli import main

        _say_skew(arguments.version_here, arguments.cluster_here)
        _watch(1)
        return main(arguments.engine_args)
    from launcher.api.remote.answers import Answers, silent_output

    given: BinaryIO = sys.stdin.buffer
    taken = silent_output()
    _watch(taken.fileno())
    answers = Answers(given, taken)
    answers.greet()
    try:
        return answers.serve(lambda: _end_with(given))
    finally:
        # What is still waiting to be written has no reader any more, or is written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), taken.fileno())


def _say_skew(there: str | None, cluster: str | None) -> None:
    if there and there != launcher.__version__:
        advice = f" Run: launcher clusters setup {cluster[:64]}" if cluster else ""
        shown = "".join(c for c in there[:40] if c.isprintable())
        print(
            f"launcher: this cluster has version {launcher.__version__}, you have {shown}.{advice}",
            file=sys.stderr,
        )


def _watch(output: int) -> None:
    """Interrupt this program once nobody reads `output` any more."""
    watched = select.poll()
    watched.register(output, 0)  # only errors and hang-ups

    def wait() -> None:
        watched.poll()
        _interrupt()

    threading.Thread(target=wait, daemon=True).start()


def _end_with(given: BinaryIO) -> None:
    """Interrupt this program once `given` ends."""

    def wait() -> None:
        while os.read(given.fileno(), 1 << 16):
            pass
        _interrupt()

    threading.Thread(target=wait, daemon=True).start()


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_END_S)
    os._exit(130)


def _interrupted(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
