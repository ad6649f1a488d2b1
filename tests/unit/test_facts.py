"""What a model is, from its config.json and its headers: against sums by hand, published sizes and odd configs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import ModelError
from launcher.models.inspect.facts import Facts, facts, facts_of
from launcher.models.inspect.header import local_tensors, tensor
from launcher.models.inspect.needs import needs
from tests.unit.models.figures import BLACKFISH, FIGURES, SAME_SHAPE

CONFIGS = Path(__file__).parent / "models" / "configs"
TINY_CHAT = Path(__file__).resolve().parents[2] / "launcher" / "models" / "shipped" / "tiny-chat"
LLAMA = "llama-3.2-1b"


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A published config.json; a change to None leaves the key out."""
    read: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return {key: value for key, value in {**read, **changes}.items() if value is not None}


def test_every_config_has_its_figures() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_model_is_what_its_card_says(name: str) -> None:
    found, figures = facts_of(config(name), None), FIGURES[name]
    assert found.parameters == pytest.approx(figures.published * 1e9, rel=0.01)
    # The figures are of a GPU, whose kernels keep mxfp4 in larger matrices than the file does.
    tolerance = 0.09 if figures.quantization == "mxfp4" else 0.01
    assert found.weights_bytes == pytest.approx(figures.weights, rel=tolerance)
    assert (found.context, found.task, found.quantization) == (
        figures.context,
        figures.task,
        figures.quantization,
    )
    assert not found.counted


# total_size in the index of the published safetensors files.
STORED = {
    "llama-3.1-8b": 16060522496, "qwen2.5-72b": 145412407296, "qwen3-30b-a3b": 61064245248,
    "qwen2.5-32b": 65527752704, "deepseek-v2-lite": 31412968448, "mixtral-8x7b": 93405585408,
    "gpt-oss-20b": 13761264768, "gpt-oss-120b": 65248815744, "phi-4": 29319014400,
}  # fmt: skip


@pytest.mark.parametrize("name", STORED)
def test_computed_weights_are_as_large_as_the_published_files(name: str) -> None:
    assert facts_of(config(name), None).weights_bytes == pytest.approx(STORED[name], rel=0.005)


@pytest.mark.parametrize("name", BLACKFISH)
def test_weights_agree_with_what_blackfish_measured(name: str) -> None:
    size, unit = BLACKFISH[name]
    found = facts_of(config(SAME_SHAPE.get(name, name)), None)
    assert found.weights_bytes / unit == pytest.approx(size, rel=0.05)


def test_the_shipped_model_is_counted_from_its_headers() -> None:
    found = facts(TINY_CHAT)
    assert (found.task, found.context, found.dtype, found.counted) == ("chat", 1024, "float16", True)
    assert found.stored_bytes == found.weights_bytes == 2361600
    assert found.parameters == 1180800


def test_headers_and_config_agree() -> None:
    read = json.loads((TINY_CHAT / "config.json").read_text())
    counted, computed = facts_of(read, local_tensors(TINY_CHAT)), facts_of(read, None)
    assert computed.weights_bytes == pytest.approx(counted.weights_bytes, rel=0.005)
    assert computed.caches == counted.caches


