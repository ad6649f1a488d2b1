"""Slurm, through its own programs: sbatch, squeue, scancel, and sacct or scontrol for what squeue has forgotten."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from launcher.errors import SchedulerError
from launcher.schedulers.command import EPOCH, run
from launcher.sessions.job import OVER, RUNNING, WAITING, Job, member_of
from launcher.sessions.plan import Plan, Resources

COMMENT = "launcher:"
WARNING_S = 120  # USR1 comes so long before the end, up to a minute earlier still (Slurm's own resolution)
_JOB_ID = re.compile(r"\d+([_+.]\d+)?")
_FORMAT = "%i|%T|%r|%S|%e|%N|%k"  # the comment last: it alone may hold a bar
_WAITING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"}
# What scancel says of a job that is over, and of one component, or of the script, of a job that waits. 229 is the same
# as "already completing or completed", without words, once any component of a running batch is over.
_OVER = ("Invalid job id", "already completing or completed")
_MEMBER = (*_OVER, "exit code 229", "individual component of heterogeneous job", "can not be altered now")
# https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
_ENDS = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "time-limit",
    "NODE_FAIL": "node-fail",
    "OUT_OF_MEMORY": "out-of-memory",
    "PREEMPTED": "preempted",
    "DEADLINE": "deadline",
    "BOOT_FAIL": "boot-fail",
    "REVOKED": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Slurm:
    """One Slurm: this machine's, or that of the host `ssh`, which must see the sessions' folder under the same path."""

    ssh: str | None = None
    POLL_S: ClassVar[float] = 2.0

    def options(self, plan: Plan) -> list[str]:
        """The sbatch options of `plan`; every value was checked to be one plain word when it was planned."""
        return options(plan)

    def submit(self, script: Path) -> str:
        """Give `script` to sbatch; the job's id."""
        return run(["sbatch", "--parsable", str(script)], ssh=self.ssh).strip().partition(";")[0]

    def expected_start(self, wanted: Sequence[str], *, timeout_s: float = 15) -> float | None:
        """When a job with these options would start, by `sbatch --test-only`; None where Slurm does not say.

        Submits nothing. Raises SchedulerError with Slurm's words when it would refuse the job.
        """
        argv = ["sbatch", "--test-only", *wanted, "--wrap=true"]
        try:
            said = run(argv, ssh=self.ssh, env=EPOCH, errors_too=True, timeout_s=timeout_s)
        except SchedulerError as error:
            _, refused, words = error.message.rpartition("allocation failure: ")
            if not refused:
                raise
            raise SchedulerError(f"Slurm refuses it: {words.strip(' .')}.") from error
        found = re.search(r"to start at (\d{9,11})\b", said)
        return float(found[1]) if found else None

    def jobs(self, job_ids: list[str]) -> dict[str, Job]:
        """All my jobs that squeue knows, those that ended minutes ago too: one call for any number of sessions."""
        argv = ["squeue", "--me", "--noheader", "--states=all", f"--format={_FORMAT}"]
        lines = run(argv, ssh=self.ssh, env=EPOCH).splitlines()
        return {job.id: job for job in map(_job, lines) if job is not None}

    def outcome(self, job_id: str) -> Job | None:
        """What sacct, or failing that scontrol, remembers of the job."""
        if not _JOB_ID.fullmatch(job_id):
            return None
        argv = ["sacct", "--jobs", job_id, "--allocations", "--noheader", "--parsable2", "--format=State"]
        try:
            text = run(argv, ssh=self.ssh)
            state = text.split()[0] if text.strip() else ""
        except SchedulerError:  # "Slurm accounting storage is disabled"
            state = self._shown(job_id).get("JobState", "")
        state = state.rstrip("+")
        if not state:
            return None
        kind = WAITING if state in _WAITING else RUNNING if state in _RUNNING else OVER
        return Job(job_id, kind, _ENDS.get(state))

    def cancel(self, job_id: str) -> None:
        """scancel, which is content with a job that is over.

        A batch that waits cannot lose a single member: its script looks for those that shall not start (`stop.json`).
        """
        if not _JOB_ID.fullmatch(job_id):
            raise SchedulerError(f"{job_id[:40]!r} is no job of Slurm.")
        argv, place = ["scancel", job_id], member_of(job_id)
        if place is not None and place[1] == 0:
            # There runs the batch's script, whose end would be that of all. For one that waits, scancel would try again
            # for a minute.
            argv[1:1] = ["--state=RUNNING", "--batch", "--signal=HUP"]
        harmless = _OVER if place is None else _MEMBER
        try:
            run(argv, ssh=self.ssh)
        except SchedulerError as error:
            if not any(words in error.message for words in harmless):
                raise

    def why_ending(self, job_id: str) -> str | None:
        """The reason as the controller knows it while the job is being ended."""
        shown = self._shown(job_id)
        if shown.get("PreemptTime", "None") not in ("None", "Unknown", ""):
            return "preempted"
        if shown.get("Reason") == "TimeLimit":  # the state is only COMPLETING by then
            return "time-limit"
        return _ENDS.get(shown.get("JobState", ""))

    def ends_at(self, plan: Plan, job_id: str, started_at: float) -> float:
        """The end that Slurm has set, which an admin may have moved; the planned one where Slurm does not answer.

        The first component of a batch lasts as long as the longest, its session as long as was planned.
        """
        end, planned = _time(self._shown(job_id).get("EndTime", "")), started_at + plan.limits.hours * 3600
        if end is None or (member_of(job_id) or ("", 1))[1] == 0:
            return min(end or planned, planned)
        return end

    def _shown(self, job_id: str) -> dict[str, str]:
        try:
            argv = ["scontrol", "--oneliner", "show", "job", job_id]
            text = run(argv, ssh=self.ssh, env=EPOCH, timeout_s=10)
        except SchedulerError:
            return {}
        return dict(re.findall(r"\b(\w+)=(\S*)", text))


