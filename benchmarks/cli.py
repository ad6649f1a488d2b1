"""P6 and P7: what `launcher --help` and `launcher status` cost against bare Python, and how often Slurm is asked.

A real Slurm of the tests carries the sessions: their jobs are held, so nothing else runs. In turn, round by round:
`python -c pass`, `launcher --help`, one bare `squeue`, `launcher status` with several numbers of sessions, and `vec-inf
--help` from PyPI in a virtual environment of its own (.make/vecinf). What counts is the least CPU time of the process
and its children: on an idle machine these commands wait for nothing else, and on a busy one the time on the clock is
its neighbours'; it stands beside it. System calls on files are counted by strace. A small program before the real
squeue, scontrol and sacct counts how often each is asked.

    make bench NAME=cli [ARGS='--rounds 15 --sessions 0 1 10 100 --no-vec-inf']
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmarks.parts.rivals import vec_inf_program
from launcher import Launcher
from launcher.settings.layers import load
from tests.slurm.cluster import Cluster

GOALS = {"help": 5.0, "help_calls": 800, "status": 8.0}
BARE, HELP, SQUEUE, RIVAL = "python -c pass", "launcher --help", "squeue", "vec-inf --help"
COUNTED = ("squeue", "scontrol", "sacct")
SITE = {
    "clusters": {"test": {"scheduler": "slurm"}},
    "profiles": {"held": {"cluster": "test", "partition": "cpu", "sbatch_args": ["--hold"]}},
    "session": {"page": False},
}
# Counts in a file of its own name, then becomes the real program.
WRAPPER = '#!/bin/sh\necho . >>"{count}"\nexec "{real}" "$@"\n'


@dataclass
class Way:
    """One command: how it is run, and what each round found."""

    argv: Sequence[str]
    env: Mapping[str, str]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    calls: int = 0
    asked: dict[str, int] = field(default_factory=dict)


class Desk:
    """A user of the tests' Slurm, with so many held sessions in a folder for each number."""

    def __init__(self, slurm: Cluster, folder: Path) -> None:
        self._folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in COUNTED:
            program = self._bin / name
            program.write_text(WRAPPER.format(count=self._count(name), real=shutil.which(name)))
            program.chmod(0o755)
        site = folder / "site.yml"
        site.write_text(yaml.safe_dump(SITE))
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LAUNCHER_")},
            **slurm.env,
            "HOME": str(folder),
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "LAUNCHER_SITE": str(site),
            "LAUNCHER_CONFIG": os.devnull,
        }

    def with_sessions(self, count: int) -> Mapping[str, str]:
        """The environment of a user who has so many."""
        home = self._folder / f"home-{count}"
        home.mkdir()
        env = {**self.env, "HOME": str(home), "LAUNCHER_PLACES__SESSIONS": str(home / "sessions")}
        os.environ.update(env)  # sbatch looks there
        launcher = Launcher(load(env))
        for _ in range(count):
            launcher.launch("simulated")
        return env

    def asked(self, way: Way) -> dict[str, int]:
        """How often one run of `way` asks each of Slurm's programs."""
        for name in COUNTED:
            self._count(name).write_text("")
        run(way)
        return {name: len(self._count(name).read_text().split()) for name in COUNTED}

    def _count(self, name: str) -> Path:
        return self._folder / f"{name}.count"


