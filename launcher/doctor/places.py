"""The install, the sessions' folder, environments and the app: are they there, and can those read them who must?"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from launcher.doctor.checks import FAIL, OK, WARN, Check, fail, ok, warn
from launcher.doctor.readable import check_readable
from launcher.engines.installed import venv_folder
from launcher.engines.whisper_arguments import PACKAGES
from launcher.serve.environment import MODULES
from launcher.sessions.mounts import file_system
from launcher.settings.origins import DEFAULTS
from launcher.settings.schema import Environment, Settings

# File systems that live in this machine's memory or only on it.
_OWN_KINDS = {"tmpfs", "ramfs", "devtmpfs", "overlay"}
_APP_FILES = ("manifest.yml", "form.yml.erb", "submit.yml.erb", "view.html.erb", "template/script.sh")
_SLOW_S = 5.0
_VERSION = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
_WHISPER = """
import sys
from importlib.metadata import version
from importlib.util import find_spec
missing = [name for name in sys.argv[1:] if find_spec(name) is None]
sys.exit(f"launcher: no {', '.join(missing)}") if missing else print(version("faster-whisper"))
"""


def check_install(settings: Settings) -> list[Check]:
    """Whether other users can run this launcher: its own folder, and the interpreter that its venv leads to."""
    about, program = "install", Path(sys.executable)
    checks = [check_readable(about, program.parent), check_readable(about, program, program=True)]
    wrong = next((check for check in checks if check.verdict != OK), None)
    if wrong is None:
        return [ok(about, f"{sys.prefix} and its {program.resolve()} can be run by all.")]
    says, fix = wrong.says, wrong.fix or ""
    if program.resolve() != program and wrong is checks[1]:
        says = f"{says.removesuffix('.')}, where this launcher has its Python."
        fix = f"{fix}, or install with a PYTHON that all can run"
    # A launcher of one's own is nobody else's.
    return [(warn if settings.site is None or wrong.verdict == WARN else fail)(about, says, fix)]


def check_environments(settings: Settings) -> list[Check]:
    """Each environment's image, modules or venv, and the engine in it with its version."""
    named = {p.environment for p in settings.profiles.values()}
    named |= {m.environment for m in settings.catalog.values()}
    own = [n for n in settings.environments if settings.origin(f"environments.{n}") != DEFAULTS]
    checks: list[Check] = []
    for environment in settings.environments.values():
        packaged = environment.name not in own
        if packaged and own and environment.name not in named:
            continue  # it is there whether it is wanted or not
        for check in _environment(environment):
            # What planning takes when nobody says is needed too.
            needed = environment.name in named or environment.name in own[:1]
            if check.verdict == FAIL and packaged and not environment.path:
                says = "no engine is installed here, and site.yml names no environment that has one."
                check = warn(check.about, says, "Name one under environments, or install with ENGINE=vllm.")
            elif check.verdict == FAIL and not needed:
                check = warn(check.about, check.says, check.fix)
            checks.append(check)
    return checks


def check_app(folder: Path | None = None) -> list[Check]:
    """The app's files, as every user of the portal must find them; `folder` None: the one beside this launcher."""
    folder = folder or Path(sys.prefix).parent / "app"
    if not os.path.isdir(folder):
        fix = "Install with make install, or name it with --app."
        return [warn("app", f"There is no app folder {folder}.", fix)]
    missing = [name for name in _APP_FILES if not os.path.isfile(folder / name)]
    if missing:
        return [fail("app", f"{folder} lacks {', '.join(missing)}.", "Install it again.")]
    files = list(_walk(folder))
    for check in (check_readable("app", path) for path in files):
        if check.verdict != OK:
            return [check]
    if not os.access(folder / "template" / "script.sh", os.X_OK):
        return [fail("app", f"{folder}/template/script.sh is not executable.", "Install it again.")]
    for path in files:
        if path.lstat().st_mode & stat.S_IWOTH and not path.is_symlink():
            return [fail("app", f"{path} can be changed by everybody.", f"chmod -R go-w {folder}")]
    return [ok("app", f"{folder} is complete, and every user can read it.")]


def check_form(settings: Settings, folder: Path | None = None) -> list[Check]:
    """The form as the app gets it: its launcher run as form.yml.erb runs it, within the ten seconds that it waits."""
    about, folder = "form", folder or Path(sys.prefix).parent / "app"
    names = (
        os.environ.get("LAUNCHER", ""),
        str(folder / "venv/bin/launcher"),
        str(folder / ".venv/bin/launcher"),
    )
    program = next((name for name in names if os.path.isfile(name) and os.access(name, os.X_OK)), None)
    if not os.path.isdir(folder) or program is None:
        return []
    begun = time.monotonic()
    said = _said([program, "offer"], timeout_s=10)
    took = time.monotonic() - begun
    try:
        form = json.loads(said or "")
        fields, header = list(form["form"]), str(form.get("form_header", ""))
    except (ValueError, LookupError, TypeError):
        says = f"{program} offer gave no form{f': {said[:300]}' if said else ' within 10 s' if took > 9 else ''}."
        return [fail(about, says, "Run it yourself, with --debug.")]
    if fields == ["notice"]:
        for part in ("\\", "**This app is not ready.**", "Please tell the site's staff."):
            header = header.replace(part, "")
        says = f"shows no fields: {header.strip()}"
        return [(fail if settings.site else warn)(about, says, "Describe what it lacks in site.yml.")]
    if took > _SLOW_S:
        return [warn(about, f"took {took:.0f} s; the portal waits 10.", "Try form.live: false.")]
    return [ok(about, f"has {len(fields)} fields, after {took:.1f} s.")]


