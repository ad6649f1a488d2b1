"""All sessions of this user: one folder, an entry for each; an OOD session's is a link to its own directory."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from launcher.errors import SessionError, StorageError
from launcher.sessions.job import member_of, read_job_id
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import SessionPaths
from launcher.sessions.status import Status


def make(folder: Path, session_id: str) -> SessionPaths:
    """Make the private directory of a new session."""
    root = folder / session_id
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_own(folder, "places.sessions")
        root.mkdir(mode=0o700)
    except OSError as error:
        raise storage_error(error, root) from error
    return SessionPaths(root)


def link(folder: Path, session_id: str, root: Path) -> None:
    """Make a session that lives elsewhere visible here."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_own(folder, "places.sessions")
        (folder / session_id).symlink_to(root)
    except OSError as error:
        raise storage_error(error, folder) from error


def entries(folder: Path) -> list[SessionPaths]:
    """Every session, the oldest first; entries whose directory is gone are taken away."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            path = Path(entry.path)
            if entry.is_symlink() and not path.exists():
                path.unlink(missing_ok=True)  # OOD or the user deleted the staged directory
            elif (path / "session.json").is_file():
                found.append(SessionPaths(path))
    return sorted(found, key=lambda paths: (paths.plan.stat().st_mtime, paths.root.name))


def find(folder: Path, wanted: str) -> SessionPaths:
    """The session called `wanted`: an id or the beginning of one, a job's id, or a directory.

    One that still lives is preferred to any number that have ended. Raises SessionError where none or several fit.
    """
    if "/" in wanted:
        paths = SessionPaths(Path(os.path.abspath(os.path.expanduser(wanted))))
        if os.path.isfile(paths.plan):
            require_own(paths.root, "places.sessions")
            return paths
    known = entries(folder)
    for fits in (
        [p for p in known if p.root.name == wanted],
        [p for p in known if read_job_id(p.job) == wanted],
        [p for p in known if wanted and p.root.name.startswith(wanted)],
    ):
        living = [p for p in fits if (status := Status.read(p.status)) is None or not status.final]
        if len(fits) == 1 or len(living) == 1:
            return (living or fits)[0]
        if fits:
            names = ", ".join(p.root.name for p in fits)
            raise SessionError(f'"{wanted}" may be any of {names}.', "Give more of the id.")
    jobs = [job for p in known if (job := read_job_id(p.job))]
    if batch := [job for job in jobs if (place := member_of(job)) and place[0] == wanted]:
        raise SessionError(
            f"Job {wanted} carries {len(batch)} sessions.", f"Choose one of: {', '.join(sorted(batch))}."
        )
    recent = ", ".join(p.root.name for p in known[-5:])
    raise SessionError(
        f'There is no session "{wanted[:80]}".',
        f"Your latest: {recent}." if recent else "You have none; start one with: launcher launch MODEL",
    )


def find_all(folder: Path, wanted: str) -> list[SessionPaths]:
    """The sessions that `wanted` names: all of a batch in their order for the id of its job, else the one of `find`."""
    places = [(member_of(read_job_id(paths.job)), paths) for paths in entries(folder)]
    found = [(place[1], paths) for place, paths in places if place is not None and place[0] == wanted]
    return [paths for _, paths in sorted(found, key=lambda pair: pair[0])] or [find(folder, wanted)]


def storage_error(error: OSError, path: Path) -> StorageError:
    """One sentence for a directory or file that cannot be written."""
    hints = {
        errno.ENOSPC: "Free some space, or set places.sessions to another folder.",
        errno.EDQUOT: "Your quota is used up; set places.sessions to another folder.",
    }
    hint = hints.get(error.errno or 0, "Check its permissions, or set places.sessions to another folder.")
    return StorageError(f"{error.filename or path} cannot be written: {error.strerror}.", hint)
