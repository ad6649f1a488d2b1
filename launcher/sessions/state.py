"""One truth from two witnesses: what the scheduler says of the job and what the session says of itself.

The session's own word is better where it had time to speak; the scheduler's is better where it had not.
"""

from __future__ import annotations

import dataclasses
import time

from launcher.sessions.job import RUNNING, WAITING, Job
from launcher.sessions.plan import Plan
from launcher.sessions.status import ENDINGS, LAUNCHING, PENDING, UNHEALTHY, Status

_SUBMITTED_S = 600.0  # so long after planning, OOD has submitted its job or never will
_SILENT_S = 180.0  # the session writes every ten seconds; a network file system may show it a minute late
_WAITS = {
    "None": "it was just submitted",
    "PartitionConfig": "the partition has no room for such a request; it may never start",
    "Priority": "other jobs are ahead",
    "Resources": "waiting for free nodes",
    "QOSMaxJobsPerUserLimit": "you run as many jobs as you may",
    "AssocMaxJobsLimit": "you run as many jobs as you may",
    "AssocGrpJobsLimit": "your account runs as many jobs as it may",
    "AssocGrpGRES": "your account uses all the GPUs it may",
    "QOSGrpGRES": "everybody's jobs of this QoS together use all the GPUs they may",
    "QOSMaxGRESPerUser": "you use all the GPUs you may",
    "AssocGrpCPUMinutesLimit": "your account has used up its hours; it may never start",
    "AssocGrpGRESMinutes": "your account has used up its GPU hours; it may never start",
    "AssocGrpBillingMinutes": "your account has used up its allocation; it may never start",
    "AssocMaxWallDurationPerJobLimit": "your account may not ask for so many hours; it will never start",
    "QOSMaxWallDurationPerJobLimit": "the QoS does not allow so many hours; it will never start",
    "InvalidAccount": "the account does not exist or is not yours; it will never start",
    "InvalidQOS": "the QoS does not exist or is not for you; it will never start",
    "BadConstraints": "no node has what was asked for; it will never start",
    "NodeDown": "a node that it needs is down",
    "Licenses": "waiting for a licence",
    "Reservation": "waiting for its reservation to begin",
    "Dependency": "waiting for another job to end",
    "DependencyNeverSatisfied": "the job that it waits for did not end as asked; it will never start",
    "JobHeldUser": "you hold it back; scontrol release JOB lets it go",
    "JobHeldAdmin": "an administrator holds it back",
    "JobLaunchFailure": "its node could not start it; ask the site",
    "PartitionDown": "the partition is closed just now",
    "PartitionInactive": "the partition is closed just now",
    "ReqNodeNotAvail": "the nodes that it needs are down, reserved, or kept for jobs that are ahead",
    "PartitionTimeLimit": "the partition does not allow so many hours",
    "BeginTime": "the cluster starts it again after a short pause",
}
# What Slurm's scheduler writes in place of a reason's name, up to its comma: DOWN, DRAINED or reserved for jobs in
# higher priority partitions.
_DESCRIBED = {"Nodes required for job are DOWN": "ReqNodeNotAvail"}


def current(
    plan: Plan, own: Status | None, job: Job | None, job_id: str | None, *, asked: str | None = None
) -> Status:
    """The session's status now.

    `own` is the content of status.json, `job` the scheduler's word (None: it does not know the job), `job_id` the
    id known to the session, `asked` the reason for which its end was asked for.
    """
    spoke = own is not None and own.ended
    if job is None:
        if job_id is None:
            if time.time() - plan.created_at > _SUBMITTED_S:
                return ended(plan, own, "never-started", None)
            return _status(plan, PENDING, "The job was not submitted yet.", None)
        return ended(plan, own, own.reason if own is not None and spoke else asked or "lost", job_id)
    if job.state == WAITING:
        reason = (job.reason or "waiting").partition(",")[0]  # "ReqNodeNotAvail, UnavailableNodes:g1"
        reason = _DESCRIBED.get(reason, reason)
        words = _WAITS.get(reason, f"Slurm says {reason}")
        return _status(plan, PENDING, f"The job waits in the queue: {words}.", job.id, reason=reason.lower())
    # A requeued job keeps its id: what was written before this life began is not of it.
    mine = own is not None and own.job_id == job.id and own.updated_at >= (job.started_at or 0.0) - 1.0
    if job.state == RUNNING:
        if own is not None and mine and (not spoke or own.final):
            silent_s = time.time() - own.updated_at
            if not spoke and silent_s > _SILENT_S:
                message = f"The session has not been heard of for {silent_s:.0f} s."
                return dataclasses.replace(own, state=UNHEALTHY, reason="no-beat", message=message)
            return own
        if own is not None and mine and job.reason == "ending":
            return dataclasses.replace(
                own, state=UNHEALTHY, reason="ending", message="The session is ending."
            )
        return _status(plan, LAUNCHING, "The job has started.", job.id, host=job.node, ends_at=job.ends_at)
    if own is not None and mine and own.final:
        return own
    if asked is not None and job.reason in (None, "cancelled"):
        return ended(plan, own, asked, job.id)
    return ended(
        plan, own, job.reason or (own.reason if own is not None and spoke and mine else "job-exit"), job.id
    )


def unknown(plan: Plan, job_id: str | None) -> Status:
    """Of a session that has said nothing yet, while its scheduler does not answer."""
    return _status(plan, PENDING, "Slurm does not answer just now.", job_id, reason="unknown")


def ended(plan: Plan, own: Status | None, reason: str | None, job_id: str | None) -> Status:
    """The last status of a session that ended for `reason` without saying so itself."""
    state, message, hint = ENDINGS.get(reason or "lost", ENDINGS["lost"])
    if own is not None and own.ended and own.reason == reason:
        return dataclasses.replace(own, final=True)
    base = own or _status(plan, state, message, job_id)
    return dataclasses.replace(
        base,
        state=state,
        reason=reason,
        message=message,
        hint=hint,
        form_hint=None,
        quote=None,
        job_id=job_id,
        since=time.time(),
        updated_at=time.time(),
        phase=None,
        coming=(),
        idle=None,
        ends_soon=False,
        final=True,
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
