"""What an environment holds, as far as its files tell without a program being started: versions, packages, the image.

For records and comparisons; whether a session can start there is `launcher.planning.environment`'s question.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from launcher.settings.schema import Environment

# The package whose version is the engine's.
PACKAGE = {"vllm": "vllm", "whisper": "faster-whisper"}
_INFO = re.compile(r"(?P<name>[A-Za-z0-9._]+)-(?P<version>[^-]+)\.(?:dist|egg)-info")
_PACKAGES_MAX = 2000
# The head of a SIF file (github.com/apptainer/sif, pkg/sif/sif.go): launch script 32, magic 10, version 3,
# architecture 3, and then the image's own id.
_SIF_MAGIC, _SIF_MAGIC_AT, _SIF_ID_AT = b"SIF_MAGIC", 32, 48


@dataclass(frozen=True, slots=True)
class Image:
    """A container image: `id` is the one that its maker wrote into it, None where it has none; the time is UTC's."""

    path: str
    id: str | None = None
    bytes: int | None = None
    modified: str | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """What is in an environment; None or nothing where its files do not tell.

    `packages` are `name==version`, by name.
    """

    python: str | None = None
    packages: tuple[str, ...] = ()
    image: Image | None = None

    def version(self, engine: str) -> str | None:
        """The version of the engine called `engine`, None where that is not known."""
        wanted = PACKAGE.get(engine)
        return versions(self.packages).get(wanted) if wanted else None


def installed(environment: Environment) -> Installed:
    """What `environment` holds: of a venv its packages, of a container its image; of modules nothing is known.

    Lists one folder or reads 64 bytes; never raises for what is not there.
    """
    if environment.kind == "container":
        return Installed(image=_image(environment.image) if environment.image else None)
    if environment.kind == "module":
        return Installed()
    folder = venv_folder(environment)
    return Installed(_python(folder), _packages(folder))


def venv_folder(environment: Environment) -> Path:
    """The folder of a venv environment; the launcher's own where none is named."""
    return Path(os.path.expanduser(environment.path)) if environment.path else Path(sys.prefix)


def versions(packages: Iterable[str]) -> Mapping[str, str]:
    """`name==version` as a table, the names as pip compares them (PEP 503)."""
    pairs = (package.partition("==") for package in packages)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pairs}


def _packages(folder: Path) -> tuple[str, ...]:
    found = set()
    for place in sorted(folder.glob("lib*/python3*/site-packages")):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        for name in names[: 4 * _PACKAGES_MAX]:
            if (info := _INFO.fullmatch(name)) is not None:
                found.add(f"{info['name'].replace('_', '-')}=={info['version']}")
    return tuple(sorted(found, key=str.lower)[:_PACKAGES_MAX])


def _python(folder: Path) -> str | None:
    try:
        text = (folder / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")[:10_000]
    except OSError:
        return None
    lines = (line.partition("=") for line in text.splitlines())
    # `version_info` is what uv and virtualenv write, `version` what the standard library does.
    known = {key.strip(): value.strip() for key, _, value in lines}
    return known.get("version_info") or known.get("version")


def _image(name: str) -> Image:
    path = Path(os.path.expanduser(name))
    try:
        if not path.is_file():  # an address, a folder, a pipe that nobody writes into, or nothing
            return Image(name)
        with path.open("rb") as file:
            head, status = file.read(_SIF_ID_AT + 16), os.fstat(file.fileno())
    except OSError:
        return Image(name)
    modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    is_sif = head[_SIF_MAGIC_AT:].startswith(_SIF_MAGIC) and len(head) == _SIF_ID_AT + 16
    own = str(uuid.UUID(bytes=head[_SIF_ID_AT:])) if is_sif else None
    return Image(name, own, status.st_size, modified)
