"""Removing what sessions that are over have left: their folders, or of Open OnDemand's only the entry in the list.

First all that would go is worked out; a session that may still run, or run again, is never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.api.filters import Filter, parse
from launcher.errors import RequestError, SchedulerError
from launcher.models.kinds import family
from launcher.schedulers import Scheduler
from launcher.sessions.clock import span_s
from launcher.sessions.job import WAITING, Job
from launcher.sessions.members import Members
from launcher.sessions.paths import SessionPaths
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from launcher.api.launcher import Launcher
    from launcher.api.session import Session

_SETTLED_S = 600.0  # after so long without a word, a session on a machine that cannot be asked is over
_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.removed")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which sessions are meant; what is None chooses none out. `job_id` and `before_job_id` are Slurm's numbers.

    `older_than` is a span since the end, such as 30d; `model_family` the name up to the size (`Qwen2.5`).
    """

    ids: Sequence[str] = ()
    model: str | None = None
    model_family: str | None = None
    name: str | None = None
    state: str | None = None
    job_id: str | None = None
    before_job_id: int | None = None
    older_than: str | None = None
    filters: str | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """One session that was meant: what goes, or why it stays.

    `entry_only`: its folder is Open OnDemand's and stays, only the entry in the launcher's list goes. `bytes` are what
    is freed. `kept` is a sentence where nothing of it goes; `removed` is true once it is gone.
    """

    id: str
    model: str
    state: str
    job_id: str | None
    ended_at: float | None
    path: Path
    bytes: int
    entry_only: bool = False
    kept: str | None = None
    removed: bool = False


def planned(launcher: Launcher, wanted: Choice) -> list[Removal]:
    """What `remove` would take away, the oldest first, and what of the wanted stays; touches nothing.

    Costs one question to each scheduler. Raises SessionError for an id that is not there, RequestError for a filter
    that cannot be.
    """
    chosen = _filter(wanted)
    older_s = None if wanted.older_than is None else span_s(wanted.older_than)
    # The id of a batch's job means all its members, who may be named once more by their own.
    named = {session.id: session for one in wanted.ids for session in launcher.members(one)}
    sessions = list(named.values()) or launcher.sessions()
    pairs = [
        (session, status)
        for session, status in zip(sessions, launcher.statuses(sessions), strict=True)
        if chosen.fits(session.plan, status) and _is_meant(session, status, wanted, older_s)
    ]
    alive = _alive([session for session, status in pairs if status.ended])
    folder = launcher.folder
    return [_removal(session, status, folder, alive, named=session.id in named) for session, status in pairs]


def remove(launcher: Launcher, wanted: Sequence[Removal], *, keep_record: bool = False) -> list[Removal]:
    """Remove what `planned` found, each looked at once more; what happened to each.

    With `keep_record` only logs and scripts go; the session stays in the list, with its record.
    """
    _sweep(launcher.folder)
    wanted = [
        one
        if one.kept is not None or os.path.lexists(one.path)
        else dataclasses.replace(one, kept="It is gone already.")
        for one in wanted
    ]
    ids = [one.id for one in wanted if one.kept is None]
    now = {one.id: one for one in planned(launcher, Choice(ids=ids))} if ids else {}
    done = [_removed(now[one.id], keep_record) if one.kept is None else one for one in wanted]
    for one in done:
        entry = launcher.folder / one.id
        if one.removed and not one.path.exists() and entry.is_symlink():
            entry.unlink(missing_ok=True)  # the folder had been asked for elsewhere
    return done


def _filter(wanted: Choice) -> Filter:
    words = {"model": wanted.model, "name": wanted.name, "state": wanted.state, "job": wanted.job_id}
    for key, value in words.items():
        if value is not None and "," in value:
            raise RequestError(f'"{value[:60]}" is more than one {key}.', f"Write --filter {key}=A,{key}=B.")
    # An empty word is a variable of a script that was not set, and would mean all of them.
    if any(value == "" for value in words.values()) or "" in wanted.ids or wanted.model_family == "":
        raise RequestError("An empty word chooses no session.", "Leave the option out to mean all.")
    own = parse(",".join(f"{key}={value}" for key, value in words.items() if value is not None))
    more = parse(wanted.filters)
    for key in own.wanted.keys() & more.wanted.keys():
        raise RequestError(f"{key} is given twice.", "Leave one of them out.")
    return Filter({**own.wanted, **more.wanted})


def _is_meant(session: Session, status: Status, wanted: Choice, older_s: float | None) -> bool:
    if wanted.model_family is not None:
        own = family(session.plan.model.id)[0]
        if not fnmatch.fnmatchcase(own.lower(), wanted.model_family.lower()):
            return False
    if wanted.before_job_id is not None:
        number = re.match(r"\d+(?=$|[_+.])", status.job_id or session.job_id or "")
        if number is None or int(number[0]) >= wanted.before_job_id:
            return False
    # Of one that has not ended there is no age: it is not old.
    return older_s is None or (status.ended and time.time() - status.since > older_s)


