"""Other words for what a request asks: those of vec-inf, Blackfish, della-inference and sbatch, as fields of ours.

Owns the words and their ways to write times, sizes, lists and variables; which of several sources wins is `asked`'s
business.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher.engines import ENGINES
from launcher.engines.vllm_options import takes
from launcher.errors import RequestError
from launcher.planning.request import Request

Fields = dict[str, Any]

FIELDS = tuple(field.name for field in dataclasses.fields(Request))
SAME = {
    "resource_type": "gpu_type",
    "num_nodes": "nodes",
    "gpus_per_node": "gpus",
    "cpus_per_task": "cpus",
    "ntasks_per_node": "cpus",
    "job_name": "name",
    "node_list": "nodelist",
    "venv": "environment",
    "image_ref": "environment",
    "serve": "model",
}
# What vec-inf's files say of each model, and what the model's own files say as well.
OF_MODEL = ("model_family", "model_variant", "model_type", "vocab_size")
_READ = "It is read from the model itself."
_AZURE = "To publish an endpoint elsewhere: launcher connect --publish, where the site allows it."
# Fields that are no texts.
_TYPES: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("hours", "idle_minutes", "memory_gb"), float),
    **dict.fromkeys(("nodes", "gpus", "cpus", "max_model_len"), int),
    **dict.fromkeys(("page", "trust_remote_code", "fit_check"), bool),
}
# Accepted, because scripts have them, and without meaning here.
NOTES: Mapping[str, str] = {
    **dict.fromkeys(OF_MODEL, _READ),
    **dict.fromkeys(("azure", "azure_user", "azure_port"), _AZURE),
    **dict.fromkeys(("mail_type", "mail_user"), "No mails are sent; launcher wait ends when it is ready."),
    **dict.fromkeys(("defaults", "use_pli"), "A set of such choices is a profile: --profile NAME."),
    "output": "The logs are in the session's folder, and --log-dir says where that is.",
    "port": "The kernel chooses a free port, and launcher status shows it.",
    "api_key": "Each session makes its own key; launcher keys new makes further ones.",
    "grace_period": "The site says how long a start may take (session.start_timeout_minutes).",
}
PER_GPU = ("mem_per_gpu", "cpus_per_gpu")
# What `asked` itself reads: where the weights are, under another name.
WEIGHTS = ("hf_model", "model_weights_parent_dir")
_SHORT = {"-q": "--quantization", "-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size"}
_TIME = re.compile(r"(?:(\d{1,6})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?")
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_GRES = re.compile(r"(?:gpu:(?:([A-Za-z0-9_][A-Za-z0-9_.-]*):)?)?(\d{1,6})")


def fields_of(word: str, value: Any, option: str) -> Fields | None:
    """The fields of a request that `word` with `value` means; None for a word that nobody knows.

    `option` is how the user wrote it, for errors. Raises RequestError for a value that cannot be read.
    """
    word = SAME.get(word, word)
    if (read := _READERS.get(word)) is not None:
        return read(value, option)
    if word in FIELDS:
        return {word: tuple(value) if isinstance(value, list) else value}
    name = f"--{word.replace('_', '-')}"
    if (follows := takes(name)) is None:
        return None
    if follows == "none":
        value = _switch(value, option)
    return {"engine_args": _engine_args({name: value}, option)}


def typed(word: str, text: str) -> Any:
    """The value of `word=text` on a command line, where a number or a yes stands as a text."""
    if (kind := _TYPES.get(SAME.get(word, word))) is None:
        return text
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        return text  # of a wrong type, which the request's check says


def known_words() -> list[str]:
    """Every word with a meaning, for the near ones of a slip of the hand."""
    return sorted({*FIELDS, *SAME, *_READERS, *NOTES, *PER_GPU, *WEIGHTS})


def per_gpu(word: str, value: Any, option: str, gpus: Any) -> Fields:
    """What one of PER_GPU means for so many GPUs."""
    if not isinstance(gpus, int):
        raise RequestError(f"{option} needs a number of GPUs.", "Name it: --gpus N.")
    if word == "mem_per_gpu":
        return {"memory_gb": gigabytes(value, option) * gpus}
    return {"cpus": _whole(value, option) * gpus}


def hours(value: Any, option: str) -> float:
    """Hours in a time as Slurm writes it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    found = _TIME.fullmatch(str(value).strip())
    if isinstance(value, bool) or not found:
        raise RequestError(
            f"{option} must be a time such as 08:00:00, 90 (minutes) or 2-12, not {_shown(value)}.",
            "Or write --hours 8.",
        )
    days, *rest = (int(part) if part is not None else None for part in found.groups())
    first, second, third = rest
    if days is not None:
        seconds = days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        seconds = (first or 0) * 3600 + (second or 0) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    return seconds / 3600


def gigabytes(value: Any, option: str) -> float:
    """GiB in a size such as 64G, 512M or 1T; a number alone is in GiB."""
    found = None if isinstance(value, bool) else _SIZE.fullmatch(str(value).strip())
    if not found:
        raise RequestError(f"{option} must be a size such as 64G, not {_shown(value)}.", "Write it in G.")
    return float(found[1]) * {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1, "T": 1024}[found[2].upper() or "G"]


