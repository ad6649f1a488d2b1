"""The gateway as a small job of its own: its script, its submission, and which job carries it now.

Shortly before its time limit such a job submits the next one; the state and the port are the same for both, the host
may be another.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from launcher.api.launcher import Launcher
from launcher.errors import RequestError, SchedulerError
from launcher.fleet.places import own_folder, state_folder
from launcher.schedulers import Scheduler, scheduler
from launcher.schedulers.script import option_line
from launcher.schedulers.slurm import WARNING_S, hardware
from launcher.sessions.job import WAITING, Job, read_job_id, write_job_id
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import write_private

_SCRIPT = """\
#!/bin/bash
{options}
# The endpoint of Inference OnDemand as a job. Submitting this by hand works; `launcher gateway submit` wrote it.
set -u
next() {{ until {launcher} gateway submit --again; do sleep 20; done; }}
trap 'next &' USR1
{launcher} gateway run --host 0.0.0.0 &
gateway=$!
trap 'kill -TERM "$gateway"' TERM
while kill -0 "$gateway" 2>/dev/null; do
  wait "$gateway"
done
"""


def script_of(launcher: str, lines: Sequence[str]) -> str:
    """What the job runs: the gateway by the program `launcher`, and the next submission; `lines` are for Slurm."""
    return _SCRIPT.format(options="\n".join(lines), launcher=shlex.quote(launcher))


class Carried:
    """The job of this user's gateway, as the files in the endpoint's folder tell."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.folder = state_folder(launcher.settings)
        self.script, self._job = self.folder / "gateway.sh", self.folder / "gateway.json"

    def submit(self, wanted: dict[str, Any]) -> str:
        """Write the script and submit it; the job's id. `wanted` are fields of a request for hardware."""
        if (job := self.job()) is not None:
            raise RequestError(
                f"Job {job.id} carries your gateway already.", "End it first: launcher gateway stop"
            )
        plan = self._launcher.plan("simulated", **{**wanted, "page": False})
        where = plan.cluster
        if where.scheduler != "slurm" or self._launcher.settings.clusters[where.name].remote:
            raise RequestError(
                f'Profile "{plan.resources.profile}" is not of a Slurm cluster that can be reached from here.',
                "Choose another with --profile, or run it here: launcher gateway run",
            )
        options = [*hardware(plan.resources, plan.limits.hours), *plan.resources.sbatch_args]
        options += ["--job-name=launcher-gateway", f"--signal=B:USR1@{WARNING_S}", "--requeue"]
        # The next one waits for the end of this one: on the same node both would want the same port.
        options += ["--dependency=singleton"]
        lines = [f"#SBATCH {option_line(option)}" for option in options]
        log = str(self.folder / "gateway.log").replace("%", "%%")
        lines += [f"#SBATCH {option_line(f'--output={log}')}", "#SBATCH --open-mode=append"]
        own_folder(self._launcher.settings)
        write_private(self.script, script_of(plan.launcher, lines))
        self.script.chmod(0o700)
        write_private(self.folder / "gateway.cluster", where.name + "\n")
        return self.again()

    def again(self) -> str:
        """Submit the script that is there once more; the job's id."""
        if not self.script.exists():
            raise RequestError("No gateway was submitted yet.", "Start one: launcher gateway submit")
        require_own(self.folder, "places.sessions")
        job_id = self._scheduler().submit(self.script)
        write_job_id(self._job, job_id)
        return job_id

    def job(self) -> Job | None:
        """The job that carries it, while that waits or runs."""
        job_id = read_job_id(self._job)
        if job_id is None:
            return None
        found = self._scheduler().jobs([job_id]).get(job_id)
        return found if found is not None and found.state in (WAITING, "running") else None

    def stop(self) -> str | None:
        """End the job; its id, None where there is none."""
        job = self.job()
        if job is None:
            return None
        self._scheduler().cancel(job.id)
        return job.id

    def _scheduler(self) -> Scheduler:
        try:
            name = (self.folder / "gateway.cluster").read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SchedulerError("It is not known where the gateway's job is.", "Submit it again.") from error
        clusters = self._launcher.settings.clusters
        if name not in clusters:
            raise SchedulerError(f'The gateway\'s job is on cluster "{name[:60]}", which is gone.')
        return scheduler(clusters[name].scheduler, clusters[name].ssh)
