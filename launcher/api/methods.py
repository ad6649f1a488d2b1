"""A paragraph for the methods section of a paper, made of facts that a record holds and of nothing else."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Any

from launcher.api.record import Record
from launcher.sessions.clock import clock

_ENGINES = {"vllm": "vLLM", "whisper": "faster-whisper"}
_MOST = 1e11
_ONES = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def methods(record: Record) -> str:
    """The paragraph; what the record does not hold is left out."""
    return " ".join(_sentences(record))


def _sentences(record: Record) -> Iterator[str]:
    plan = record.plan
    if plan.engine == "simulated":
        yield f"No model was used: the session {plan.id} ran the launcher's simulated engine."
    else:
        yield f"We used the model {_model(record)}, served by {_engine(record)}{_hardware(record)}."
        yield from _precision(record)
        yield from _files(record)
        if plan.engine_args:
            yield f"The engine was started with {shlex.join(plan.engine_args)}."
        else:
            yield "The engine was started without further arguments."
    version = record.part("versions").get("launcher")
    launcher = f"the launcher{f' {version}' if version else ''} of Inference OnDemand"
    yield f"The session was started with {launcher}{_times(record)}{_use(record)}."


def _model(record: Record) -> str:
    model = record.plan.model
    parameters = record.part("model").get("parameters")
    size = (
        f", {_parameters(parameters)} parameters"
        if isinstance(parameters, int) and 0 < parameters < 10**15
        else ""
    )
    commit = f"commit {model.revision}" if model.revision else "a copy without a recorded commit"
    return f"{model.id} ({commit}{size})"


def _parameters(count: int) -> str:
    if count >= 10**9:
        return f"{count / 1e9:.3g} billion"
    return f"{count / 1e6:.3g} million" if count >= 10**6 else f"{count:,}"


def _engine(record: Record) -> str:
    name = _ENGINES.get(record.plan.engine, record.plan.engine)
    version = record.engine_version
    image = record.image
    where = f" in the container image {image['path']}" if image.get("path") else ""
    identity = f" (id {image['id']})" if image.get("id") else ""
    return f"{name}{f' {version}' if version else ''}{where}{identity}"


def _hardware(record: Record) -> str:
    wanted, hardware = record.plan.resources, record.part("hardware")
    count = wanted.gpus * wanted.nodes
    names = list(dict.fromkeys(line.partition(",")[0].strip() for line in record.gpus))
    driver = f", driver {hardware['driver']}" if hardware.get("driver") else ""
    cluster = (
        "" if record.plan.cluster.scheduler == "local" else f" of the cluster {record.plan.cluster.name}"
    )
    if count:
        kind = " and ".join(names) or wanted.gpu_type
        about = f" ({kind}{driver})" if kind else ""
        return f" on {_count(count, 'GPU')}{about}{cluster}"
    if wanted.cpus:
        return f" on {_count(wanted.cpus * wanted.nodes, 'processor core')}{cluster}, without a GPU"
    return f" without a GPU{f' on a node{cluster}' if cluster else ''}"


def _precision(record: Record) -> Iterator[str]:
    arguments = record.plan.engine_args
    dtype = _given(arguments, "--dtype") or _given(arguments, "--compute-type")
    asked = _given(arguments, "--quantization", "-q")
    model = record.part("model")
    own, bits = model.get("quantization"), model.get("quantization_bits")
    if own:
        width = f" ({bits:g} bits)" if isinstance(bits, int | float) else ""
        yield f"The weights are quantized with {own}{width}."
    elif asked:
        yield f"The weights were quantized with {asked} as they were loaded."
    elif model:
        yield "The weights are not quantized."
    if dtype and dtype != "auto":
        yield f"It ran in {dtype}."


def _files(record: Record) -> Iterator[str]:
    hashed = sum(1 for entry in record.weights if entry.get("sha256"))
    if hashed:
        hashes = "hash" if hashed == 1 else "hashes"
        verb = "is" if hashed == 1 else "are"
        files = _count(hashed, "file")
        yield f"The SHA-256 {hashes} of {files} of the model {verb} in the session's record."


def _times(record: Record) -> str:
    times = record.part("times")
    started, ended = _number(times.get("started_at")), _number(times.get("ended_at"))
    if started is None:
        return ""
    day = time.gmtime(started)
    text = f" on {day.tm_mday} {time.strftime('%B %Y', day)}"
    return f"{text} and ran for {clock(ended - started)}" if ended is not None else text


def _use(record: Record) -> str:
    use = record.part("usage")
    requests = _whole(use.get("requests"))
    if not requests or record.preliminary:
        return ""
    parts = []
    read, written, heard = (_whole(use.get(key)) for key in ("prompt_tokens", "completion_tokens", "audio_s"))
    if read or written:
        parts.append(f"{_count(read, 'token')} read, {_count(written, 'token')} written")
    if heard:
        parts.append(f"{clock(heard)} of audio")
    about = f" ({'; '.join(parts)})" if parts else ""
    return f"; it answered {_count(requests, 'request')}{about}"


def _whole(value: Any) -> int:
    return round(_number(value) or 0)


def _number(value: Any) -> float | None:
    """`value` where it is a number that a clock or a counter could show."""
    return value if isinstance(value, int | float) and 0 <= value <= _MOST else None


def _count(number: int, what: str) -> str:
    words = _ONES[number] if 0 <= number < len(_ONES) else f"{number:,}"
    return f"{words} {what}{'' if number == 1 else 's'}"


def _given(arguments: tuple[str, ...], *names: str) -> str | None:
    """The value of the last of these options, in either way of writing it."""
    found = None
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in names:
            found = value if equals else next(iter(arguments[number + 1 : number + 2]), None)
    return found
