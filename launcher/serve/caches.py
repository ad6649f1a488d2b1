"""The engine's compile caches: one folder for each engine, environment, kind of GPU and model, near the GPU if asked.

What was compiled for one of them is of no use to another, and a whole cache is too much to carry to a node. Where the
site names `places.local`, the session works on a copy there, since compilers lock and rename thousands of small files,
which a network file system is slow at; what is new is brought back once the session is ready.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

from launcher.engines.installed import venv_folder
from launcher.errors import LauncherError
from launcher.sessions.ownership import require_own
from launcher.sessions.plan import Plan
from launcher.settings.schema import Environment

_SETTLED_S = 10.0  # a file that was written later may not be whole
_GPUS = Path("/proc/driver/nvidia/gpus")

log = logging.getLogger("launcher.serve")


class Caches:
    """The folder for the engine of `plan` on this node; `bring_back` is for when it is ready."""

    def __init__(self, plan: Plan) -> None:
        self.kept = Path(plan.places.cache) / plan.engine / _name(plan)
        self.folder = self.kept
        self._enough = threading.Event()
        self.kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.kept, self.kept.parent):  # compiled code is loaded from there
            require_own(folder, "places.cache")
        if plan.places.local is None:
            return
        try:
            self.folder = _local(Path(plan.places.local), plan)
            count = _copy(self.kept, self.folder, time.time(), self._enough)
        except (LauncherError, OSError) as error:
            log.warning("the caches stay where they are: %s", error)
            self.folder = self.kept
        else:
            log.info("caches: %d files copied to %s", count, self.folder)

    def bring_back(self) -> None:
        """Keep what was compiled in this start for the next one; takes as long as copying does."""
        if self.folder == self.kept or self._enough.wait(_SETTLED_S):
            return
        try:
            count = _copy(self.folder, self.kept, time.time() - _SETTLED_S, self._enough)
        except OSError as error:
            log.warning("the caches cannot be kept: %s", error)
        else:
            log.info("caches: %d new files kept in %s", count, self.kept)

    def stop(self) -> None:
        """Copy no more."""
        self._enough.set()


def _name(plan: Plan) -> str:
    model = plan.model
    parts = (
        plan.engine,
        *_identity(plan.environment),
        _gpu() or plan.resources.gpu_type or "",
        model.id,
        model.revision or model.snapshot or "",
    )
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', model.id)[-60:].strip('-.')}-{digest}"


def _identity(environment: Environment) -> tuple[str, ...]:
    """What changes when the engine's programs do: the image, the modules, or the venv's vLLM."""
    if environment.kind == "container":
        image = os.path.realpath(environment.image or "")
        with contextlib.suppress(OSError):
            found = os.stat(image)
            return image, str(found.st_size), str(found.st_mtime_ns)
        return (image,)
    if environment.kind == "module":
        return (environment.setup or "", *environment.modules)
    folder = venv_folder(environment)
    return (str(folder), *sorted(path.name for path in folder.glob("lib/python3*/site-packages/vllm-*")))


def _gpu() -> str | None:
    """The first GPU's model, by the driver's own files: nvidia-smi takes a second."""
    with contextlib.suppress(OSError):
        for information in sorted(_GPUS.glob("*/information")):
            if match := re.search(r"^Model:\s*(.+)$", information.read_text(), re.M):
                return match[1].strip()
    return None


def _local(places: Path, plan: Plan) -> Path:
    own = places / f"launcher-{os.geteuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    require_own(own, "places.local")  # compiled code is loaded from there
    folder = own / plan.engine / _name(plan)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _copy(source: Path, target: Path, until: float, enough: threading.Event) -> int:
    """Copy what `target` lacks and was written before `until`; the number of files. A reader sees whole files only."""
    count = 0
    for folder, _, names in os.walk(source):
        there = target / Path(folder).relative_to(source)
        for name in names:
            if enough.is_set():
                return count
            path, wanted = Path(folder, name), there / name
            with contextlib.suppress(FileNotFoundError):  # a compiler's own, gone meanwhile
                found = path.lstat()
                regular = path.is_file() and not path.is_symlink()
                if not regular or found.st_mtime > until or os.path.lexists(wanted):
                    continue
                there.mkdir(mode=0o700, parents=True, exist_ok=True)
                _put(path, wanted)
                count += 1
    return count


def _put(path: Path, wanted: Path) -> None:
    descriptor, partial = tempfile.mkstemp(dir=wanted.parent, prefix=".copying-")
    os.close(descriptor)
    try:
        shutil.copyfile(path, partial)
        shutil.copystat(path, partial)  # executables among them; and compilers look at times
        os.replace(partial, wanted)
    except BaseException:
        os.unlink(partial)
        raise