def _alive(sessions: Sequence[Session]) -> dict[str, str]:
    """Why the job of a session may not be over, by the session's id."""
    asked: dict[Scheduler, list[Session]] = {}
    for session in sessions:
        if session.job_id is not None:
            asked.setdefault(session.scheduler, []).append(session)
    found: dict[str, str] = {}
    for where, several in asked.items():
        ids = [session.job_id or "" for session in several]
        try:
            jobs = where.jobs(ids)
        except SchedulerError as error:
            found.update((session.id, f"Its job may not be over: {error.message}") for session in several)
            continue
        for session, job_id in zip(several, ids, strict=True):
            if _lives(session, jobs.get(job_id)):
                found[session.id] = "Its job is still ending."
    return found


def _lives(session: Session, job: Job | None) -> bool:
    if job is None or job.state not in (WAITING, "running"):
        return False
    # Of a process on another machine nothing is known but what the session itself said.
    own = Status.read(session.paths.status)
    silent = own is not None and own.final and time.time() - own.updated_at > _SETTLED_S
    return not (session.plan.cluster.scheduler == "local" and silent)


def _removal(
    session: Session, status: Status, folder: Path, alive: dict[str, str], *, named: bool
) -> Removal:
    root, plan = session.paths.root, session.plan
    entry = folder / session.id
    linked = entry.is_symlink()
    entry_only = linked and plan.door == "ondemand"
    if linked and not entry_only:  # its user named another folder for it
        root = Path(os.path.realpath(root))
        folder = Path(plan.places.sessions)
    kept = None
    if not status.ended:
        kept = f"It is {status.state}. Stop it first: launcher stop {session.id}"
    elif not status.final:
        kept = "It may run again."
    elif (why := alive.get(session.id)) is not None:
        kept = why
    elif _batch_goes_on(session):
        kept = "Others of its batch are not over, and their job may need its files."
    elif not (named or entry_only) and (unread := _unfetched(session)):
        files = (
            "A file of answers of its batches was" if unread == 1 else f"{unread} files of its batches were"
        )
        kept = f"{files} never fetched: {session.paths.batches}. To remove them too, name the session."
    elif not entry_only and (root.is_symlink() or root.name != session.id or not _is_in(root, folder)):
        kept = f"{root} is not in {folder}, so it is not the launcher's to remove."
    return Removal(
        session.id,
        plan.model.id,
        status.state,
        status.job_id,
        status.since if status.ended else None,
        entry if entry_only else root,
        0 if entry_only else sum(size for _, size in _files(root)),
        entry_only,
        kept,
    )


def _batch_goes_on(session: Session) -> bool:
    batch = Members.read(session.paths.members)
    others = [SessionPaths(Path(root)) for root in batch.roots] if batch is not None else []
    return any(
        other.plan.exists() and not ((own := Status.read(other.status)) is not None and own.final)
        for other in others
        if other.root.name != session.id
    )


def _unfetched(session: Session) -> int:
    from launcher.batch.files import Bounds, Files

    folder = session.paths.batches / "files"
    return Files(folder, Bounds()).unfetched() if folder.is_dir() else 0


def _is_in(root: Path, folder: Path) -> bool:
    return os.path.realpath(root.parent) == os.path.realpath(folder)


def _removed(one: Removal, keep_record: bool) -> Removal:
    if one.kept is not None:
        return one
    try:
        if keep_record:
            freed = 0 if one.entry_only else _without_logs(one.path)
            return dataclasses.replace(one, bytes=freed, removed=freed > 0)
        if one.entry_only:
            one.path.unlink()
        else:
            # In one step, so that nobody finds half of it.
            aside = one.path.with_name(f".{one.path.name}.{secrets.token_hex(4)}.removed")
            one.path.rename(aside)
            SessionPaths(aside).plan.unlink()
            shutil.rmtree(aside)
    except OSError as error:
        where = error.filename or one.path
        return dataclasses.replace(one, kept=f"{where} cannot be removed: {error.strerror}.")
    return dataclasses.replace(one, removed=True)


def _without_logs(root: Path) -> int:
    paths = SessionPaths(root)
    # `preliminary` is the only record of a session that was killed.
    kept = {paths.plan, paths.status, paths.record, paths.preliminary, paths.job}
    freed = 0
    for path, size in list(_files(root)):
        if path not in kept:
            path.unlink(missing_ok=True)
            freed += size
    return freed


def _files(root: Path) -> list[tuple[Path, int]]:
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                status = path.lstat()
                found.append((path, status.st_size if stat.S_ISREG(status.st_mode) else 0))
    return found


def _sweep(folder: Path) -> None:
    """Take away what an earlier removal that was broken off has left."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if _ASIDE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
