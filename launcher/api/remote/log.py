"""A log of a session of another cluster, in pieces; a connection that breaks costs neither a line nor shows one twice.

Owns both ends: what is read there, with the place in the file after each piece, and where it goes on from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.api.remote.far import LostError
from launcher.errors import RequestError, SessionError

if TYPE_CHECKING:
    from launcher.api.remote.session import RemoteSession
    from launcher.api.session import Session

LOGS = ("engine", "gateway", "page", "job")
_BLOCK = 64 * 1024
_PAUSE_S = 2.0  # each look asks the scheduler


def pieces(session: RemoteSession, of: str, lines: int, *, follow: bool) -> Iterator[str]:
    """What `Session.log` says; bytes that are no UTF-8 are replaced."""
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
    path: Path = getattr(session.paths, f"{of}_log")
    if not path.exists() and not follow:
        raise SessionError(
            f"Session {session.id} has no {of} log yet.", f"Look at: launcher status {session.id}"
        )
    place = _start(path, lines) if at is None else at
    while True:
        over = not follow or session.status().ended
        while True:
            data, place = _after(path, place)
            if not data:
                break
            tell({"text": data.decode("utf-8", "replace"), "at": place})
        if over:
            return
        time.sleep(_PAUSE_S)


def _start(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin."""
    try:
        with path.open("rb") as file:
            position = file.seek(0, 2)
            if lines <= 0:
                return position
            seen = 0
            while position:
                step = min(_BLOCK, position)
                position -= step
                file.seek(position)
                block = file.read(step)
                for index in range(len(block) - 1, -1, -1):
                    if block[index] == 10:
                        seen += 1
                        if seen > lines:
                            return position + index + 1
    except FileNotFoundError:
        pass
    return 0


def _after(path: Path, place: int) -> tuple[bytes, int]:
    """What stands after `place`, in whole lines where the block has one, and where that ends."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < place:  # started again: the log was made new
                place = 0
            file.seek(place)
            data = file.read(_BLOCK)
    except FileNotFoundError:
        return b"", 0
    whole = data.rfind(b"\n") + 1
    if len(data) == _BLOCK and whole:
        data = data[:whole]
    return data, place + len(data)
