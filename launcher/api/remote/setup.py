"""Make another cluster known: is it reached, is there a launcher, else install this one there; then write it down.

Owns the order of the steps. It can be repeated: what is there and current is left as it is, what is older is renewed,
and the former installs stay, because sessions that started with them still run from there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import launcher
from launcher.api.remote.far import Far
from launcher.api.remote.package import fingerprint, wheel
from launcher.errors import RequestError, SchedulerError, SettingsError, StorageError
from launcher.schedulers import ssh
from launcher.settings.schema import NAME, PROGRAM, TOKEN

if TYPE_CHECKING:
    from launcher.settings.schema import Settings

FOLDER = "~/.local/share/inference-ondemand"
EXTRAS = ("ui", "whisper")
_INSTALL_S, _LOOK_S = 1800.0, 120.0
Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Made:
    """What `setup` found or made: where, with which launcher, and the hardware that may be asked for there.

    `installed` is false where a launcher was there already; `file` is the settings file that names the cluster now.
    """

    cluster: str
    host: str
    launcher: str
    version: str
    installed: bool
    slurm: bool
    file: str
    profiles: tuple[tuple[str, str], ...]
    former: tuple[str, ...] = ()


def setup(
    name: str,
    settings: Settings,
    *,
    host: str | None = None,
    path: str | None = None,
    program: str | None = None,
    python: str | None = None,
    extras: Sequence[str] = EXTRAS,
    tell: Tell = lambda _: None,
) -> Made:
    """Make the cluster `name` usable over ssh and write it into the user's settings.

    `host` is where ssh goes (else what the settings say, else `name`), `path` a folder there for an install of our own,
    `program` a launcher that is there. Raises LauncherError with what to do for whatever is in the way.
    """
    host = _checked(name, settings, host, path, program, python, extras)
    known = settings.clusters.get(name)
    tell(f"Logging in to {host}")
    ssh.open_master(host, ask=sys.stdin is not None and sys.stdin.isatty())
    own = f"{path or FOLDER}/current/bin/launcher"
    wanted = program or (own if path else known.launcher if known and known.launcher else own)
    there = _shell(host, ["look", wanted, python or "", path or FOLDER], _LOOK_S)
    if wanted == own and "foreign" in there:  # what is in it would run as this user
        raise StorageError(
            f"{path or FOLDER} on {host} belongs to somebody else.", "Choose a folder of your own: --path."
        )
    far, installed = _found(name, host, wanted, own, there, tell, only=program is not None), False
    former: list[str] = []
    if far is None:
        former = _install(host, path or FOLDER, extras, there, tell)
        far, installed = Far(name, host, own), True
    hello = far.ask("hello")
    from launcher.api.remote.entry import write_entry

    file = write_entry(name, {"ssh": host, "launcher": far.program})
    tell(f"Cluster {name} is in {file}")
    return Made(
        name, host, far.program, str(hello["version"]), installed, "sbatch" in there, str(file),
        tuple((str(one[0]), str(one[1])) for one in far.ask("profiles")), tuple(former),
    )  # fmt: skip


def _checked(
    name: str, settings: Settings, host: str | None, path: str | None, program: str | None, python: str | None,
    extras: Sequence[str],
) -> str:  # fmt: skip
    if not re.fullmatch(NAME, name):
        raise RequestError(
            f'"{name[:80]}" cannot be the name of a cluster.', "Use letters, digits, dots and dashes."
        )
    known = settings.clusters.get(name)
    host = host or (known.ssh if known and known.ssh else None)
    if host is None and known is not None:
        raise RequestError(f'Cluster "{name}" is this one.', "Name the host of another: --host USER@HOST.")
    host = host or name
    for option, value, pattern in (
        ("--host", host, TOKEN), ("--path", path, PROGRAM), ("--launcher", program, PROGRAM),
        ("--python", python, PROGRAM),
    ):  # fmt: skip
        if value is not None and not re.fullmatch(pattern, value):
            raise RequestError(
                f'{option} cannot be "{value[:80]}".', "Use no spaces and no signs of a shell."
            )
    for extra in extras:
        if extra not in (*EXTRAS, "vllm", "vllm-cpu"):
            raise RequestError(
                f'--extras knows ui, whisper, vllm and none, not "{extra[:40]}".', "Leave it out."
            )
    return host


def _found(
    name: str, host: str, wanted: str, own: str, there: dict[str, list[str]], tell: Tell, *, only: bool
) -> Far | None:
    """A launcher there that can be used as it is; None where one is to be installed."""
    for program in dict.fromkeys([wanted] if only else [wanted, *there.get("launcher", [])]):
        far = Far(name, host, program)
        try:
            hello = far.ask("hello")
        except (SettingsError, SchedulerError) as error:
            if only:
                raise
            if program in there.get("launcher", []):
                tell(f"{program} there cannot be used: {error.message}")
            continue
        if program == own and hello["package"] != fingerprint():
            tell(f"{program} there is another build than this one, {hello['version']}: it is renewed")
            return None
        tell(f"Using {program} there, version {hello['version']}")
        return far
    return None


def _install(
    host: str, folder: str, extras: Sequence[str], there: dict[str, list[str]], tell: Tell
) -> list[str]:
    """Install this launcher into `folder` there; the former installs in it."""
    if "python" not in there:
        seen = ", ".join(there.get("old_python", [])) or "none at all"
        raise SettingsError(
            f"{host} has no Python 3.11, 3.12 or 3.13 (found: {seen}).",
            "Name one that is there: --python PATH; with modules: ssh there, module load python, command -v python3.",
        )
    release = "-".join([launcher.__version__, fingerprint(), *extras])
    with tempfile.TemporaryDirectory() as made:
        packed = wheel(Path(made))
        tell(f"Installing version {launcher.__version__} into {folder} there, with {there['python'][0]}")
        target = f"{folder}/{packed.name}"
        _copy(host, packed, folder, target)
    said = _shell(
        host, ["install", folder, release, there["python"][0], ",".join(extras), target], _INSTALL_S
    )
    if "end" not in said:
        words = (said.get("failed") or ["it ended before it was done"])[-1].strip().removesuffix(".")
        raise StorageError(
            f"The launcher could not be installed on {host}: {words[:600]}.",
            "Without a way to a package index, ask the site for its mirror, or name its launcher: --launcher.",
        )
    return said.get("former", [])


def _copy(host: str, file: Path, folder: str, target: str) -> None:
    script = 'mkdir -p "$1" && cat > "$2"'
    words = ["sh", "-c", script, "copy", *(_from_home(path) for path in (folder, target))]
    if any(path.startswith("~/") for path in (folder, target)):
        words[2] = f"cd && {script}"
    with file.open("rb") as content:
        done = subprocess.run(
            ssh.ssh_argv(host, words, ask=False), stdin=content, capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip
    if done.returncode == ssh.SSH_FAILED:
        raise ssh.trouble(host, done.stderr)
    if done.returncode:
        words_ = " ".join(done.stderr.split())[-300:].removesuffix(".")
        raise StorageError(
            f"Nothing can be written to {folder} on {host}: {words_}.", "Choose another: --path."
        )


def _from_home(path: str) -> str:
    return path.removeprefix("~/")


def _shell(host: str, arguments: Sequence[str], timeout_s: float) -> dict[str, list[str]]:
    """Run install.sh there; what it told, by name."""
    script = resources.files("launcher.api.remote").joinpath("install.sh").read_text("utf-8")
    argv = ssh.ssh_argv(host, ["sh", "-s", *arguments], ask=False)
    try:
        done = subprocess.run(
            argv,
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SchedulerError(
            f"{shlex.quote(host)} did not finish within {timeout_s / 60:g} minutes.", "Try again."
        ) from None
    if done.returncode == ssh.SSH_FAILED:
        raise ssh.trouble(host, done.stderr)
    told: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("::"):
            key, _, value = line[2:].partition("=")
            told.setdefault(key, []).append(value)
    if not told:
        last = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        raise SchedulerError(
            f"No shell answers on {host}: {last.removesuffix('.')}.", f"Check: ssh {host} sh"
        )
    return told