def here(ssh: str | None = None) -> Slurm:
    """The Slurm that answers here, or on the host `ssh`."""
    return Slurm(ssh)


def options(plan: Plan) -> list[str]:
    """The sbatch options of `plan`; every value was checked to be one plain word when it was planned."""
    asked = hardware(plan.resources, plan.limits.hours)
    return [*asked, f"--comment={COMMENT}{plan.id}", *plan.resources.sbatch_args]


def hardware(wanted: Resources, hours: float) -> list[str]:
    """The sbatch options that say what a job needs and for how long, without the site's own `sbatch_args`."""
    minutes = max(1, round(hours * 60))
    gres = f"gpu:{wanted.gpu_type}:{wanted.gpus}" if wanted.gpu_type else f"gpu:{wanted.gpus}"
    named = {
        "partition": wanted.partition,
        "account": wanted.account,
        "qos": wanted.qos,
        "constraint": wanted.constraint,
        "reservation": wanted.reservation,
        "exclude": wanted.exclude,
        "nodelist": wanted.nodelist,
        "nodes": wanted.nodes,
        "cpus-per-task": wanted.cpus,
        "mem": f"{max(1, round(wanted.memory_gb * 1024))}M" if wanted.memory_gb is not None else None,
        "gres": gres if wanted.gpus else None,
        "time": f"{minutes // 60}:{minutes % 60:02d}:00",
    }
    return [f"--{name}={value}" for name, value in named.items() if value is not None]


def own_job_id() -> str | None:
    """The id of the job this process runs in."""
    return os.environ.get("SLURM_JOB_ID")


def _job(line: str) -> Job | None:
    fields = line.split("|", 6)
    if len(fields) != 7:
        return None
    job_id, state, reason, start, end, node, comment = fields
    session = comment.removeprefix(COMMENT) if comment.startswith(COMMENT) else None
    if state in _WAITING:
        return Job(job_id, WAITING, reason, session=session)
    if state in _RUNNING:
        ending = "ending" if state == "COMPLETING" else None
        return Job(job_id, RUNNING, ending, node or None, _time(end), session, _time(start))
    return Job(job_id, OVER, _ENDS.get(state), node or None, _time(end), session)


def _time(text: str) -> float | None:
    if text.isdigit():
        return float(text)
    from datetime import datetime

    try:  # where Slurm did not know EPOCH
        return time.mktime(datetime.fromisoformat(text).timetuple())
    except (ValueError, OverflowError):
        return None
