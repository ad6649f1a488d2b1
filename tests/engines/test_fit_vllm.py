"""Our figures against vLLM's own: weights on each GPU, KV cache of a request, context, and the splits it refuses.

vLLM builds well-known models in their published shapes, split over as many processes as GPUs, on torch's meta device
(tests/engines/vllm_sizes.py); and one small model is really started. All of it in one process and its forks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from launcher.models.inspect.facts import facts_of
from launcher.models.inspect.needs import needs, split_trouble

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "tests" / "unit" / "models" / "configs"
BATCH = 8192
BLOCK = 128  # the CPU's own; a block of 16 tokens is split otherwise there than on a GPU
# On some processors vLLM keeps states in float32 unless told what a GPU does.
ARGUMENTS = {"block_size": BLOCK, "max_num_batched_tokens": BATCH, "mamba_ssm_cache_dtype": "bfloat16"}
CASES = [
    ("llama-3.1-8b", 1, 3), ("llama-3.2-1b", 1, 2), ("qwen2.5-72b-awq", 2, 1), ("qwen3-30b-a3b", 8, 1),
    ("mixtral-8x7b", 1, 1), ("deepseek-v2-lite", 4, 1), ("gemma-2-27b", 1, 1), ("gemma-3-27b", 2, 2),
    ("mistral-7b-v0.1", 1, 1), ("gpt-oss-20b", 1, 2), ("llama-4-scout", 1, 1), ("qwen3-next-80b-a3b", 2, 1),
    ("phi-4", 4, 1), ("phi-3.5-mini", 1, 1),
]  # fmt: skip


def config(name: str) -> dict[str, Any]:
    """The published config, as far as a processor without a GPU can run it: no pictures, no fp8 and no mxfp4."""
    read: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    quantised = read.get("quantization_config", {}).get("quant_method")
    if quantised in ("fp8", "mxfp4"):
        del read["quantization_config"]
        read["torch_dtype"] = "bfloat16"
    if "text_config" in read:
        architecture = read["architectures"][0].replace("ForConditionalGeneration", "ForCausalLM")
        tied = {"tie_word_embeddings": read["tie_word_embeddings"]} if "tie_word_embeddings" in read else {}
        read = {**read["text_config"], **tied, "architectures": [architecture], "torch_dtype": "bfloat16"}
    return read


def contexts(name: str) -> list[int]:
    longest = facts_of(config(name), None).context
    return sorted({min(1000, longest), min(32768, longest), longest})


@cache
def answers() -> dict[str, Any]:
    """What vLLM says about every case, and its log; asked once, as its import alone takes a quarter of a minute."""
    cases = [
        {"config": config(name), "tensor": tensor, "pipeline": pipeline, "contexts": contexts(name), "args": ARGUMENTS}
        for name, tensor, pipeline in CASES
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(SMALL))
        found = subprocess.run(
            [sys.executable, "tests/engines/vllm_sizes.py"],
            input=json.dumps({"cases": cases, "start": folder}),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
            check=False,
        )
    assert found.returncode == 0, found.stderr[-4000:]
    said: dict[str, Any] = json.loads(found.stdout)
    return said


@pytest.mark.parametrize("case", CASES, ids=str)
def test_our_figures_are_those_of_vllm(case: tuple[str, int, int]) -> None:
    name, tensor, pipeline = case
    said = answers()["cases"][CASES.index(case)]
    facts = facts_of(config(name), None)
    trouble = split_trouble(facts, tensor, pipeline)
    if "error" in said:
        assert trouble, said["error"]
        return
    assert trouble is None
    # On a processor nothing is under way while the next batch is put together.
    block = min(BLOCK, said["block"])  # smaller for MLA; a hybrid's own is larger, and ours to find
    ours = needs(
        facts, tensor=tensor, pipeline=pipeline, batch_tokens=BATCH, batches=pipeline, block_size=block
    )
    assert (facts.context, facts.dtype) == (said["context"], said["dtype"])
    assert ours.weights_bytes == pytest.approx(said["weights"], rel=0.005)
    for tokens, size in zip(contexts(name), said["requests"], strict=True):
        assert ours.kv_bytes(tokens) == pytest.approx(size, rel=0.001), tokens
    assert ours.requests_in(2**40, facts.context) == pytest.approx(said["concurrency"], rel=0.001)


# Four layers, two of them with a window: the smallest model whose cache is not the same in every layer.
SMALL = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "torch_dtype": "bfloat16", "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "vocab_size": 512, "sliding_window": 256, "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 32,
}  # fmt: skip


def test_a_started_vllm_reports_the_cache_that_we_say() -> None:
    log = answers()["log"]
    said = re.search(
        r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x",
        log,
    )
    assert said is not None, log[-4000:]
    tokens, context, concurrency = (float(number.replace(",", "")) for number in said.groups())
    ours = needs(facts_of(SMALL, None), batch_tokens=512, batches=1, block_size=BLOCK)
    at_once = ours.requests_in(64 * 2**20, int(context))
    assert context == facts_of(SMALL, None).context
    assert at_once == pytest.approx(concurrency, rel=0.05)
    assert at_once * context == pytest.approx(tokens, rel=0.05)
