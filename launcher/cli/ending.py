"""Being told to end: TERM, or the hangup of a terminal that closes, leave as little behind as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def ended_tidily() -> Iterator[None]:
    """Meanwhile both raise SystemExit, with the exit code that a shell gives to such an end."""

    def end(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    # What is ignored stays so: nohup has its reason.
    taken = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)