def main() -> None:
    """Print the table and, as the last line, the result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sessions", type=int, nargs="+", default=[0, 1, 10, 100])
    parser.add_argument("--no-vec-inf", action="store_true", help="leave out the comparison")
    wanted = parser.parse_args()
    for program, package in (("strace", "strace"), ("slurmctld", "slurm-wlm"), ("munged", "munge")):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            sys.exit(f"There is no program {program} here: apt-get install {package}")
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Cluster() as slurm:
        desk = Desk(slurm, Path(name))
        ways = commands(desk, wanted.sessions, vec_inf=not wanted.no_vec_inf)
        time.sleep(2.1)  # settings that were just written are never believed
        for way in ways.values():
            run(way)  # the first compiles what a fresh checkout has not compiled yet
        for number in range(wanted.rounds):
            order = list(ways.values())
            for way in order[number % len(order) :] + order[: number % len(order)]:
                measure(way)
        for way in ways.values():
            way.calls, way.asked = file_calls(way), desk.asked(way)
    show(ways)
    print(json.dumps(results(ways, wanted.sessions)))


def commands(desk: Desk, sessions: Sequence[int], *, vec_inf: bool) -> dict[str, Way]:
    """What is compared, by the name in the table."""
    launcher = str(Path(sys.executable).with_name("launcher"))
    found = {
        BARE: Way([sys.executable, "-c", "pass"], desk.env),
        HELP: Way([launcher, "--help"], desk.env),
        SQUEUE: Way(
            ["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%r|%S|%e|%N|%k"], desk.env
        ),
    }
    for count in sorted(sessions):
        found[f"launcher status, {count} sessions"] = Way([launcher, "status"], desk.with_sessions(count))
    if vec_inf:
        program = vec_inf_program()
        if isinstance(program, str):
            print(f"vec-inf is left out: {program}", file=sys.stderr)
        else:
            found[RIVAL] = Way([str(program), "--help"], desk.env)
            found["vec-inf status"] = Way([str(program), "status"], desk.env)
    return found


def run(way: Way) -> None:
    """Once; a command that fails is no measurement."""
    done = subprocess.run(way.argv, env=way.env, capture_output=True, text=True, check=False)
    if done.returncode and "vec-inf" not in way.argv[0]:
        sys.exit(f"{' '.join(way.argv)}: {done.stderr or done.stdout}")


def measure(way: Way) -> None:
    """One round's time and CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(way)
    way.wall_s.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    way.cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def file_calls(way: Way) -> int:
    """How many system calls on files the command and its children make."""
    with tempfile.NamedTemporaryFile("r") as counts:
        argv = ["strace", "-c", "-f", "-e", "trace=%file", "-o", counts.name, *way.argv]
        subprocess.run(argv, env=way.env, capture_output=True, check=False)
        found = re.search(r"(?m)^100\.00\s+\S+\s+\S+\s+(\d+)\b.*total$", counts.read())
    return int(found[1]) if found else 0


def show(ways: Mapping[str, Way]) -> None:
    """The table."""
    bare = ways[BARE]
    print(f"\n{'':<30}{'ms':>8}{'x bare':>8}{'median':>8}{'CPU ms':>8}{'x bare':>8}{'file calls':>12}  asked")
    for name, way in ways.items():
        wall, cpu = min(way.wall_s), min(way.cpu_s)
        asked = ", ".join(f"{count} {program}" for program, count in way.asked.items() if count)
        print(
            f"{name:<30}{wall * 1000:>8.1f}{wall / min(bare.wall_s):>8.1f}"
            f"{statistics.median(way.wall_s) * 1000:>8.1f}"
            f"{cpu * 1000:>8.1f}{cpu / min(bare.cpu_s):>8.1f}{way.calls:>12}  {asked}"
        )


def results(ways: Mapping[str, Way], sessions: Sequence[int]) -> dict[str, object]:
    """P6 and P7; of several numbers of sessions the worst counts."""
    bare, squeue = (min(ways[name].cpu_s) for name in (BARE, SQUEUE))
    status = {count: ways[f"launcher status, {count} sessions"] for count in sorted(sessions)}
    times = {
        count: (min(way.cpu_s) - (squeue if way.asked["squeue"] else 0)) / bare
        for count, way in status.items()
    }
    help_ratio = round(min(ways[HELP].cpu_s) / bare, 2)
    value = {
        "help": help_ratio,
        "help_calls": ways[HELP].calls,
        "status": {str(count): round(ratio, 2) for count, ratio in times.items()},
    }
    met = (
        help_ratio <= GOALS["help"]
        and ways[HELP].calls <= GOALS["help_calls"]
        and max(times.values()) <= GOALS["status"]
    )
    asked = {str(count): sum(way.asked.values()) for count, way in status.items()}
    once = {str(count): 1 if count else 0 for count in status}
    return {
        "P6": {"value": value, "goal": GOALS, "met": met},
        "P7": {"value": asked, "goal": 1, "met": asked == once},
    }


if __name__ == "__main__":
    main()
