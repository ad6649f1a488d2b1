"""What we think vLLM keeps for itself, beside what it printed in logs that people have published.

Owns the table of docs/performance.md. "Rest" is memory × fraction − weights − KV cache in GiB on one GPU; CUDA graphs
that an old log names apart are in it. We may be careful, but must not promise memory that vLLM does not have.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.models.fit.gpus import Gpu
from launcher.models.fit.options import read_options
from launcher.models.fit.reserve import GB, reserve
from launcher.models.inspect.facts import Facts, facts_of

CONFIGS = Path(__file__).parent / "models" / "configs"

A100_40, A100, A6000 = Gpu("A100", 39.4, 8.0), Gpu("A100", 79.25, 8.0), Gpu("A6000", 47.4, 8.6)
RTX_3090, A5000, L40S = Gpu("RTX 3090", 23.7, 8.6), Gpu("A5000", 23.7, 8.6), Gpu("L40S", 44.3, 8.9)
V100, H100, L4 = Gpu("V100", 31.7, 7.0), Gpu("H100", 79.1, 9.0), Gpu("L4", 22.0, 8.9)
RTX_PRO = Gpu("RTX PRO 6000", 94.9, 12.0)


@dataclass(frozen=True)
class Log:
    """One published start; `rest` is what vLLM kept."""

    model: str
    gpu: Gpu
    rest: float
    context: int = 131072
    options: str = ""
    tensor: int = 1


LOGS = {
    "1: vLLM 0.15.1": Log(
        "llama-3.1-8b", A100_40, 1.2, options="--enforce-eager --max-num-batched-tokens 8192"
    ),
    "2: 0.10.1.1": Log("llama-3.1-8b", A100_40, 1.72, options="--max-num-batched-tokens 2048"),
    "3: 0.15": Log("llama-3.1-8b", A6000, 1.75, options="--max-num-batched-tokens 2048"),
    "4: V1": Log("llama-3.1-8b", A5000, 0.9, 2048, "--enforce-eager"),
    "5: V1": Log("llama-3.1-8b", RTX_3090, 1.3),
    "6: 0.10.0": Log("llama-3.2-1b", L40S, 0.5, options="--enforce-eager"),
    "8: 0.19.0": Log("gpt-oss-20b", A100, 1.2),
    "9: 0.11.2": Log("gpt-oss-120b", H100, 1.0, options="--max-num-batched-tokens 2048 --max-num-seqs 6"),
    "13: mid-2026": Log("qwen3-32b", RTX_PRO, 3.8, 40960),
    "14: mid-2026": Log("qwen3-32b", RTX_PRO, 1.6, 40960, tensor=2),
    "15: 0.9.0.1": Log("qwen2.5-vl-7b", L4, 2.81, 2048),
    "16: 0.23.0": Log("qwen2.5-vl-7b", A100, 16.0, 128000),
}


def described(model: str) -> Facts:
    return facts_of(json.loads((CONFIGS / f"{model}.json").read_text()), None)


@pytest.mark.parametrize("name", LOGS)
def test_what_vllm_keeps_is_as_in_the_log(name: str) -> None:
    log = LOGS[name]
    found = reserve(
        described(log.model), log.gpu, read_options(log.options.split()),
        tensor=log.tensor, pipeline=1, context=log.context,
    )  # fmt: skip
    assert log.rest - 1.0 <= found / GB <= log.rest + 2.0


def test_without_videos_a_long_context_costs_no_more() -> None:
    what = described("qwen2.5-vl-7b")
    without = read_options(["--limit-mm-per-prompt", json.dumps({"video": 0})])
    assert reserve(what, A100, without, tensor=1, pipeline=1, context=128000) < 5 * GB
