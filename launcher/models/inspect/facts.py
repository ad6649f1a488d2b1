"""What a model is, from its `config.json` and the headers of its weight files alone.

Pure data that survives JSON; no file is read after `facts()`. The rules are those of vLLM 0.32, and of CTranslate2 for
Whisper models in its format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from launcher.errors import ModelError
from launcher.models.disk import size
from launcher.models.inspect.blueprint import blueprint
from launcher.models.inspect.caches import Cache, caches_of
from launcher.models.inspect.ctranslate2 import (
    FILE,
    WHISPER,
    Binary,
    binary_in,
    missing_beside,
    parameters,
    spec_in,
    stored_as,
)
from launcher.models.inspect.fence import understood
from launcher.models.inspect.header import Tensor, local_tensors, read_any_json, read_json
from launcher.models.inspect.lengths import SENTENCE_FILES, contexts_of, dtype_of
from launcher.models.inspect.quantization import Quantization, quantization_of
from launcher.models.inspect.shape import Shape, number, plain_name, shape_of
from launcher.models.inspect.weights import Weight, loaded, parameters_of, weights_of

# The small files besides config.json that say something about a model.
BESIDE = ("tokenizer_config.json", "modules.json", "hf_quant_config.json", *SENTENCE_FILES)
TEMPLATES = ("chat_template.jinja", "chat_template.json", "chat_template")
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
# openai/whisper, model.py: its heads are 64 wide, what lies between four times as wide as the rest.
_WHISPER_TOKENS = 448
# Parameters, layers of the decoder and width: tiny to large, turbo and the distilled ones.
_WHISPERS = (
    *((39e6, 4, 384), (74e6, 6, 512), (166e6, 4, 768), (244e6, 12, 768), (394e6, 2, 1024)),
    *((756e6, 2, 1280), (769e6, 24, 1024), (809e6, 4, 1280), (1550e6, 32, 1280)),
)
_ENCODERS = {
    "albert", "bert", "camembert", "distilbert", "electra", "gte", "jina_bert", "modernbert", "mpnet", "new",
    "nomic_bert", "roberta", "xlm-roberta",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """One model: everything that a fit needs; sizes in bytes, lengths in tokens."""

    architecture: str
    model_type: str
    # chat, completion, vision, audio, transcription, embedding, reranking, classification or unknown
    task: str
    # What vLLM takes by itself, and the most that --max-model-len may be.
    context: int
    context_limit: int
    # What --dtype auto runs on a GPU that has bfloat16.
    dtype: str
    quantization: str | None
    quantization_format: str | None
    quantization_bits: float | None
    # As an engine holds them, on all GPUs together, with nothing copied.
    weights_bytes: int
    # As the files hold them, all files together; None where they were not seen.
    stored_bytes: int | None
    parameters: int
    # True: from headers; False: computed from the config.
    counted: bool
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    experts: int
    # The type of the KV cache that the checkpoint was made for; None: the model's own type.
    kv_dtype: str | None
    group: int
    block: tuple[int, int] | None
    expert_width: int
    encoder_decoder: bool
    # A sentence where the figures are not to be trusted.
    doubt: str | None
    caches: tuple[Cache, ...]
    weights: tuple[Weight, ...]

    @property
    def engine(self) -> str:
        """What runs it: `whisper` for a Whisper model in CTranslate2's format, `vllm` for all others."""
        return "whisper" if self.architecture == WHISPER else "vllm"

    @property
    def pooling(self) -> bool:
        """Whether it gives vectors or scores instead of text."""
        return self.task in ("embedding", "reranking", "classification")

    @property
    def prefixes(self) -> bool:
        """Whether vLLM keeps the caches of common beginnings (vllm/config/model.py, is_prefix_caching_supported)."""
        return not self.pooling and any(cache.kind != "state" for cache in self.caches)

    def quantised(self, method: str) -> Facts:
        """The facts of a plain model that vLLM stores in 8 bits as it loads it (`--quantization fp8`).

        The matrices of the layers shrink; embeddings, norms and a vision tower stay (vllm/.../quantization/online).
        """
        weights = tuple(
            replace(weight, floats=0, fixed=weight.fixed + weight.floats)
            if weight.place == "layer" and weight.split != "copied"
            else weight
            for weight in self.weights
        )
        size = sum(weight.count * weight.bytes(ITEMSIZE[self.dtype]) for weight in weights)
        return replace(self, weights=weights, weights_bytes=size, quantization=method, quantization_bits=8.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Facts:
        """The same facts again; raises ValueError where `data` is not what `to_dict` wrote."""
        try:
            values = {field.name: data[field.name] for field in fields(cls)}
            values["caches"] = tuple(
                Cache(**{**cache, "layers": tuple(cache["layers"])}) for cache in data["caches"]
            )
            values["weights"] = tuple(Weight(**weight) for weight in data["weights"])
            values["block"] = tuple(data["block"]) if data["block"] else None
            if not _are_of_their_types(cls, values):
                raise TypeError("a value is of another type")
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError("these are not the facts of a model") from error
        return cls(**values)


def _are_of_their_types(cls: type, values: Mapping[str, Any]) -> bool:
    for field in fields(cls):
        value = values[field.name]
        if isinstance(value, tuple):
            right = all(
                type(item) is int
                if not is_dataclass(item)
                else _are_of_their_types(type(item), _shallow(item))
                for item in value
            ) and str(field.type).startswith("tuple[")
        else:
            kinds = str(field.type).replace("float", "float | int").split(" | ")
            right = type(value).__name__.replace("NoneType", "None") in kinds
        if not right:
            return False
    return True


def _shallow(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in fields(item)}


def facts(folder: Path, *, listed: bool = False, until: float | None = None) -> Facts:
    """What the model in `folder` is; raises ModelError where it cannot be said.

    With `listed` it is one of many: headers larger than any model's are not read. Raises TimeoutError at `until`
    (monotonic seconds).
    """
    config = read_json(folder / "config.json")
    if config is None:
        raise ModelError(f"{folder} has no config.json.", "Give the folder that holds the model.")
    beside: dict[str, Any] = {name: read for name in BESIDE if (read := _beside(folder / name)) is not None}
    for name in TEMPLATES:
        if (folder / name).exists():
            beside[name] = True
    if "architectures" not in config and (binary := _whisper(folder, until)) is not None:
        return _of_whisper(binary)
    try:
        tensors = local_tensors(folder, listed=listed, until=until)
        found = facts_of(config, tensors, beside=beside)
        if tensors is None and next(folder.glob("*.gguf"), None):
            return replace(found, quantization="gguf")
        return found
    except ModelError as error:
        raise ModelError(f"{folder}: {error.message}", error.hint) from error


def _whisper(folder: Path, until: float | None) -> Binary | None:
    again = "Download the model again."
    try:
        if (spec := spec_in(folder)) is None:
            return None
        if spec != WHISPER:
            raise ModelError(f"{folder} is in the format of CTranslate2 ({spec}), and no Whisper model.")
        binary = binary_in(folder, until=until)
        lacks = missing_beside(os.listdir(folder), binary.mels)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{folder / FILE} cannot be read ({error.strerror}).", again) from error
    except ValueError as error:
        raise ModelError(f"{folder / FILE} is damaged: {error}.", again) from error
    if binary.here < binary.bytes:
        raise ModelError(f"{folder / FILE} is incomplete: it ends after {size(binary.here)}.", again)
    if lacks is not None:
        raise ModelError(f"{folder} has no {lacks}.", again)
    return binary


def _of_whisper(binary: Binary) -> Facts:
    variables = binary.variables or ()
    vocabulary, hidden = (*binary.shape("decoder/embeddings/weight"), 0, 0)[:2]
    found = _whisper_facts(
        sum(one.bytes for one in variables), stored_as(variables), binary.layers("decoder"), hidden
    )
    return replace(
        found,
        parameters=parameters(variables),
        vocabulary=vocabulary,
        counted=True,
        doubt=None if variables else "Its file is of a newer CTranslate2 than is known here.",
    )


def whisper_like(stored_bytes: int) -> Facts:
    """About what the Whisper model is whose model.bin has so many bytes, in float16 as nearly all are published."""
    count = max(1, stored_bytes // 2)
    _, layers, hidden = min(_WHISPERS, key=lambda one: abs(math.log(one[0] / count)))
    return replace(_whisper_facts(stored_bytes, "float16", layers, hidden), parameters=count)


def _whisper_facts(stored: int, dtype: str, layers: int, hidden: int) -> Facts:
    return Facts(
        architecture=WHISPER,
        model_type="whisper",
        task="transcription",
        context=_WHISPER_TOKENS,
        context_limit=_WHISPER_TOKENS,
        dtype=dtype,
        quantization=None,
        quantization_format=None,
        quantization_bits=None,
        weights_bytes=stored,
        stored_bytes=stored,
        parameters=0,
        counted=False,
        layers=layers,
        hidden=hidden,
        intermediate=4 * hidden,
        vocabulary=0,
        heads=max(1, hidden // 64),
        kv_heads=max(1, hidden // 64),
        experts=0,
        kv_dtype=None,
        group=0,
        block=None,
        expert_width=0,
        encoder_decoder=True,
        doubt=None,
        caches=(),
        weights=(),
    )


def facts_of(
    config: Mapping[str, Any],
    tensors: Sequence[Tensor] | None,
    *,
    beside: Mapping[str, Any] | None = None,
) -> Facts:
    """What the model of this `config.json` is; without `tensors` its weights are computed from the config.

    `beside` holds what the files named in BESIDE say, by name, and true for those of TEMPLATES; None where
    nobody looked.
    Raises ModelError where the config does not say enough, or is none of a model.
    """
    with understood():
        return _facts_of(config, tensors, beside)


def _facts_of(
    config: Mapping[str, Any], tensors: Sequence[Tensor] | None, beside: Mapping[str, Any] | None
) -> Facts:
    shape = shape_of(config)
    architecture = _architecture(config)
    task = _task(config, architecture, beside)
    pooling = task in ("embedding", "reranking", "classification")
    beside = beside or {}
    quantization = quantization_of(config, beside)
    usual, longest = contexts_of(config, beside, pooling=pooling)
    dtype = dtype_of(config, tensors, pooling=pooling)
    encoder_decoder = task == "transcription" and shape.model_type == "whisper"
    seen = blueprint(config, shape, dtype, quantization) if tensors is None else tensors
    known = list(loaded(seen, shape, pooling=pooling))
    weights = weights_of(known, shape, encoder_decoder=encoder_decoder)
    if not weights:
        raise ModelError("The safetensors files hold no weights.", "Download the model again.")
    return Facts(
        architecture=architecture,
        model_type=shape.model_type,
        task=task,
        context=usual,
        context_limit=longest,
        dtype=dtype,
        quantization=quantization.method if quantization else None,
        quantization_format=quantization.format if quantization else None,
        quantization_bits=quantization.bits if quantization else None,
        weights_bytes=sum(weight.count * weight.bytes(ITEMSIZE[dtype]) for weight in weights),
        stored_bytes=None if tensors is None else sum(tensor.bytes for tensor in tensors),
        parameters=parameters_of(known, quantization.bits if quantization else None),
        counted=tensors is not None,
        layers=shape.layers,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        vocabulary=shape.vocabulary,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        experts=shape.experts,
        kv_dtype=quantization.kv_dtype if quantization else None,
        group=quantization.group if quantization else 0,
        block=quantization.block if quantization else None,
        expert_width=shape.number("moe_intermediate_size", default=shape.intermediate)
        if shape.experts
        else 0,
        encoder_decoder=encoder_decoder,
        doubt=_doubt(shape),
        caches=_caches(shape, quantization, encoder_decoder),
        weights=weights,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    return plain_name(named[0]) if isinstance(named, list) and named else "unknown"


def _caches(shape: Shape, quantization: Quantization | None, encoder_decoder: bool) -> tuple[Cache, ...]:
    if shape.model_type in _ENCODERS:
        return ()  # an encoder reads its text at once and keeps nothing
    caches = caches_of(shape)
    if encoder_decoder:
        cross = Cache("cross", tuple(range(shape.layers)), shape.heads, 2 * shape.head_dim)
        return (*caches, cross)
    return caches


def _doubt(shape: Shape) -> str | None:
    if "compress_ratios" in shape.text:  # DeepSeek-V4 and what follows it
        return f"The KV cache of {shape.model_type} is compressed in a way that is not computed here."
    return None


def _task(config: Mapping[str, Any], architecture: str, beside: Mapping[str, Any] | None) -> str:
    """What the model is for, as vLLM decides between generating and pooling (vllm/config/model.py)."""
    model_type = plain_name(config.get("model_type"))
    labels = config.get("id2label")
    if model_type == "whisper" or "Voxtral" in architecture:
        return "transcription"
    if "modules.json" in (beside or {}) or (model_type in _ENCODERS and "ForSequence" not in architecture):
        return "embedding"
    if architecture.endswith(("ForSequenceClassification", "ForTokenClassification", "ClassificationModel")):
        one = number(config, "num_labels") == 1 or (isinstance(labels, Mapping) and len(labels) == 1)
        return "reranking" if one else "classification"
    if architecture.endswith(("RewardModel", "ForRewardModeling")):
        return "classification"
    if architecture.endswith(("ForTextEncoding", "EmbeddingModel", "Model")) and not architecture.endswith(
        "ChatModel"
    ):
        return "unknown" if "audio" in model_type else "embedding"
    if any(isinstance(config.get(key), Mapping) for key in ("vision_config", "thinker_config", "vit_config")):
        return "vision"
    if isinstance(config.get("audio_config"), Mapping):
        return "audio"
    if beside is None:
        return "chat"
    tokenizer = beside.get("tokenizer_config.json")
    inside = isinstance(tokenizer, Mapping) and bool(tokenizer.get("chat_template"))
    return "chat" if inside or any(name in beside for name in TEMPLATES) else "completion"


def _beside(path: Path) -> Any:
    if not os.path.lexists(path):
        return None
    try:
        return read_any_json(path)
    except ModelError:
        return None  # a broken side file is the engine's trouble; it says nothing about size
