"""This very launcher as a wheel, to install it on another cluster; and what tells one build of it from another.

Owns the packing alone. A wheel is a zip file with a list of its content (PEP 427); nothing has to be compiled.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import launcher
from launcher.errors import SettingsError

_DISTRIBUTION = "inference-ondemand"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content gives the same wheel


@functools.cache
def fingerprint() -> str:
    """Ten hexadecimal digits that change with any file of the package; two launchers with the same are the same."""
    seen = hashlib.sha256()
    for name, path in _files():
        seen.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return seen.hexdigest()[:10]


def wheel(folder: Path) -> Path:
    """Pack the package into `folder`; the wheel's path. Raises SettingsError where it does not know what it needs."""
    name = _DISTRIBUTION.replace("-", "_")
    described = f"{name}-{launcher.__version__}.dist-info"
    path = folder / f"{name}-{launcher.__version__}-py3-none-any.whl"
    texts = {
        f"{described}/METADATA": _metadata(),
        f"{described}/WHEEL": "Wheel-Version: 1.0\nGenerator: launcher\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{described}/entry_points.txt": "[console_scripts]\nlauncher = launcher.cli:main\n",
    }
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        contents = [(n, p.read_bytes()) for n, p in _files()] + [(n, t.encode()) for n, t in texts.items()]
        for inside, data in contents:
            packed.writestr(_entry(inside), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{inside},sha256={digest},{len(data)}")
        lines = [*record, f"{described}/RECORD,,", ""]
        packed.writestr(_entry(f"{described}/RECORD"), "\n".join(lines))
    return path


def _files() -> Iterator[tuple[str, Path]]:
    root = Path(launcher.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield f"launcher/{path.relative_to(root).as_posix()}", path


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _metadata() -> str:
    needed = _needed()
    return "\n".join(
        ["Metadata-Version: 2.1", f"Name: {_DISTRIBUTION}", f"Version: {launcher.__version__}", *needed, ""]
    )


def _needed() -> list[str]:
    # In a checkout, what was written when it was installed may be older than the code.
    project = Path(launcher.__file__).parents[1] / "pyproject.toml"
    if project.is_file():
        import tomllib

        read = tomllib.loads(project.read_text("utf-8"))["project"]
        lines = [f"Requires-Python: {read['requires-python']}"]
        lines += [f"Requires-Dist: {wanted}" for wanted in read["dependencies"]]
        for extra, wanted in read.get("optional-dependencies", {}).items():
            lines.append(f"Provides-Extra: {extra}")
            lines += [f"Requires-Dist: {one}; extra == '{extra}'" for one in wanted]
        return lines
    try:
        found = importlib.metadata.metadata(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise SettingsError(
            "This launcher was not installed, so it does not know what it needs.",
            "Install it with pip or `make install`, and use that one.",
        ) from None
    kept = ("Requires-Python", "Requires-Dist", "Provides-Extra")
    return [f"{key}: {value}" for key in kept for value in found.get_all(key) or ()]
