"""Folders, environments and the app's own files: are they there, and can those read them who must?"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from launcher.doctor.checks import OK, Check, fail, ok, warn
from launcher.doctor.readable import check_readable
from launcher.serve.environment import venv_folder
from launcher.settings.schema import Environment, Settings

# File systems that live in this machine's memory or only on it.
_OWN_KINDS = {"tmpfs", "ramfs", "devtmpfs", "overlay"}
_APP_FILES = ("manifest.yml", "form.yml.erb", "submit.yml.erb", "view.html.erb", "template/script.sh")
_VERSION = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"


def check_folders(settings: Settings) -> list[Check]:
    """The sessions' folder and the folders of models."""
    checks = [_sessions(settings), *(_models("models.folders", Path(f)) for f in settings.models.folders)]
    if not settings.models.folders:
        checks.append(
            warn(
                "models.folders",
                "names no shared folder: each user keeps copies.",
                "Name one that all may read.",
            )
        )
    return checks


def check_environments(settings: Settings) -> list[Check]:
    """Each environment's image, modules or venv, and the engine in it with its version."""
    used = {p.environment for p in settings.profiles.values()} | {
        m.environment for m in settings.catalog.values()
    }
    own = [name for name in settings.environments if settings.origin(f"environments.{name}") != "defaults"]
    used |= set((own or list(settings.environments))[:1])  # what planning takes when nobody says
    checks: list[Check] = []
    for environment in settings.environments.values():
        for check in _environment(environment):
            needed = environment.name in used
            # The packaged one is there whether it is wanted or not.
            checks.append(
                check if needed or check.verdict == "ok" else warn(check.about, check.says, check.fix)
            )
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


def file_system(path: Path) -> str:
    """The kind of file system `path` is on, such as nfs4 or tmpfs; "" where that cannot be said."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, found, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        if len(mount) >= len(best) and path.is_relative_to(mount):
            best, kind = mount, found
    return kind


def _sessions(settings: Settings) -> Check:
    at, folder = "places.sessions", Path(settings.places.sessions)
    there = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(at, f"{there} cannot be written by you.", "Name a folder under each user's home.")
    slurm = any(cluster.scheduler == "slurm" for cluster in settings.clusters.values())
    kind = file_system(there.resolve())
    if slurm and (kind in _OWN_KINDS or folder.is_relative_to("/tmp")):  # noqa: S108 - no file is made there
        says = f"{folder} is on {kind or 'a file system'} of this machine: a compute node may not see it."
        return warn(at, says, "Try it with launcher doctor --job.")
    return ok(at, f"{folder} can be written.")


def _models(at: str, folder: Path) -> Check:
    try:
        count = sum(not entry.name.startswith(".") for entry in os.scandir(folder))
    except OSError as error:
        return fail(at, f"{folder}: {error.strerror}.", "Make it, or give all users the right to read it.")
    return check_readable(at, folder, f": {count} {'entry' if count == 1 else 'entries'}")


def _environment(environment: Environment) -> Iterable[Check]:
    at = f"environments.{environment.name}"
    # The simulated engine is the launcher's own; others have no program to look for.
    engines = [engine for engine in environment.engines or ("vllm",) if engine == "vllm"]
    if environment.kind == "container":
        yield from _container(at, environment)
    elif environment.kind == "module":
        for engine in engines:
            yield _module(at, environment, engine)
    else:
        for engine in engines:
            yield _venv(at, venv_folder(environment), engine)


def _container(at: str, environment: Environment) -> Iterable[Check]:
    image = Path(environment.image or "")
    if "://" in str(environment.image):
        yield fail(
            f"{at}.image", f"{environment.image} would be fetched in each job.", "Build a file from it once."
        )
    else:
        yield check_readable(f"{at}.image", image)
    if shutil.which(environment.runtime) is None:
        says = f"There is no program {environment.runtime} here; it must be on the compute nodes."
        yield warn(f"{at}.runtime", says, "Try it with launcher doctor --job.")


def _module(at: str, environment: Environment, engine: str) -> Check:
    # As a job does it: launcher/serve/modules.sh, which ends in exec.
    argv = [str(_modules()), environment.setup or "", str(len(environment.modules)), *environment.modules]
    says = _said([*argv, "sh", "-c", 'command -v "$1"', "sh", engine], timeout_s=60)
    names = " ".join(environment.modules)
    if says is None or not says.startswith("/"):
        why = f" ({says.removeprefix('launcher: ')})" if says else ""
        return fail(
            f"{at}.modules", f"{names} gives no program {engine} here{why}.", f"Try: module load {names}"
        )
    return ok(f"{at}.modules", f"{names} gives {says}.")


def _modules() -> Path:
    import launcher.serve

    return Path(launcher.serve.__file__).with_name("modules.sh")


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


def _said(argv: list[str], *, timeout_s: float) -> str | None:
    """The last line that a program says; None when it fails silently."""
    try:
        done = subprocess.run(  # noqa: S603 - an argument list
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
