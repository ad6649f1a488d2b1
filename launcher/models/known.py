"""What the project knows of a hundred widely used models (known.yml): advice for the fit, the form and the engine.

Owns reading that file and finding a model in it. It is never a gate: a model that is not in it runs as well, only
without parsers that nobody named.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.settings.files import read_yaml
from launcher.settings.records import record

FILE = Path(__file__).with_name("known.yml")
# What publishers append to the name of a copy: -AWQ, -GPTQ-Int4, -FP8-dynamic, -quantized.w4a16, -bnb-4bit, -NVFP4, …
COPY = re.compile(
    r"(?:[-_.](?:quantized|awq|gptq|g?int[48]|[48]bit|bnb|unsloth|fp8|nvfp4|mxfp4|fp4|dynamic|block|static|kv|marlin"
    r"|tensor|w4a16|w8a16|w8a8|w4a4|w4a8|autoround|g\d+|gguf|bf16|fp16|hf))+$",
    re.IGNORECASE,
)
# Longer than any id of the hub (2 × 96) or name of a folder: the pattern above is not made for such.
_LONGEST = 300
# Llama 3.1 was called Meta-Llama-3.1 at first, and most of its copies still are.
_FORMER = re.compile(r"^meta-(?=llama-)")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the model `id`; `context` is a sensible length to start with, in tokens.

    `task` is one word of launcher.models.inspect.facts; `parameters_b` (and of them `active_b` for each token) in 10⁹.
    A copy in CTranslate2's format for the engine `whisper` names in `of` what it was converted from; `aliases` are
    what faster-whisper calls it.
    """

    id: str
    task: str
    parameters_b: float
    active_b: float | None = None
    context: int | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    engine_args: tuple[str, ...] = ()
    gated: bool = False
    licence: str = ""
    note: str = ""
    engine: str = "vllm"
    of: str | None = None
    aliases: tuple[str, ...] = ()


def known(model: str) -> Known | None:
    """What is known of `model`, an id or a name, whatever its case; a quantised copy has its original's.

    Tried in this order: the whole id, the id without what quantising appended, and the same for the name alone, so
    that copies by other publishers (RedHatAI/…-FP8) and plain folders are found: their chat template, and so their
    parsers, are the original's. Reads the file on the first call.
    """
    if len(model) > _LONGEST:
        return None
    ids, names = _index()
    wanted = model.strip().rstrip("/").lower()
    plain, name = COPY.sub("", wanted), wanted.rpartition("/")[2]
    return ids.get(wanted) or ids.get(plain) or names.get(name) or names.get(original(name))


def called(alias: str) -> Known | None:
    """The model that faster-whisper, and so many a user, calls `alias`: `turbo`, `large-v3`."""
    return next((found for found in _index()[0].values() if alias.lower() in found.aliases), None)


def converted(model: str) -> Known | None:
    """The copy of `model`, an id or a name, that is in CTranslate2's format for the engine `whisper`."""
    wanted = model.strip().rstrip("/").lower()
    own = wanted.rpartition("/")[2]
    copies = [(found.of.lower(), found) for found in _index()[0].values() if found.of]
    exact = next((found for of, found in copies if of == wanted), None)
    return exact or next((found for of, found in copies if of.rpartition("/")[2] == own), None)


def original(model: str) -> str:
    """The name that all copies of one model share: without publisher and quantisation, in lower case."""
    return _FORMER.sub("", COPY.sub("", model.rpartition("/")[2]).lower())


def known_ids() -> tuple[str, ...]:
    """The ids of all known models, in the file's order."""
    return tuple(found.id for found in _index()[0].values())


def engine_args(known: Known) -> tuple[str, ...]:
    """The arguments of vLLM that `known` advises: parsers for tools and reasoning, and what its files need."""
    tools = (
        ("--enable-auto-tool-choice", "--tool-call-parser", known.tool_parser) if known.tool_parser else ()
    )
    reasoning = ("--reasoning-parser", known.reasoning_parser) if known.reasoning_parser else ()
    return (*tools, *reasoning, *known.engine_args)


@functools.cache
def _index() -> tuple[Mapping[str, Known], Mapping[str, Known]]:
    # By id and by the name alone, both in lower case; where two publishers use one name the first entry has it.
    data = read_yaml(FILE.read_text(encoding="utf-8"))
    ids = {
        id_.lower(): record(Known, entry, id_, lambda key: f"known.yml: {key}", id=id_)
        for id_, entry in data.items()
    }
    names: dict[str, Known] = {}
    for id_, found in ids.items():
        names.setdefault(id_.rpartition("/")[2], found)
    return ids, names
