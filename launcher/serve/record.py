"""`record.json`: what ran, from which files, where and how long, so that it can be done again and cited."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import launcher
from launcher.engines.installed import installed
from launcher.errors import LauncherError
from launcher.schedulers.step import job_nodes
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import Phase, Status

# Beyond that only names, sizes and what the hub's cache says; hashing must not slow a job.
_HASHED_BYTES = 4 * 2**30
_ODD = (
    ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError
)  # fmt: skip
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Restart:
    """One crash of the engine after which it was started again; `ready_after_s` is None unless it answered again."""

    at: float
    reason: str
    message: str
    ready_after_s: float | None = None


@dataclass(slots=True)
class Found:
    """What a running session has learnt for its record; what it had no time for is empty."""

    hardware: dict[str, Any] = field(default_factory=dict)
    program: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] | None = None
    weights: list[dict[str, Any]] = field(default_factory=list)
    read_ahead: dict[str, Any] | None = None


def weights(snapshot: Path | None, enough: threading.Event) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file of the snapshot, as far as it came until `enough`.

    The hub's cache links a weight file to a blob named by its SHA-256, so that such a file need not be read. Where that
    is a link itself, into a store that repositories share, the name there is another kind of hash.
    """
    if snapshot is None:
        return []
    # os.walk passes over folders that vanish; somebody may clear the cache meanwhile.
    found = [Path(folder, name) for folder, _, names in os.walk(snapshot) for name in names]
    budget = _HASHED_BYTES
    entries = []
    for path in sorted(found):
        try:
            if not path.is_file():
                continue
            size = path.stat().st_size
            blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
        except OSError:
            continue
        digest = blob if _SHA256.fullmatch(blob) else None
        if digest is None and size <= budget:
            budget -= size
            digest = _digest(path, enough)
        entries.append({"name": str(path.relative_to(snapshot)), "bytes": size, "sha256": digest})
    return entries


def _digest(path: Path, enough: threading.Event) -> str | None:
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while (block := file.read(1 << 22)) and not enough.is_set():
                sha256.update(block)
    except OSError:  # one file that cannot be read is no reason to end a session
        return None
    return None if enough.is_set() else sha256.hexdigest()


def program(plan: Plan) -> dict[str, Any]:
    """Where the engine's program comes from, with the packages or the image that are there now."""
    found = installed(plan.environment)
    return {
        "name": plan.environment.name,
        "kind": plan.environment.kind,
        "modules": list(plan.environment.modules),
        "image": dataclasses.asdict(found.image) if found.image is not None else None,
        "python": found.python,
        "packages": list(found.packages),
    }


def model(plan: Plan) -> dict[str, Any] | None:
    """What the model is by its own files; None where that is not known."""
    if plan.model.snapshot is None:
        return None
    # It loads what reads every kind of model, and no session waits for that.
    from launcher.models.inspect.facts import facts

    try:
        found = facts(Path(plan.model.snapshot))
    except (LauncherError, *_ODD):  # an odd description is no reason to end a session that answers
        return None
    return {
        "architecture": found.architecture,
        "task": found.task,
        "parameters": found.parameters,
        "dtype": found.dtype,
        "quantization": found.quantization,
        "quantization_bits": found.quantization_bits,
        "context": found.context,
    }


def hardware(nodes: int = 1) -> dict[str, Any]:
    """The node, and its GPUs and driver as nvidia-smi names them; where there are `nodes`, the first, and all names."""
    try:
        gpus = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,uuid", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        gpus = []
    drivers = [parts[2] for gpu in gpus if len(parts := gpu.split(", ")) > 2]
    return {
        "host": platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "gpus": gpus,
        "driver": drivers[0] if drivers else None,
        "nodes": job_nodes(nodes) if nodes > 1 else [],
    }


def write(
    plan: Plan,
    paths: SessionPaths,
    status: Status,
    *,
    engine_version: str | None,
    found: Found,
    started_at: float,
    phases: Sequence[Phase],
    restarts: Sequence[Restart],
    usage: dict[str, Any],
    over: bool = True,
) -> None:
    """Write the record, a preliminary one unless it is `over`; nothing in it is secret."""
    data = {
        "schema": 1,
        "preliminary": not over,
        "plan": dataclasses.asdict(plan),
        "job_id": status.job_id,
        "model": found.model,
        "weights": found.weights,
        "environment": found.program,
        "versions": {
            "launcher": launcher.__version__,
            plan.engine: engine_version,
            "python": platform.python_version(),
        },
        "hardware": found.hardware,
        "times": {
            "started_at": started_at,
            "ended_at": time.time() if over else None,
            "phases": [dataclasses.asdict(phase) for phase in phases],
            "read_ahead": found.read_ahead,
        },
        "restarts": [dataclasses.asdict(restart) for restart in restarts],
        "usage": usage,
        "end": None
        if not over
        else {name: getattr(status, name) for name in ("state", "reason", "message", "hint", "quote", "log")},
    }
    write_private(paths.record if over else paths.preliminary, json.dumps(data, indent=2) + "\n")
    if over:
        paths.preliminary.unlink(missing_ok=True)