@pytest.mark.parametrize("name", FIGURES)
def test_facts_survive_json(name: str) -> None:
    found = facts_of(config(name), None)
    assert Facts.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "data", [{}, {"task": "chat"}, {**dict.fromkeys(f.name for f in dataclasses.fields(Facts))}]
)
def test_other_data_are_no_facts(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not the facts"):
        Facts.from_dict(data)


def test_what_vllm_does_not_load_is_not_counted() -> None:
    small = config("deepseek-v2-lite", num_hidden_layers=2, tie_word_embeddings=True)
    names = {
        "model.embed_tokens.weight": 100, "model.layers.1.self_attn.q_proj.weight": 10,
        "lm_head.weight": 1000, "model.layers.2.mlp.up_proj.weight": 1000, "mtp.fc.weight": 1000,
        "model.layers.0.self_attn.rotary_emb.inv_freq": 1000,
    }  # fmt: skip
    found = facts_of(small, [tensor(name, "BF16", (rows, 10)) for name, rows in names.items()])
    assert found.weights_bytes == 2 * 110 * 10
    assert found.stored_bytes == 2 * 4110 * 10


def test_weights_in_float32_are_halved_as_they_are_loaded() -> None:
    found = facts_of(
        config(LLAMA, torch_dtype="float32"), [tensor("model.layers.0.mlp.up_proj.weight", "F32", (8, 8))]
    )
    assert (found.dtype, found.stored_bytes, found.weights_bytes) == ("bfloat16", 256, 128)


def test_packed_parameters_are_counted_one_by_one() -> None:
    packed = [
        tensor("model.layers.0.mlp.up_proj.qweight", "I32", (16, 8)),
        tensor("model.layers.0.mlp.up_proj.scales", "F16", (1, 64)),
    ]
    assert facts_of(config("qwen2.5-72b-awq"), packed).parameters == 16 * 8 * 8


DTYPES = {
    "bfloat16": ("bfloat16", None), "float16": ("float16", None), "torch.float16": ("float16", None),
    "float32": ("bfloat16", None), "": ("bfloat16", None),
}  # fmt: skip


@pytest.mark.parametrize(("given", "dtype"), [(given, dtype) for given, (dtype, _) in DTYPES.items()])
def test_the_type_is_the_one_of_dtype_auto(given: str, dtype: str) -> None:
    assert facts_of(config(LLAMA, torch_dtype=given), None).dtype == dtype


def test_without_a_named_type_the_files_count() -> None:
    stored = [tensor("model.layers.0.mlp.up_proj.weight", "F16", (8, 8))]
    assert facts_of(config(LLAMA, torch_dtype=None), stored).dtype == "float16"


# Changes to a Llama's config, and the context and the limit that vLLM derives.
CONTEXTS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "plain": ({"rope_scaling": None}, (131072, 131072)),
    "llama3 is in it already": ({}, (131072, 131072)),
    "linear stretches": (
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, (16384, 16384),
    ),
    "yarn is in it already": (
        {"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, (4096, 4096),
    ),
    "transformers 5": (
        {"rope_scaling": None, "max_position_embeddings": 4096,
         "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, (8192, 8192),
    ),
    "longrope": (
        {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
         "rope_scaling": {"type": "longrope", "factor": 32.0}}, (4096, 131072),
    ),
    "no length": ({"max_position_embeddings": None, "model_type": "unheard-of", "rope_scaling": None}, (2048, 2**31)),
    "the smallest counts": ({"max_position_embeddings": 9999, "seq_length": 512}, (512, 512)),
    "Command-R": ({"max_position_embeddings": 8192, "model_max_length": 131072}, (131072, 131072)),
    "a broken factor": ({"rope_scaling": {"type": "linear", "factor": "big"}}, (131072, 131072)),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTEXTS)
def test_the_context_is_the_one_vllm_derives(case: str) -> None:
    changes, expected = CONTEXTS[case]
    found = facts_of(config(LLAMA, **changes), None)
    assert (found.context, found.context_limit) == expected


def test_an_embedding_model_reads_as_far_as_its_tokenizer() -> None:
    beside = {"modules.json": [{}], "tokenizer_config.json": {"model_max_length": 512}}
    assert facts_of(config("bge-m3"), None, beside=beside).context == 512
    beside = {"modules.json": [{}], "sentence_bert_config.json": {"max_seq_length": 8192}}
    assert facts_of(config("bge-m3"), None, beside=beside).context == 8192


TEMPLATE = {"tokenizer_config.json": {"chat_template": "{{ messages }}"}}
TASKS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None, str]] = {
    "nobody looked": (LLAMA, {}, None, "chat"),
    "a template in the tokenizer": (LLAMA, {}, TEMPLATE, "chat"),
    "a template in a file": (LLAMA, {}, {"tokenizer_config.json": {}, "chat_template.jinja": True}, "chat"),
    "no template": (LLAMA, {}, {"tokenizer_config.json": {}}, "completion"),
    "no tokenizer": (LLAMA, {}, {}, "completion"),
    "sentence-transformers": ("qwen3-32b", {}, {"modules.json": []}, "embedding"),
    "bare": (LLAMA, {"architectures": ["LlamaModel"]}, None, "embedding"),
    "reranker": (
        "bge-m3", {"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, None,
        "reranking",
    ),
    "classifier": (
        "bge-m3", {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes"}}, None,
        "classification",
    ),
    "reward": (LLAMA, {"architectures": ["LlamaForRewardModel"]}, None, "classification"),
    "hears": (LLAMA, {"architectures": ["UltravoxModel2"], "audio_config": {"d_model": 1}}, None, "audio"),
}  # fmt: skip


@pytest.mark.parametrize("case", TASKS)
def test_the_task_is_told_from_the_files(case: str) -> None:
    name, changes, beside, task = TASKS[case]
    assert facts_of(config(name, **changes), None, beside=beside).task == task


def test_what_cannot_be_computed_is_said() -> None:
    assert facts_of(config(LLAMA), None).doubt is None
    doubt = facts_of(config(LLAMA, model_type="deepseek_v4", compress_ratios=[4, 128]), None).doubt
    assert doubt == "The KV cache of deepseek_v4 is compressed in a way that is not computed here."


def test_a_folder_of_gguf_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(LLAMA)))
    (tmp_path / "model-Q4_K_M.gguf").touch()
    assert facts(tmp_path).quantization == "gguf"


BROKEN: dict[str, dict[str, Any]] = {
    "empty": {"architectures": []},
    "words": {"hidden_size": "large"},
    "negative": {"num_hidden_layers": -1},
    "without end": {"num_attention_heads": 10**30},
    "not a number": {"vocab_size": float("nan")},
    "an object": {"head_dim": {"a": 1}},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_config_is_said_in_a_sentence(case: str) -> None:
    broken = BROKEN[case] if case == "empty" else {**config(LLAMA), **BROKEN[case]}
    with pytest.raises(ModelError, match=r"^config\.json"):
        facts_of(broken, None)


@pytest.mark.parametrize(
    "case", ["layer_types", "rope_scaling", "quantization_config", "text_config", "architectures"]
)
@pytest.mark.parametrize("value", [[], {}, "x", 7, [[]], {"a": []}, True])
def test_odd_values_of_other_keys_never_break(case: str, value: object) -> None:
    found = facts_of({**config(LLAMA), case: value}, None)
    assert found.weights_bytes > 0


ODD: list[Any] = [0, -1, 10**400, float("nan"), "x", None, [], [0], {"a": 1}, True]


def spoiled(sound: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config with each of its values, at any depth, replaced by each odd one."""
    for key, value in sound.items():
        yield from ({**sound, key: odd} for odd in ODD)
        if isinstance(value, dict):
            yield from ({**sound, key: inner} for inner in spoiled(value))


@pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "qwen2.5-72b-awq", "gemma-3-27b"])
def test_a_hostile_config_is_weighed_or_refused(name: str) -> None:
    refused = []
    for odd in spoiled(config(name)):
        try:
            found = facts_of(odd, None)
        except ModelError as error:
            refused.append(error.message)
        else:
            needed = needs(found, tensor=2)
            assert needed.tokens_in(10**9, found.context) <= found.context
            assert needed.weights_bytes > 0
    assert refused
    assert all(message.startswith("config.json") for message in refused)
