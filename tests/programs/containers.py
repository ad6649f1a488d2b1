"""Images for the `apptainer` beside this file, and module trees for environment-modules.

Owns what a site's administrator would prepare; the programs that use it are the launcher's.

    image = make_image(folder / "vllm.sif", [sys.prefix], labels={"version": "1"})
    tree = make_module_tree(folder / "modules", "vllm/0.32", path=[folder / "bin"], variables={"VLLM_X": "1"})
    env = {"PATH": f"{PROGRAMS}:...", "MODULEPATH": str(tree)}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

# On PATH it provides `apptainer` (and `singularity`, which is a link to it).
PROGRAMS = Path(__file__).parent / "bin"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/ssl", "/etc/ld.so.cache")


def make_image(
    path: Path,
    contains: Sequence[Path | str] = (),
    *,
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Path:
    """Write an image with this machine's system folders and `contains`; `env` is what the image itself sets."""
    folders = [*(folder for folder in _SYSTEM if Path(folder).exists()), *map(str, contains)]
    content = {"contains": folders, "labels": dict(labels or {}), "env": dict(env or {})}
    # A real image file starts with the same line.
    path.write_text("#!/usr/bin/env run-singularity\n" + json.dumps(content))
    return path


def make_module_tree(
    tree: Path,
    name: str,
    *,
    path: Sequence[Path] = (),
    variables: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
) -> Path:
    """Add the module `name` (such as `vllm/0.32`) to a tree for MODULEPATH; returns the tree.

    Loading it puts the folders of `path` first on PATH, sets `variables` and loads `requires` before.
    """
    file = tree / name
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["#%Module1.0", *(f"module load {other}" for other in requires)]
    lines += [f"prepend-path PATH {{{folder}}}" for folder in reversed(path)]
    lines += [f"setenv {variable} {{{value}}}" for variable, value in (variables or {}).items()]
    file.write_text("\n".join(lines) + "\n")
    return tree
