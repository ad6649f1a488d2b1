"""One truth from two witnesses: what the scheduler says of the job and what the session says of itself.

The session's own word is better where it had time to speak; the scheduler's is better where it had not.
"""

from __future__ import annotations

import dataclasses
import time

from launcher.sessions.job import OVER, RUNNING, WAITING, Job
from launcher.sessions.plan import Plan
from launcher.sessions.status import ENDINGS, LAUNCHING, PENDING, Status

_WAITS = {
    "Priority": "other jobs are ahead",
    "Resources": "waiting for free nodes",
    "QOSMaxJobsPerUserLimit": "you run as many jobs as you may",
    "AssocGrpGRES": "your account uses all the GPUs it may",
    "ReqNodeNotAvail": "the nodes asked for are not available now",
    "PartitionTimeLimit": "the partition does not allow so many hours",
    "BeginTime": "the cluster starts it again after a short pause",
}


def current(plan: Plan, own: Status | None, job: Job | None, job_id: str | None) -> Status:
    """The session's status now.

    `own` is the content of status.json, `job` the scheduler's word (None: it does not know the job), `job_id` the
    id known to the session.
    """
    if job is None:
        if own is not None and own.ended:
            return own
        if job_id is None:
            return _status(plan, PENDING, "The job was not submitted yet.", None)
        return ended(plan, own, "lost", job_id)
    if job.state == WAITING:
        reason = job.reason or "waiting"
        words = _WAITS.get(reason, f"Slurm says {reason}")
        return _status(plan, PENDING, f"The job waits in the queue: {words}.", job.id, reason=reason.lower())
    if job.state == RUNNING:
        if own is None or own.job_id != job.id or (own.ended and job.reason != "ending"):
            return _status(
                plan, LAUNCHING, "The job has started.", job.id, host=job.node, ends_at=job.ends_at
            )
        return own
    assert job.state == OVER
    if own is not None and own.ended and own.job_id == job.id:
        # "cancelled" is what a session says that was ended from outside without being told why.
        if own.reason != "cancelled" or job.reason in (None, "user"):
            return own
    return ended(plan, own, job.reason or "job-exit", job.id)


def ended(plan: Plan, own: Status | None, reason: str, job_id: str | None) -> Status:
    """The last status of a session that ended for `reason` without saying so itself."""
    state, message, hint = ENDINGS.get(reason, ENDINGS["lost"])
    base = own or _status(plan, state, message, job_id)
    return dataclasses.replace(
        base,
        state=state,
        reason=reason,
        message=message,
        hint=hint,
        job_id=job_id,
        since=time.time(),
        updated_at=time.time(),
        phase=None,
        idle=None,
        ends_soon=False,
    )


def _status(
    plan: Plan,
    state: str,
    message: str,
    job_id: str | None,
    *,
    reason: str | None = None,
    host: str | None = None,
    ends_at: float | None = None,
) -> Status:
    return Status(
        plan.id, state, plan.created_at, message, reason=reason, job_id=job_id, host=host, ends_at=ends_at
    )
