"""What one GPU of a split holds: against sums by hand, and the splits that vLLM refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from launcher.models.inspect.facts import Facts, facts_of
from launcher.models.inspect.header import tensor
from launcher.models.inspect.needs import needs, split_trouble, stages_of
from tests.unit.models.figures import FIGURES

CONFIGS = Path(__file__).parent / "models" / "configs"


def model(name: str, **changes: Any) -> Facts:
    return facts_of({**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}, None)


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("name", FIGURES)
def test_weights_on_each_gpu(name: str, gpus: int) -> None:
    facts, figures = model(name), FIGURES[name]
    expected = figures.per_gpu.get(gpus, figures.weights / gpus)
    if expected is None:
        assert split_trouble(facts, gpus, 1)
    else:
        assert split_trouble(facts, gpus, 1) is None
        assert needs(facts, tensor=gpus).weights_bytes == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", FIGURES)
def test_cache_of_a_token_and_of_a_long_request(name: str) -> None:
    facts, figures = model(name), FIGURES[name]
    found = needs(facts)
    assert found.kv_bytes_per_token == figures.kv_token
    assert found.kv_bytes(min(32768, facts.context)) == pytest.approx(figures.kv_32k, rel=0.001)


def test_kv_heads_are_copied_where_there_are_more_gpus() -> None:
    facts = model("qwen3-30b-a3b")  # four KV heads
    assert [needs(facts, tensor=gpus).kv_bytes_per_token for gpus in (1, 2, 4, 8)] == [
        98304,
        49152,
        24576,
        24576,
    ]


def test_a_latent_cache_is_on_every_gpu() -> None:
    facts = model("deepseek-v3")
    assert needs(facts, tensor=8).kv_bytes_per_token == needs(facts).kv_bytes_per_token == 61 * 576 * 2


def test_each_stage_of_a_pipeline_has_its_layers() -> None:
    assert [len(stage) for stage in stages_of(32, 3)] == [11, 11, 10]  # the last stage has the head to carry
    assert [len(stage) for stage in stages_of(61, 4)] == [15, 15, 16, 15]
    facts = model("llama-3.1-8b")
    both = needs(facts, tensor=2, pipeline=2)
    assert both.weights_bytes == pytest.approx(FIGURES["llama-3.1-8b"].weights / 4, rel=0.001)
    assert both.kv_bytes(1024) == needs(facts).kv_bytes(1024) // 4


def test_a_tied_embedding_is_on_the_first_and_on_the_last_stage() -> None:
    half = needs(model("llama-3.2-1b"), pipeline=2).weights_bytes
    assert half == pytest.approx((128256 * 2048 + 8 * 60_817_408) * 2, rel=0.001)


@pytest.mark.parametrize(
    ("kv_dtype", "token"),
    [
        ("auto", 128),
        ("fp8", 64),
        ("fp8_e5m2", 64),
        ("int8_per_token_head", 72),
        ("nvfp4", 36),
        ("unheard-of", 128),
    ],
)
def test_the_type_of_the_cache(kv_dtype: str, token: int) -> None:
    # 32 layers of 8 heads; for each 32 values of key and 32 of value; int8 adds two scales of 4 bytes.
    facts = model("llama-3.1-8b", head_dim=32)
    assert needs(facts, kv_dtype=kv_dtype).kv_bytes_per_token == 32 * 8 * token


def test_a_checkpoint_made_for_a_smaller_cache_gets_it() -> None:
    scheme = {"num_bits": 8, "type": "float"}
    quantised = {"quant_method": "compressed-tensors", "kv_cache_scheme": scheme}
    facts = model("llama-3.1-8b", quantization_config=quantised)
    assert needs(facts).kv_bytes_per_token == 65536
    assert needs(facts, kv_dtype="bfloat16").kv_bytes_per_token == 131072


def test_float32_is_twice_as_large() -> None:
    facts = model("llama-3.1-8b")
    wide = needs(dataclasses.replace(facts, dtype="float32"))
    assert wide.weights_bytes == 2 * needs(facts).weights_bytes
    assert wide.kv_bytes_per_token == 2 * needs(facts).kv_bytes_per_token


def test_quantised_while_it_is_loaded() -> None:
    facts = model("llama-3.1-8b")
    expected = 2 * 128256 * 4096 * 2 + (8.03e9 - 2 * 128256 * 4096)
    assert needs(facts, quantize="fp8").weights_bytes == pytest.approx(expected, rel=0.001)
    awq = model("qwen2.5-72b-awq")
    assert needs(awq, quantize="fp8") == needs(awq)


def test_a_short_request_takes_whole_blocks() -> None:
    found = needs(model("llama-3.1-8b"))
    assert [found.kv_bytes(tokens) // 131072 for tokens in (0, 1, 16, 17)] == [0, 16, 16, 32]


def test_a_window_is_kept_with_the_tokens_under_way() -> None:
    facts = model("mistral-7b-v0.1")
    few = needs(facts, batch_tokens=2048, batches=1)
    assert few.kv_bytes(32768) == (-(-(4095 + 2048) // 16) + 1) * 16 * 131072
    assert few.kv_bytes(100) == (7 + 1) * 16 * 131072


def test_the_longest_request_and_how_many_a_cache_holds() -> None:
    found = needs(model("llama-3.1-8b"))
    gigabyte = 2**30
    # One block is vLLM's own: 511 of 512 are left for one request.
    assert found.tokens_in(gigabyte, 131072) == 511 * 16
    assert found.tokens_in(gigabyte, 4096) == 4096
    assert found.tokens_in(0, 131072) == 0
    assert found.requests_in(gigabyte, 4096) == 2.0


def test_a_model_without_cache_takes_any_number_of_requests() -> None:
    found = needs(model("bge-m3"))
    assert (found.kv_bytes(512), found.tokens_in(0, 8194)) == (0, 8194)
    assert found.requests_in(0, 512) == float("inf")


TROUBLE = {
    ("llama-3.1-8b", 3, 1): "32 attention heads cannot be divided by 3.",
    ("qwen2.5-7b-gptq-int4", 8, 1): "28 attention heads cannot be divided by 8.",
    ("phi-4", 4, 1): "10 key-value heads cannot be divided by 4.",
    ("qwen3-30b-a3b-fp8", 8, 1): (
        "An expert's inner width of 768 divided by 8 is no multiple of 128, the block of its fp8 quantisation."
    ),
    ("llama-3.1-8b", 1, 33): "32 layers cannot be divided into 33 pipeline stages.",
    ("whisper-large-v3", 1, 2): "vLLM does not split WhisperForConditionalGeneration over pipeline stages.",
    ("bge-m3", 1, 2): "vLLM does not split XLMRobertaModel over pipeline stages.",
}


@pytest.mark.parametrize("case", TROUBLE, ids=str)
def test_a_split_that_vllm_refuses(case: tuple[str, int, int]) -> None:
    name, gpus, stages = case
    assert split_trouble(model(name), gpus, stages) == TROUBLE[case]


def test_groups_of_integers_must_stay_whole() -> None:
    facts = model("qwen2.5-72b-awq", intermediate_size=29568)  # the size before it was made divisible
    assert split_trouble(facts, 8, 1) == (
        "The layers' inner width of 29568 divided by 8 is no multiple of 128, the block of its awq quantisation."
    )
    assert split_trouble(model("qwen2.5-72b-awq"), 8, 1) is None


def test_published_names_go_where_vllm_puts_them() -> None:
    # Name, shape, and the part of it that is on each of two GPUs, both stages being one.
    names = {
        "language_model.model.embed_tokens.weight": 0.5,
        "language_model.model.layers.0.self_attn.q_proj.weight": 0.5,
        "language_model.model.layers.0.self_attn.k_proj.weight": 1.0,
        "language_model.model.layers.0.mlp.gate.weight": 1.0,
        "language_model.model.layers.0.mlp.experts.3.down_proj.weight": 0.5,
        "language_model.model.layers.0.block_sparse_moe.gate.weight": 1.0,
        "language_model.model.layers.0.self_attn.kv_a_proj_with_mqa.weight": 1.0,
        "language_model.model.layers.0.self_attn.kv_b_proj.weight": 0.5,
        "language_model.model.layers.0.self_attn.qkv_proj.weight": 0.5 + 0.5 / 3,
        "vision_tower.vision_model.encoder.layers.40.self_attn.k_proj.weight": 0.5,
        "visual.blocks.31.attn.qkv.weight": 0.5,
        "multi_modal_projector.linear_1.weight": 0.5,
        "language_model.lm_head.weight": 0.5,
    }
    one_head = {
        "architectures": ["X"], "model_type": "llava", "vision_config": {}, "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 1, "vocab_size": 64, "intermediate_size": 64,
        },
    }  # fmt: skip
    for name, share in names.items():
        facts = facts_of(one_head, [tensor(name, "BF16", (30, 30))])
        assert needs(facts, tensor=2).weights_bytes == pytest.approx(share * 1800, abs=2), name
