"""Reading a log of a session: its last lines, and what comes after a place; costs what is read, not what is there."""

from __future__ import annotations

import re
from pathlib import Path

from launcher.sessions.paths import SessionPaths


class _Names(tuple[str, ...]):
    """Names to choose from; `engine-2` and so on are among them too, as many as a session has nodes."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or bool(re.fullmatch(r"engine-[1-9]\d{0,3}", str(name)))


# The last two are a model's on several nodes.
LOGS = _Names(("engine", "gateway", "page", "job", "nodes", "engine-1"))
_BLOCK = 64 * 1024
_LINE_MAX_BYTES = 1 << 20


def log_of(paths: SessionPaths, name: str) -> Path:
    """The file of one of `LOGS`."""
    kind, _, rank = name.partition("-")
    found: Path = paths.rank_log(int(rank)) if rank else getattr(paths, f"{kind}_log")
    return found


def logs_of(paths: SessionPaths) -> list[Path]:
    """The logs that a session has, those first that mostly tell why."""
    ranks = sorted(paths.root.glob("engine-*.log"), key=lambda log: (len(log.name), log.name))
    rest = [paths.nodes_log, paths.job_log, paths.gateway_log, paths.page_log]
    return [log for log in (paths.engine_log, *ranks, *rest) if log.exists()]


def end_of(path: Path, lines: int) -> tuple[bytes, int]:
    """The last `lines` lines of `path` and the place of its end; reads from the end, block by block."""
    if not path.exists():
        return b"", 0
    with path.open("rb") as file:
        end = position = file.seek(0, 2)
        blocks: list[bytes] = []
        breaks = unbroken = 0
        # Of a line without end, as a progress bar writes one, the end is enough.
        while lines > 0 and position and breaks <= lines and unbroken < _LINE_MAX_BYTES:
            step = min(_BLOCK, position)
            position -= step
            file.seek(position)
            blocks.append(block := file.read(step))
            found = block.count(b"\n")
            breaks, unbroken = breaks + found, 0 if found else unbroken + step
    kept = b"".join(reversed(blocks)).splitlines(keepends=True)[-lines:]
    return b"".join(kept), end


def after(path: Path, place: int) -> tuple[bytes, int]:
    """The next piece after `place`, of whole lines where there are some, and the place of its end."""
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
