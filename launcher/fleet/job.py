"""The gateway as a small job of its own: its script, its submission, and which job carries it now.

Shortly before its time limit such a job submits the next one; the state and the port are the same for both, the host
may be another.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from launcher.api.launcher import Launcher
from launcher.errors import RequestError, SchedulerError
from launcher.fleet.places import own_folder, state_folder
from launcher.schedulers import Scheduler, scheduler
from launcher.schedulers.script import option_line
from launcher.schedulers.slurm import WARNING_S, hardware, own_job_id
from launcher.sessions.job import RUNNING, WAITING, Job
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import write_private

_SCRIPT = """\
#!/bin/bash
{options}
# The endpoint of Inference OnDemand as a job. Submitting this by hand works; `launcher gateway submit` wrote it.
set -u
ended='' gateway=''
next() {{ until {launcher} gateway submit --again; do sleep 20; done; }}
trap 'next &' USR1
trap 'ended=yes; kill -TERM "$gateway" 2>/dev/null' TERM
while [ -z "$ended" ]; do
  {launcher} gateway run --host 0.0.0.0 &
  gateway=$! code=0
  while kill -0 "$gateway" 2>/dev/null; do
    wait "$gateway"
    code=$?
  done
  # Begun again where it was killed, or could not reach its state; not where what it was told is wrong.
  case "$ended$code" in yes* | 0 | 2 | 3) exit "$code" ;; esac
  echo "launcher: the gateway ended with code $code and is started again" >&2
  [ "$code" -gt 128 ] || sleep 20
  sleep 1
done
"""


def script_of(launcher: str, lines: Sequence[str]) -> str:
    """What the job runs: the gateway by the program `launcher`, and the next submission; `lines` are for Slurm."""
    return _SCRIPT.format(options="\n".join(lines), launcher=shlex.quote(launcher))


class GatewayJob:
    """The job of this user's gateway, as the files in the endpoint's folder tell."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.folder = state_folder(launcher.settings)
        self.script, self._jobs = self.folder / "gateway.sh", self.folder / "gateway.json"

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
        """Submit the script that is there once more; the job's id. Within such a job: unless its next one waits."""
        if not self.script.exists():
            raise RequestError("No gateway was submitted yet.", "Start one: launcher gateway submit")
        require_own(self.folder, "places.sessions")
        living = self._living()
        own = own_job_id()
        if own in [job.id for job in living] and living[0].id != own:
            return living[0].id  # the word of the last try was lost, or this job ran before and was requeued
        job_id = self._scheduler().submit(self.script)
        known = [job_id, *(job.id for job in living)]
        write_private(self._jobs, json.dumps({"schema": 1, "jobs": known}) + "\n")
        return job_id

    def job(self) -> Job | None:
        """The job that carries it, or else the one that waits to do so."""
        living = self._living()
        return next((job for job in living if job.state != WAITING), living[-1] if living else None)

    def stop(self) -> str | None:
        """End the job and the one after it; the id of the first, None where there is none."""
        job = self.job()
        for one in self._living():  # the last one first, or it would begin
            self._scheduler().cancel(one.id)
        return job.id if job is not None else None

    def _living(self) -> list[Job]:
        """Those that wait or run, the latest first: the one that carries the gateway, and its next one."""
        try:
            known = json.loads(self._jobs.read_text(encoding="utf-8"))["jobs"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        found = self._scheduler().jobs(known)
        return [found[one] for one in known if one in found and found[one].state in (WAITING, RUNNING)]

    def _scheduler(self) -> Scheduler:
        try:
            name = (self.folder / "gateway.cluster").read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SchedulerError("It is not known where the gateway's job is.", "Submit it again.") from error
        clusters = self._launcher.settings.clusters
        if name not in clusters:
            raise SchedulerError(f'The gateway\'s job is on cluster "{name[:60]}", which is gone.')
        return scheduler(clusters[name].scheduler, clusters[name].ssh)
