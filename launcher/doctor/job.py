"""A whole session with the simulated engine: submitted, ready, asked, stopped, and nothing left of it."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.api import Launcher, Session
from launcher.doctor.checks import Check, fail, ok, warn
from launcher.errors import LauncherError
from launcher.schedulers.command import run
from launcher.sessions.clock import clock
from launcher.settings.schema import CatalogModel, Profile, Settings

_START_S = 300.0
_HOURS = 0.5
_NAME = "doctor-simulated"
_PROGRAM = "program "  # before what is looked for on PATH; paths begin with a slash


def check_job(settings: Settings, profile: str | None, say: Callable[[Check], None]) -> None:
    """Tell `say` of each step as soon as it is known; the session is ended whatever happens, Ctrl-C too."""
    # A site may have taken the simulated engine out of its catalog.
    entry = CatalogModel(_NAME, engine="simulated")
    launcher = Launcher(dataclasses.replace(settings, catalog={**settings.catalog, _NAME: entry}))
    name = profile or settings.session.profile or next(iter(settings.profiles))
    about = f"job on {name}"
    session: Session | None = None
    try:
        wanted = settings.profiles.get(name)
        hours = min(_HOURS, wanted.hours_max) if wanted else None
        session = launcher.launch(_NAME, profile=name, name="doctor", hours=hours, page=False)
        say(ok(about, f"submitted as job {session.job_id}."))
        for check in _steps(session, about, settings, settings.profiles[name]):
            say(check)
    except LauncherError as error:
        log = f" Log: {session.paths.root}." if session is not None else ""
        say(fail(about, error.message, (error.hint or "Look at the session's log.") + log))
    finally:
        if session is not None:
            say(_end(session, about))


def _steps(session: Session, about: str, settings: Settings, profile: Profile) -> Iterator[Check]:
    begun = time.monotonic()
    connection = session.wait(_START_S)
    node = session.status().host or connection.host
    yield ok(about, f"ready on {node} after {clock(time.monotonic() - begun)}.")
    question = {"model": connection.model, "messages": [{"role": "user", "content": "Are you there?"}]}
    request = urllib.request.Request(  # noqa: S310 - the session's own address
        f"{connection.base_url}/chat/completions",
        json.dumps({**question, "max_tokens": 8}).encode(),
        {"Authorization": f"Bearer {connection.key}", "Content-Type": "application/json"},
    )
    try:
        # A proxy for the world outside would be given the key.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            said = json.load(answer)["choices"][0]["message"]["content"]
        yield ok(about, f"answered at {connection.base_url}: {str(said)[:40]!r}.")
    except (OSError, ValueError, LookupError) as error:
        fix = "The compute nodes must be reachable from here; see network.host and network.bind."
        yield fail(about, f"{connection.base_url} does not answer from here: {error}.", fix)
    if session.plan.cluster.scheduler == "slurm" and session.job_id is not None:
        yield from _seen_from_job(session.job_id, about, settings, profile)


def _seen_from_job(job_id: str, about: str, settings: Settings, profile: Profile) -> Iterator[Check]:
    """Which of the site's folders and images that job can read, as a step of its own in it."""
    paths = [
        *settings.models.folders,
        *filter(None, (e.image or e.path for e in settings.environments.values())),
    ]
    runtimes = {e.runtime for e in settings.environments.values() if e.kind == "container"}
    if not paths and not runtimes:
        return
    tests = [f"test -r {shlex.quote(p)} || echo {shlex.quote(p)}" for p in paths]
    tests += [f"command -v {word} >/dev/null || echo '{_PROGRAM}{word}'" for word in sorted(runtimes)]
    # --overlap: the session's own step has all of the job's resources.
    argv = [
        "srun",
        f"--jobid={job_id}",
        "--overlap",
        "--ntasks=1",
        "--nodes=1",
        "--chdir=/",
        "sh",
        "-c",
        "; ".join(tests),
    ]
    try:
        missing = run(argv, ssh=settings.clusters[profile.cluster].ssh, timeout_s=60).split("\n")
    except LauncherError as error:
        yield warn(
            about, f"What the job can read is not known: {error.message}", "Look from a job of your own."
        )
        return
    programs = [line.removeprefix(_PROGRAM) for line in missing if line.startswith(_PROGRAM)]
    unread = [line for line in missing if line.strip() and not line.startswith(_PROGRAM)]
    for program in programs:
        says = f"There is no program {program} where the job runs."
        yield fail(about, says, "Install it on the compute nodes, or name another runtime.")
    if unread:
        fix = "Put it where the compute nodes see it."
        yield fail(about, f"The job cannot read {', '.join(unread)}.", fix)
    if not programs and not unread:
        yield ok(about, f"The job can read all {len(paths)} folders, venvs and images of site.yml.")


def _end(session: Session, about: str) -> Check:
    root: Path = session.paths.root
    try:
        status = session.stop()
    except LauncherError as error:
        return fail(
            about, f"could not be stopped: {error.message}", f"Stop it with: launcher stop {session.id}"
        )
    left = [path.name for path in (session.paths.connection, session.paths.key) if path.exists()]
    if left:
        return fail(about, f"left {', '.join(left)} in {root}.", "Look at its log.")
    if status.state == "FAILED":
        return warn(about, f"its log is in {root}.")
    shutil.rmtree(root, ignore_errors=True)
    return ok(about, "stopped, and nothing of it is left.")
