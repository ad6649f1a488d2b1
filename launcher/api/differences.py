"""What is not the same as in a record: the model's files, the engine, the environment, the hardware that is asked for.

Owns comparing; each difference has what it was and what it is. What only a running job could tell is named as such.
"""

from __future__ import annotations

import dataclasses
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import launcher
from launcher.engines.installed import PACKAGE, Image, Installed, installed, versions
from launcher.serve.record import weights
from launcher.sessions.plan import Plan, Resources

if TYPE_CHECKING:
    from launcher.api.record import Record

NONE = "none"
_FILES_SHOWN = 8
# The packages that decide what is computed; of the others only the number is told.
_WEIGHTY = (
    "vllm", "torch", "transformers", "tokenizers", "triton", "flash-attn", "flashinfer-python", "xformers",
    "compressed-tensors", "faster-whisper", "ctranslate2", "onnxruntime", "av", "numpy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same: what it was in the record, and what it is now."""

    what: str
    then: str
    now: str


def compared(record: Record, plan: Plan) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """What of `plan` differs from `record`, and sentences for what could not be compared.

    Hashes the model's files as a session does: at most 4 GiB are read, of more only names and sizes are compared.
    """
    found: list[Difference] = []
    unknown: list[str] = []
    found += _model(record, plan)
    found += _weights(record, plan, unknown)
    found += _programs(record, plan, unknown)
    found += _plans(record.plan, plan)
    if plan.resources.gpus:
        driver = record.part("hardware").get("driver")
        was = f"it was driver {driver}" if driver else "the record does not say which driver it was"
        unknown.append(f"The GPUs and their driver are known once the job runs; {was}.")
    return tuple(found), tuple(unknown)


def _model(record: Record, plan: Plan) -> Iterator[Difference]:
    then, now = record.plan.model, plan.model
    yield from _unequal("model", then.id, now.id)
    yield from _unequal("commit", then.revision, now.revision)
    if then.revision is None or now.revision is None:
        yield from _unequal("folder of the model", then.snapshot, now.snapshot)


def _weights(record: Record, plan: Plan, unknown: list[str]) -> Iterator[Difference]:
    if plan.model.snapshot is None:
        return
    then = {str(entry.get("name")): entry for entry in record.weights}
    if not then:
        unknown.append(
            "The record names no files of the model: that session ended before they were looked at."
        )
        return
    now = {entry["name"]: entry for entry in weights(Path(plan.model.snapshot), threading.Event())}
    unequal = []
    by_size = 0
    for name in sorted(then.keys() | now.keys()):
        was, became = then.get(name), now.get(name)
        if was is None or became is None:
            unequal.append(Difference(f"file {name}", _file(was), _file(became)))
        elif was.get("sha256") and became["sha256"]:
            if was["sha256"] != became["sha256"]:
                unequal.append(Difference(f"file {name}", _file(was), _file(became)))
        elif was.get("bytes") != became["bytes"]:
            unequal.append(Difference(f"file {name}", _file(was), _file(became)))
        else:
            by_size += 1
    yield from unequal[:_FILES_SHOWN]
    if (more := len(unequal) - _FILES_SHOWN) > 0:
        yield Difference("further files of the model", f"{more} were otherwise", "")
    if by_size:
        files = "One file" if by_size == 1 else f"{by_size} files"
        unknown.append(f"{files} of the model could be compared by size only.")


def _file(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "not there"
    digest = str(entry.get("sha256") or "")
    return f"sha256 {digest[:12]}" if digest else f"{entry.get('bytes')} bytes"


def _programs(record: Record, plan: Plan, unknown: list[str]) -> Iterator[Difference]:
    if plan.engine == "simulated":
        yield from _unequal("launcher", record.part("versions").get("launcher"), launcher.__version__)
        return
    was, now = record.part("environment"), installed(plan.environment)
    name = PACKAGE.get(plan.engine, plan.engine)
    version = now.version(plan.engine)
    packaged = was.get("packages")
    listed = versions(map(str, packaged)) if isinstance(packaged, list) else {}
    # The engine says 0.32.0 of itself where its package is 0.32.0+cpu: like is compared with like.
    then = listed.get(name) or record.engine_version
    if then is None or version is None:
        unknown.append(f"The version of {name} here is known once it runs; it was {then or 'not recorded'}.")
    else:
        both = name in listed
        yield from _unequal(name, *(text if both else text.partition("+")[0] for text in (then, version)))
    yield from _images(record.image, now.image, unknown)
    yield from _packages(was, now, plan.engine)
    if was.get("python") and now.python:
        yield from _unequal("Python of the environment", was["python"], now.python)
    yield from _unequal("launcher", record.part("versions").get("launcher"), launcher.__version__)


def _images(then: dict[str, Any], now: Image | None, unknown: list[str]) -> Iterator[Difference]:
    if not then or now is None:
        return
    if then.get("id") or now.id:
        yield from _unequal("image's id", then.get("id"), now.id)
    elif now.bytes is None:
        unknown.append(f"What is in the image {now.path} is known once it runs.")
    else:
        yield from _unequal("image's size", then.get("bytes"), now.bytes)
        yield from _unequal("image's time", then.get("modified"), now.modified)


def _packages(was: dict[str, Any], now: Installed, engine: str) -> Iterator[Difference]:
    listed = was.get("packages")
    if not isinstance(listed, list) or not listed or not now.packages:
        return
    then, here = versions(str(package) for package in listed), versions(now.packages)
    unequal = [name for name in sorted(then.keys() | here.keys()) if then.get(name) != here.get(name)]
    unequal = [name for name in unequal if name != PACKAGE.get(engine)]
    for name in (name for name in unequal if name in _WEIGHTY):
        yield Difference(name, then.get(name, NONE), here.get(name, NONE))
    if others := [name for name in unequal if name not in _WEIGHTY]:
        shown = ", ".join(others[:6]) + (", …" if len(others) > 6 else "")
        yield Difference("other packages", f"{len(others)} had another version", shown)


def _plans(then: Plan, now: Plan) -> Iterator[Difference]:
    yield from _unequal("engine", then.engine, now.engine)
    yield from _unequal("engine arguments", shlex.join(then.engine_args), shlex.join(now.engine_args))
    yield from _unequal("cluster", then.cluster.name, now.cluster.name)
    for field in dataclasses.fields(Resources):
        what = field.name.replace("_", " ")
        yield from _unequal(what, getattr(then.resources, field.name), getattr(now.resources, field.name))
    yield from _unequal("hours", f"{then.limits.hours:g}", f"{now.limits.hours:g}")
    was, here = then.environment, now.environment
    yield from _unequal("environment", was.name, here.name)
    yield from _unequal("kind of environment", was.kind, here.kind)
    yield from _unequal("folder of the environment", was.path, here.path)
    yield from _unequal("image", was.image, here.image)
    yield from _unequal("binds", " ".join(was.binds), " ".join(here.binds))
    yield from _unequal("working directory", then.work_dir, now.work_dir)
    yield from _unequal("modules", " ".join(was.modules), " ".join(here.modules))
    for name in sorted({*was.env, *here.env}):
        yield from _unequal(f"variable {name}", was.env.get(name), here.env.get(name))


def _unequal(what: str, then: Any, now: Any) -> Iterator[Difference]:
    if then != now:
        yield Difference(what, _text(then), _text(now))


def _text(value: Any) -> str:
    if value is None or value == "" or value == ():
        return NONE
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