def check_sessions(settings: Settings) -> Check:
    """Whether the sessions' folder can be written, and jobs can see it."""
    at, folder = "places.sessions", Path(settings.places.sessions)
    there = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(at, f"{there} cannot be written by you.", "Name a folder under each user's home.")
    slurm = any(cluster.in_form for cluster in settings.clusters.values())
    kind = file_system(there.resolve())
    if slurm and (kind in _OWN_KINDS or folder.is_relative_to("/tmp")):  # noqa: S108 - no file is made there
        says = f"{folder} is on {kind or 'a file system'} of this machine: a compute node may not see it."
        return warn(at, says, "Try it with launcher doctor --job.")
    return ok(at, f"{folder} can be written.")


def _environment(environment: Environment) -> Iterable[Check]:
    at = f"environments.{environment.name}"
    if environment.kind == "container":
        yield from _container(at, environment)
        return
    if "vllm" in (environment.engines or ("vllm",)):  # the simulated engine is the launcher's own
        if environment.kind == "module":
            yield _module(at, environment, "vllm")
        else:
            yield _venv(at, venv_folder(environment), "vllm")
    if "whisper" in environment.engines:
        yield _whisper(at, environment)


def _container(at: str, environment: Environment) -> Iterable[Check]:
    image = Path(environment.image or "")
    if "://" in str(environment.image):
        yield fail(
            f"{at}.image", f"{environment.image} would be fetched in each job.", "Build a file from it once."
        )
    else:
        yield check_readable(f"{at}.image", image)
    for bind in environment.binds:
        folder = bind.partition(":")[0]
        if not os.path.exists(folder):
            fix = f"Make it, or take it out: {environment.runtime} would refuse to start."
            yield fail(f"{at}.binds", f"There is no {folder}.", fix)
    if shutil.which(environment.runtime) is None:
        says = f"There is no program {environment.runtime} here; it must be on the compute nodes."
        yield warn(f"{at}.runtime", says, "Try it with launcher doctor --job.")


def _module(at: str, environment: Environment, engine: str) -> Check:
    if environment.setup and not os.path.isfile(environment.setup):
        fix = "Correct it, or leave it out where /etc/profile.d defines module."
        return fail(f"{at}.setup", f"There is no file {environment.setup}.", fix)
    # As a job does it: launcher/serve/modules.sh, which ends in exec.
    argv = [str(MODULES), environment.setup or "", str(len(environment.modules)), *environment.modules]
    says = _said([*argv, "sh", "-c", 'command -v "$1"', "sh", engine], timeout_s=60)
    names = " ".join(environment.modules)
    if says is None or not says.startswith("/"):
        why = f" ({says.removeprefix('launcher: ')})" if says else ""
        return fail(
            f"{at}.modules", f"{names} gives no program {engine} here{why}.", f"Try: module load {names}"
        )
    return ok(f"{at}.modules", f"{names} gives {says}.")


def _venv(at: str, folder: Path, engine: str) -> Check:
    program = folder / "bin" / engine
    if not os.access(program, os.X_OK):
        return fail(at, f"has no program {program}.", f"Install {engine} there, or name another environment.")
    readable = check_readable(at, program)
    if readable.verdict != OK:
        return readable
    version = _said([str(folder / "bin" / "python"), "-c", _VERSION, engine], timeout_s=60)
    if version is None:
        return warn(
            at, f"{program} is there, but its version is not known.", "Try it with launcher doctor --job."
        )
    return ok(at, f"{engine} {version} in {folder}.")


def _whisper(at: str, environment: Environment) -> Check:
    # Its program is the launcher's; the environment's Python must have what that imports.
    if environment.kind == "module":
        python = [str(MODULES), environment.setup or "", str(len(environment.modules)), *environment.modules]
        python.append("python3")
    else:
        python = [str(venv_folder(environment) / "bin" / "python3")]
    says = _said([*python, "-c", _WHISPER, *PACKAGES], timeout_s=60)
    if says is None or says.startswith("launcher: "):
        why = f" ({says.removeprefix('launcher: ')})" if says else ""
        needed = " ".join(name.replace("_", "-") for name in PACKAGES)
        return fail(at, f"its Python cannot run Whisper{why}.", f"Install {needed} there.")
    return ok(at, f"faster-whisper {says}.")


def _said(argv: list[str], *, timeout_s: float) -> str | None:
    """The last line that a program says; None when it fails silently."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1].strip() if lines and (done.returncode == 0 or "launcher" in lines[-1]) else None


def _walk(folder: Path) -> Iterable[Path]:
    yield folder
    for entry in sorted(folder.iterdir()):
        if entry.name in ("venv", "site.yml"):
            continue  # links to what install.sh made beside the app
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        else:
            yield entry
