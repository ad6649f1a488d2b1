"""A real Slurm for the tests: munge, controller and three nodes with fake GPUs, in one private folder.

Owns the configuration and the life of the daemons; accounts are in people.py, the accounting database in
accounting.py. Three nodes of this one machine: c1 (8 CPUs), g1 and g2 (8 CPUs and four `a100` GPUs each).
Partitions: `cpu` (default, c1), `gpu` (g1, g2), `preempt` and `scavenge` (all nodes; when another partition
needs the room, jobs of the one are requeued, of the other cancelled), `urgent` (all nodes, before all others).
Time limit 1 h.

    with Cluster() as slurm:                        # or the fixtures `slurm` and `slurm_accounting`
        job = slurm.submit(alice, "sleep 60", "-p", "gpu", "--gpus=1")
        slurm.wait_for(job, "RUNNING")              # the states of `scontrol show job`
        slurm.run_as(alice, ["squeue", "--json"])   # any program, with SLURM_CONF set
        slurm.end_time_limit(job)                   # its real time limit falls due now
        slurm.forget_finished_jobs()                # squeue and scontrol no longer know them
        print(slurm.diagnostics())

Without root all is one user's (`people.two` is False). `Cluster(accounting=True)` has `sacct`; else it fails.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from tests.programs.front import wait_until
from tests.slurm import people
from tests.slurm.accounting import start_database, start_slurmdbd
from tests.slurm.people import Person
from tests.slurm.processes import Processes, connects, free_ports, processes_with

NODES = ("c1", "g1", "g2")
# A GPU is only handed out, and put in CUDA_VISIBLE_DEVICES, when its file is a device node; any will do.
_GPU_FILES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")

_SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,requeue_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
DefMemPerCPU=100
KillWait=10
MinJobAge=300
OverTimeLimit=0
ReturnToService=2
MailProg=/bin/true
MpiDefault=none
PropagateResourceLimits=NONE
{accounting}
NodeName=c1 NodeHostname={host} NodeAddr=127.0.0.1 Port={c1_port} CPUs=8 RealMemory=20000
NodeName=g1 NodeHostname={host} NodeAddr=127.0.0.1 Port={g1_port} CPUs=8 RealMemory=20000 Gres=gpu:a100:4
NodeName=g2 NodeHostname={host} NodeAddr=127.0.0.1 Port={g2_port} CPUs=8 RealMemory=20000 Gres=gpu:a100:4
PartitionName=cpu Nodes=c1 Default=YES MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=gpu Nodes=g[1-2] MaxTime=60 DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=preempt Nodes=c1,g[1-2] MaxTime=60 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=2
PartitionName=scavenge Nodes=c1,g[1-2] MaxTime=60 DefaultTime=10 PriorityTier=1 PreemptMode=CANCEL GraceTime=2
PartitionName=urgent Nodes=c1,g[1-2] MaxTime=60 DefaultTime=10 PriorityTier=20 PreemptMode=OFF
"""