def commas(text: str) -> list[str]:
    """The parts between commas, but not between those inside brackets or quotes: values may be JSON."""
    parts, start, depth, quote, escaped = [], 0, 0, "", False
    for place, char in enumerate(text):
        if quote:
            quote, escaped = ("" if char == quote and not escaped else quote), char == "\\" and not escaped
        elif char == '"' or (char == "'" and depth):
            quote, escaped = char, False
        elif char in "[{(":
            depth += 1
        elif char in ")}]":
            depth = max(0, depth - 1)
        elif char == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _engine_args(value: Any, option: str) -> tuple[str, ...]:
    """Arguments of vLLM from `a=b,c`, or from a block of names and values."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in commas(value)]
        given: list[tuple[str, Any]] = [
            (name.strip(), text.strip() if equals else True) for name, equals, text in parts
        ]
    elif isinstance(value, Mapping):
        given = [(str(name), text) for name, text in value.items()]
    elif isinstance(value, (list, tuple)):
        return tuple(map(str, value))
    else:
        raise RequestError(f"{option} must be arguments, not {_shown(value)}.", "Write --a=1,--b.")
    found: list[str] = []
    for written, text in given:
        name = written if written.startswith("-") else f"--{written}"
        name = _SHORT.get(name, name)
        if text is True or text is None:
            found.append(name)
        elif text is False:
            found.append(f"--no-{name.removeprefix('--')}")
        elif isinstance(text, list):
            found += [name, *map(str, text)]
        else:
            shown = json.dumps(text) if isinstance(text, dict) else str(text)
            found += [f"{name}={shown}"] if name.startswith("--") else [name, shown]
    return tuple(found)


def _env(value: Any, option: str) -> Fields:
    """Variables from `A=1,B=2`, with a file of such lines in place of any of them, or from a block."""
    if isinstance(value, Mapping):
        return {"env": {str(name): "" if text is None else _text(text) for name, text in value.items()}}
    if not isinstance(value, str):
        raise RequestError(f"{option} must be variables, not {_shown(value)}.", "Write NAME=value.")
    found: dict[str, str] = {}
    for part in value.split(","):
        name, equals, text = part.partition("=")
        if equals:
            found[name.strip()] = text.strip()
        elif part.strip():
            found.update(_env_file(part.strip(), option))
    return {"env": found}


def _env_file(name: str, option: str) -> dict[str, str]:
    try:
        with Path(name).expanduser().open(encoding="utf-8") as file:
            lines = file.read(1_000_000).splitlines()
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be read"
        raise RequestError(
            f"{option} names {_shown(name)}, which is neither NAME=value nor a file to read: {why}.",
            "Write NAME=value, or the path of a file with such lines.",
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        said = line.strip().removeprefix("export ").strip()
        if not said or said.startswith("#"):
            continue
        variable, equals, text = said.partition("=")
        if not equals:
            raise RequestError(f"{name}, line {number}: {_shown(said)} is not NAME=value.", "Correct it.")
        text = text.strip()
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        found[variable.strip()] = text[1:-1] if quoted else text
    return found


def _gres(value: Any, option: str) -> Fields:
    found = None if isinstance(value, bool) else _GRES.fullmatch(str(value).strip())
    if not found:
        raise RequestError(
            f"{option} must be a number of GPUs, or gpu:TYPE:N, not {_shown(value)}.", "Write --gpus N."
        )
    return {"gpus": int(found[2]), **({"gpu_type": found[1]} if found[1] else {})}


def _binds(value: Any, option: str) -> Fields:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise RequestError(f"{option} must be folders, not {_shown(value)}.", "Write /a,/b:/inside.")
    return {"binds": tuple(str(part).strip() for part in parts if str(part).strip())}


def _engine(value: Any, option: str) -> Fields:
    if value not in ENGINES:
        raise RequestError(
            f"The engine {_shown(value)} is not offered here.",
            f"Choose one of: {', '.join(sorted(ENGINES))}.",
        )
    return {"engine": value}


def _sglang(value: Any, option: str) -> Fields:
    raise RequestError(
        "SGLang is not offered here, so that its arguments mean nothing.",
        "Use --vllm-args, or an engine's own.",
    )


def _data_type(value: Any, option: str) -> Fields:
    return {"engine_args": (f"--dtype={value}",)} if value != "auto" else {}


def _whole(value: Any, option: str) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value)):
        raise RequestError(f"{option} must be a whole number, not {_shown(value)}.", "Correct it.")
    return int(value)


def _switch(value: Any, option: str) -> bool:
    said = {"true": True, "false": False, "": True}.get(_text("" if value is None else value).lower())
    if said is None:
        raise RequestError(f"{option} must be true or false, not {_shown(value)}.", "Correct it.")
    return said


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    return repr(str(value)[:60])


_READERS: Mapping[str, Callable[[Any, str], Fields]] = {
    "time": lambda value, option: {"hours": hours(value, option)},
    "mem_per_node": lambda value, option: {"memory_gb": gigabytes(value, option)},
    "mem": lambda value, option: {"memory_gb": gigabytes(value, option)},
    "gres": _gres,
    "bind": _binds,
    "binds": _binds,
    "mount": lambda value, option: _binds([value], option),
    "env": _env,
    "engine": _engine,
    "engine_args": lambda value, option: {"engine_args": _engine_args(value, option)},
    "vllm_args": lambda value, option: {"engine_args": _engine_args(value, option)},
    "sglang_args": _sglang,
    "data_type": _data_type,
}
