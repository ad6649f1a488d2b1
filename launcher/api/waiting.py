"""Waiting for sessions, until they are ready or over, as steps that do not pause themselves.

A step is a changed status, or None: pause for `PAUSE_S`. So the same code serves those who may block (`run`) and an
event loop (`launcher.api.asynchronous`), and whoever waits can give up between two steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Container, Generator, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from launcher.errors import EngineError, SchedulerError, SessionError
from launcher.sessions.connection import Connection
from launcher.sessions.job import member_of
from launcher.sessions.state import ended
from launcher.sessions.status import FAILED, PENDING, READY, Status, ask_end

if TYPE_CHECKING:
    from launcher.api.session import Session

PAUSE_S = 0.2
_STOP_TIMEOUT_S = 90.0
# Who has waited for hours in the queue can wait a little more: it would be 1800 questions an hour.
_OF_THE_QUEUE = 0.05
_ASK_MOST_S = 30.0
_UNREACHABLE_S = 300.0  # a controller that restarts is no reason to give up hours of waiting

T = TypeVar("T")
Step: TypeAlias = "tuple[Session, Status] | None"
Steps: TypeAlias = Generator[Step, None, T]


def run(steps: Steps[T], tell: Callable[[Session, Status], object] | None = None) -> T:
    """Take the steps one after the other and return their result; `tell` is called with each changed status."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if step is None:
            time.sleep(PAUSE_S)
        elif tell is not None:
            tell(*step)


def until_ready(sessions: Sequence[Session], timeout_s: float | None) -> Steps[list[Connection]]:
    """Until all are ready: their connections, in the same order.

    The time in the queue does not count towards `timeout_s`, before the first start nor after a preemption. Raises
    EngineError with the reason when one fails instead, SessionError when one was stopped or took too long.
    """
    ready: dict[str, Connection] = {}
    told: dict[str, tuple[object, ...]] = {}
    running_since: dict[str, float] = {}
    steps = watch(sessions, ready)
    while len(ready) < len({session.id for session in sessions}):
        step = next(steps)
        if step is None:
            yield None
            continue
        session, status = step
        now = (status.state, status.phase, status.message)
        if told.get(session.id) != now:
            told[session.id] = now
            yield step
        if status.state == FAILED:
            raise EngineError(status.message, status.hint, status.reason, quote=status.quote, log=status.log)
        if status.ended:
            raise SessionError(f"Session {session.id} is over. {status.message}", status.hint, status.reason)
        if status.state == READY and (connection := session.connection) is not None:
            ready[session.id] = connection
        elif status.state == PENDING:
            running_since.pop(session.id, None)
        elif timeout_s is not None:
            since = running_since.setdefault(session.id, time.monotonic())
            if time.monotonic() - since > timeout_s:
                raise SessionError(
                    f"Session {session.id} is not ready after {timeout_s:g} s.", "Wait again, or stop it."
                )
    return [ready[session.id] for session in sessions]


def until_over(
    session: Session, *, wait: bool, reason: str = "user", words: str | None = None
) -> Steps[Status]:
    """End the session; without `wait` its end is only asked for. Returns the status reached."""
    status = session.status()
    if status.ended:
        return status
    job_id = status.job_id or session.job_id
    if job_id is None:
        raise SessionError(f"Session {session.id} has no job yet.", "Cancel it where it was started.")
    ask_end(session.paths.stop, reason, words)
    try:
        session.scheduler.cancel(job_id)
    except SchedulerError:
        session.paths.stop.unlink(missing_ok=True)  # or a later end would be put down to us
        raise
    if status.state == PENDING:  # no job ran that could say it
        over = ended(session.plan, None, reason, job_id)
        session.keep(dataclasses.replace(over, message=words or over.message))
        if member_of(job_id) is not None:
            from launcher.api.batch_launch import leave_queue

            leave_queue(session, job_id)
    if not wait:
        return session.status()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    steps = watch([session])
    while True:
        step = next(steps)
        if step is None:
            yield None
            continue
        if step[1].final and not session.job_lives(job_id):
            return step[1]
        if time.monotonic() > deadline:
            raise SessionError(f"Job {job_id} has not ended yet.", "Look again in a minute.")


def watch(sessions: Sequence[Session], done: Container[str] = ()) -> Steps[None]:
    """The status of each session again and again, but not of those whose id is in `done`; it does not end.

    The files are looked at often, a scheduler that costs something every two seconds, with one call for all sessions;
    more seldom the longer all of them have been in the queue.
    """
    from launcher.api.session import statuses

    least_s = pause_s = max((session.scheduler.POLL_S for session in sessions), default=0.0)
    asked = answered = queued = time.monotonic() - pause_s
    running: set[str] = set()
    while True:
        now = time.monotonic()
        left = [session for session in sessions if session.id not in done]
        if now - asked >= pause_s:
            asked = now
            try:
                found = statuses(left)
            except SchedulerError:
                if now - answered > _UNREACHABLE_S:
                    raise
            else:
                answered = now
                for session, status in zip(left, found, strict=True):
                    (running.discard if status.state == PENDING else running.add)(session.id)
                    yield session, status
                if any(session.id in running for session in left):
                    queued = now
                pause_s = max(least_s, min((now - queued) * _OF_THE_QUEUE, _ASK_MOST_S))
        else:
            for session in left:
                if session.id in running:  # an older file may still tell of the job's former life
                    own = Status.read(session.paths.status)
                    if own is not None and own.job_id == session.job_id and not own.ended:
                        yield session, own
        yield None