class Cluster:
    """One running Slurm; nothing of it is left after `stop`."""

    def __init__(self, *, accounting: bool = False) -> None:
        self.accounting = accounting
        self.name = f"iod{os.getpid()}{'a' if accounting else ''}"
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.conf = self.folder / "slurm.conf"
        self.people = people.make_people()
        self._user = getpass.getuser()
        self._processes = Processes(self.folder)

    @property
    def env(self) -> dict[str, str]:
        """What a program needs in its environment to find this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Cluster:
        """Start everything; once more with other ports when somebody took one of ours meanwhile."""
        atexit.register(self.stop)
        try:
            # Users read slurm.conf and talk to the munge socket, but Slurm wants no folder others can write.
            self.folder.chmod(0o755)
            self._start_munge()
            if self.accounting:
                start_database(self._processes, self.folder, self._user)
            for _ in range(3):
                if self._start_slurm():
                    return self
                self._stop_slurm()
            raise RuntimeError(f"Slurm does not start:\n{self.diagnostics()}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all jobs and daemons and remove the folder; can be called twice."""
        atexit.unregister(self.stop)
        if self.conf.exists():
            self._end_jobs()
        self._processes.stop_all()
        # Job steps are children of nobody and outlive their slurmd; the variable tells ours from any other.
        for pid in processes_with("SLURM_CONF", str(self.conf)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what tests do with it

    def run_as(
        self,
        person: Person,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as `person` with a login's environment and this cluster's SLURM_CONF."""
        env = self.env | dict(env or {})
        return people.run_as(person, argv, env=env, stdin=stdin, cwd=cwd, timeout_s=timeout_s)

    def submit(self, person: Person, body: str, *options: str, env: Mapping[str, str] | None = None) -> str:
        """Submit a batch script (bash, without its first line) and return the job's id.

        The output goes to `slurm-ID.out` in the person's home unless an option says otherwise.
        """
        script = f"#!/bin/bash\n{body}\n"
        done = self.run_as(person, ["sbatch", "--parsable", *options], stdin=script, env=env)
        if done.returncode != 0:
            raise RuntimeError(f"sbatch: {done.stderr}")
        return done.stdout.strip().split(";")[0]

    def scancel(self, *jobs: str) -> None:
        """Cancel jobs as the administrator."""
        self._admin("scancel", *jobs)

    def scontrol(self, *arguments: str) -> str:
        """What `scontrol ARGUMENTS` prints as the administrator; "" when it fails."""
        return self._admin("scontrol", *arguments)

    def job(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`, or nothing when Slurm has forgotten it."""
        shown = self.scontrol("--oneliner", "show", "job", job)
        return dict(re.findall(r"(?:^|\s)([A-Z]\w*)=(\S*)", shown))

    def state(self, job: str) -> str:
        """The job's state in one word, such as RUNNING; "" when Slurm has forgotten it."""
        return self.job(job).get("JobState", "")

    def wait_for(self, job: str, *states: str, timeout_s: float = 60) -> dict[str, str]:
        """Wait until the job is in one of the states and return its fields."""
        deadline = time.monotonic() + timeout_s
        while True:
            fields = self.job(job)
            if fields.get("JobState", "") in states:
                return fields
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} is {fields.get('JobState')}, not {' or '.join(states)}")
            time.sleep(0.2)

    def end_time_limit(self, job: str, in_s: float = 1) -> None:
        """Move the end of a running job's time limit to `in_s` seconds from now (it can only be moved nearer).

        A limit is in whole minutes, but the end of a running job can be set to the second. The controller
        looks at limits, and at `--signal`, only every 30 s, so either comes up to 30 s late.
        """
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + in_s))
        self.scontrol("update", f"JobId={job}", f"EndTime={when}")

    def forget_finished_jobs(self, timeout_s: float = 40) -> None:
        """Make squeue and scontrol forget every finished job; takes about 12 s, the least Slurm can do."""
        self._set_min_job_age(2)
        try:
            deadline = time.monotonic() + timeout_s
            while self._finished_jobs():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"Slurm still knows the jobs {self._finished_jobs()}")
                time.sleep(0.2)
        finally:
            self._set_min_job_age(300)

    @contextmanager
    def without_controller(self) -> Iterator[None]:
        """The controller is killed (-9), and comes back at the end of the block with all that it had written.

        That are all jobs as they are: what it has not written yet when it is killed, it would start a second time.
        """
        began = self._last_start()
        state = self.folder / "state" / "job_state"  # written within five seconds of any change
        wait_until(lambda: state.stat().st_mtime >= began + 1 or time.time() >= began + 12)
        self._processes.stop("slurmctld", signal.SIGKILL)
        try:
            yield
        finally:
            self._processes.start("slurmctld", ["slurmctld", "-D"], _ADMIN_ENV | self.env)
            port = int(re.findall(r"(?m)^SlurmctldPort=(\d+)", self.conf.read_text())[0])
            self._processes.wait_for("slurmctld", lambda: connects(port))

    def _last_start(self) -> float:
        """When the last of the running jobs began, in seconds since the epoch; 0 where none runs."""
        listed = self._admin("squeue", "--noheader", "--states=RUNNING", "--format=%S").split()
        return max((time.mktime(time.strptime(each, "%Y-%m-%dT%H:%M:%S")) for each in listed), default=0.0)

    def diagnostics(self) -> str:
        """The scheduler's state and the ends of all logs, for somebody who looks at a failed test."""
        shown = [f"$ {' '.join(command)}\n{self._admin(*command)}" for command in _QUESTIONS]
        # The daemons of Slurm write the same to both of their files.
        outputs = [path for path in self.folder.glob("*.out") if not path.with_suffix(".log").exists()]
        logs = sorted([*self.folder.glob("*.log"), *outputs])
        tails = [f"== {log.name}\n" + "\n".join(_tail(log, 40)) for log in logs]
        ended = self._processes.ended()
        return "\n".join([*shown, *tails, f"ended by themselves: {', '.join(ended) or 'none'}"])

    # -- starting and stopping

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        munge.mkdir(mode=0o755)
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        command = ["munged", "--foreground", "--force", f"--key-file={key}", *files]
        self._processes.start("munged", command, _ADMIN_ENV)
        if not self._processes.wait_for("munged", lambda: connects(munge / "socket")):
            raise RuntimeError(f"munged does not start:\n{self.diagnostics()}")

    def _start_slurm(self) -> bool:
        controller, dbd, *nodes = free_ports(2 + len(NODES))
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o755)
        self.conf.write_text(self._configuration(controller, dbd, nodes))
        gpus = [f"NodeName=g[1-2] Name=gpu Type=a100 File={file}" for file in _GPU_FILES]
        (self.folder / "gres.conf").write_text("\n".join(gpus) + "\n")
        environment = _ADMIN_ENV | self.env
        if self.accounting:
            munge_socket = self.folder / "munge" / "socket"
            if not start_slurmdbd(self._processes, self.folder, self._user, munge_socket, dbd):
                return False
        self._processes.start("slurmctld", ["slurmctld", "-D"], environment)
        if not self._processes.wait_for("slurmctld", lambda: connects(controller)):
            return False
        for node in NODES:
            self._processes.start(f"slurmd-{node}", ["slurmd", "-D", "-N", node], environment)
        return all(self._processes.wait_for(f"slurmd-{node}", partial(self._idle, node)) for node in NODES)

    def _stop_slurm(self) -> None:
        for name in ("slurmdbd", "slurmctld", *(f"slurmd-{node}" for node in NODES)):
            with suppress(KeyError):
                self._processes.stop(name)

    def _configuration(self, controller: int, dbd: int, nodes: Sequence[int]) -> str:
        storage = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            storage = (
                "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
                f"AccountingStoragePort={dbd}\nAccountingStoragePass={self.folder}/munge/socket\n"
                "JobAcctGatherType=jobacct_gather/linux"
            )
        return _SLURM_CONF.format(
            name=self.name,
            host=socket.gethostname().split(".")[0],
            user=self._user,
            folder=self.folder,
            controller_port=controller,
            accounting=storage,
            **{f"{node}_port": port for node, port in zip(NODES, nodes, strict=True)},
        )

    def _idle(self, node: str) -> bool:
        return "idle" in self._admin("sinfo", "--noheader", "--nodes", node, "--format=%T")

    def _finished_jobs(self) -> list[str]:
        return self._admin(
            "squeue", "--noheader", "--states=CD,CA,F,TO,NF,PR,BF,DL,OOM", "--format=%i"
        ).split()

    def _set_min_job_age(self, seconds: int) -> None:
        self.conf.write_text(re.sub(r"(?m)^MinJobAge=\d+", f"MinJobAge={seconds}", self.conf.read_text()))
        self.scontrol("reconfigure")

    def _end_jobs(self) -> None:
        if not self._admin("squeue", "--noheader", "--format=%i"):
            return
        jobs = self._admin("squeue", "--noheader", "--format=%i").split()
        # Without the wait between TERM and KILL: nobody looks at these jobs any more.
        self._admin("scancel", "--signal=KILL", "--full", *jobs)
        self._admin("scancel", *jobs)
        deadline = time.monotonic() + 10
        while self._admin("squeue", "--noheader", "--format=%i") and time.monotonic() < deadline:
            time.sleep(0.2)

    def _admin(self, *argv: str) -> str:
        done = subprocess.run(
            list(argv), env=_ADMIN_ENV | self.env, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout


_ADMIN_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_QUESTIONS = (
    ("sinfo", "-lN"),
    ("squeue", "-a", "-o", "%i %u %j %T %r %P %N %M %l"),
    ("scontrol", "show", "job"),
)


def _tail(path: Path, lines: int) -> list[str]:
    text = path.read_text(errors="replace").splitlines()
    # Debian's Slurm is built with PMIx and complains at every start when that is not installed.
    return [line for line in text if "pmi" not in line][-lines:]
