"""A log of a session of another cluster, in pieces; a connection that breaks costs neither a line nor shows one twice.

Owns both ends: what is read there, with the place in the file after each piece, and where it goes on from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from launcher.api.log import LOGS, after, end_of, log_of
from launcher.api.remote.far import LostError
from launcher.errors import RequestError, SessionError

if TYPE_CHECKING:
    from launcher.api.remote.session import RemoteSession
    from launcher.api.session import Session

_PAUSE_S = 2.0  # each look asks the scheduler


def pieces(session: RemoteSession, of: str, lines: int, *, follow: bool) -> Iterator[str]:
    """The end of one of its logs, with `follow` until the session ends; bytes that are no UTF-8 are replaced."""
    at: int | None = None
    lost = 0

    def once() -> Iterator[str]:
        nonlocal at
        with session.far.talk("log", session=session.id, of=of, lines=lines, at=at, follow=follow) as talk:
            for part in talk.told():
                at = session.far.value(part, "at", int)
                yield session.far.value(part, "text", str)

    while True:
        try:
            for text in once():
                lost = 0
                yield text
            return
        except LostError as error:
            lost += 1
            session.far.come_back(error, lost)


def follow_here(
    session: Session, of: str, lines: int, at: int | None, follow: bool, tell: Callable[[Any], object]
) -> None:
    """Tell the last `lines` lines of a log of a session of this cluster, or what stands after `at`."""
    if of not in LOGS:
        raise RequestError(f'There is no log "{of[:40]}".', f"Choose one of: {', '.join(LOGS)}.")
    path = log_of(session.paths, of)
    if not path.exists() and not follow:
        raise SessionError(
            f"Session {session.id} has no {of} log yet.", f"Look at: launcher status {session.id}"
        )
    if at is None:
        last, end = end_of(path, lines)
        at = end - len(last)
    while True:
        over = not follow or session.status().ended
        while True:
            data, at = after(path, at)
            if not data:
                break
            tell({"text": data.decode("utf-8", "replace"), "at": at})
        if over:
            return
        time.sleep(_PAUSE_S)
