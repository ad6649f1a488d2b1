"""The longest context of a model and the type of its values, as vLLM derives them when nobody says otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from launcher.models.inspect.header import Tensor
from launcher.models.inspect.shape import text_config

_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
# Their max_position_embeddings is the scaled one already (vllm/config/model.py, _get_and_verify_max_len).
_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "telechat3-yarn")
_UNKNOWN = 2048  # vLLM's, where the config has no length at all
_MOST = 2**31
_STRETCH_MAX = 10**6
_ENDLESS = 10**15  # tokenizers write 10³⁰ for no limit
_DTYPES = {
    "half": "float16", "float16": "float16", "float": "float32", "float32": "float32", "bfloat16": "bfloat16",
    "float64": "float32",
}  # fmt: skip
_STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
SENTENCE_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


def contexts_of(config: Mapping[str, Any], beside: Mapping[str, Any], *, pooling: bool) -> tuple[int, int]:
    """The context that vLLM takes by itself and the longest that it allows; vllm/config/model.py.

    `beside` holds the other small JSON files of the model by name; `pooling` is true for embedding models and such.
    """
    text = text_config(config)
    longest = min(_numbers(text, _LENGTHS), default=math.inf)
    if own := next(_numbers(text, ("model_max_length",)), 0):  # Command-R
        longest = own
    tokenizer = beside.get("tokenizer_config.json")
    if pooling and isinstance(tokenizer, Mapping) and text.get("position_embedding_type") == "absolute":
        longest = min(longest, next(_numbers(tokenizer, ("model_max_length",)), longest))
    if longest == math.inf:
        return _UNKNOWN, _MOST
    ropes = list(_ropes(text))
    if "gemma3" not in str(text.get("model_type")):
        longest *= _factor(ropes)
    for name in SENTENCE_FILES if pooling else ():
        found = beside.get(name)
        if isinstance(found, Mapping) and (given := next(_numbers(found, ("max_seq_length",)), 0)):
            longest = given
            break
    usual = longest = max(1, min(longest, _MOST))
    if any(_kind(rope) in ("longrope", "su") for rope in ropes):
        # Shorter requests are answered better without the scaling, so vLLM stays below it unless told otherwise.
        usual = min(next(_numbers(text, ("original_max_position_embeddings",)), longest), longest)
    return max(1, int(usual)), int(longest)


def dtype_of(config: Mapping[str, Any], tensors: Iterable[Tensor] | None, *, pooling: bool) -> str:
    """The type that `--dtype auto` means on a GPU that has bfloat16; vllm/config/model.py, _resolve_auto_dtype."""
    vision = config.get("vision_config")
    places = (config, text_config(config), vision if isinstance(vision, Mapping) else {})
    named = next(
        (value for place in places for key in ("dtype", "torch_dtype") if (value := place.get(key))), None
    )
    dtype = _DTYPES.get(str(named).removeprefix("torch."))
    if dtype is None:
        stored = {tensor.dtype for tensor in tensors or ()}
        kinds = {_STORED[kind] for kind in stored if kind in _STORED}
        dtype = kinds.pop() if len(kinds) == 1 else "float32"
    if dtype == "float32":
        dtype = "float16" if pooling else "bfloat16"
    return dtype


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("rope_parameters", "rope_scaling"):
        given = text.get(key)
        if isinstance(given, Mapping) and given:
            nested = [value for value in given.values() if isinstance(value, Mapping)]
            yield from nested or [given]
            return


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _factor(ropes: Sequence[Mapping[str, Any]]) -> float:
    factor = 1.0
    for rope in ropes:
        given = rope.get("factor", factor)
        # Below zero, or a million-fold, it is none: vLLM would not start with it.
        if _kind(rope) not in _SCALED and isinstance(given, int | float) and 0 < given <= _STRETCH_MAX:
            factor = given
    return factor


def _numbers(config: Mapping[str, Any], names: Iterable[str]) -> Iterator[float]:
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _ENDLESS:
            yield value
