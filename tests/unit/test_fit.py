"""The fit: right verdicts for well-known models on well-known GPUs, reasoned by hand, and advice that holds."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from launcher.models.fit.gpus import known_gpus
from launcher.models.fit.verdict import Fit, Hardware, fit, hardware
from launcher.models.inspect.facts import Facts, facts_of
from launcher.settings.schema import Profile
from tests.unit.fit_models import CONFIGS

CHAT = {"tokenizer_config.json": {"chat_template": "{{ messages }}"}}


def model(name: str) -> Facts:
    return facts_of(CONFIGS[name], None, beside={"modules.json": []} if name == "bge-large" else CHAT)


def machine(text: str, memory_gb: float | None = 500, gpus_max: int | None = None) -> Hardware:
    """`2 × a100_80gb`, or `cpu`."""
    if text == "cpu":
        return Hardware("cpu", 1, 0, None, memory_gb)
    count, _, kind = text.partition(" × ")
    return Hardware(text, 1, int(count), known_gpus(kind)[0], memory_gb, gpus_max)


# Weights in GB of 2**30: parameters × bytes. Usable on one GPU is 0.92 of what the driver reports, less about 2.
TABLE = [
    # 8.03e9 × 2 = 15.0; 131072 tokens are 16.0 more
    ("llama-8b", "1 × a100_80gb", "fits"),
    ("llama-8b", "1 × a100_40gb", "fits"),
    ("llama-8b", "1 × l40s", "fits"),
    ("llama-8b", "1 × a10", "fits-if"),  # 20.2 − 15.0 − 2: a short context
    ("llama-8b", "1 × v100_32gb", "fits-if"),  # 29.2 − 15.0 − 2 = 12: less than 16
    ("llama-8b", "1 × v100_16gb", "fits-if"),  # 14.5 < 15.0: with weights in the node's memory
    ("llama-8b", "1 × t4", "fits-if"),
    ("llama-8b", "1 × a2", "fits-if"),
    ("llama-8b", "1 × a100_1g.10gb", "does-not-fit"),
    ("llama-8b", "4 × h100_80gb", "fits"),
    # 70.6e9 × 2 = 131.4
    ("llama-70b", "1 × h100_80gb", "does-not-fit"),
    ("llama-70b", "1 × h200", "fits-if"),  # 128.5 usable: with weights in the node's memory
    ("llama-70b", "1 × b200", "fits-if"),  # 164 − 131.4 − 3: 30 GB are too few for 131072 tokens (40 GB)
    ("llama-70b", "2 × a100_80gb", "fits-if"),  # 145.6 − 131.4 − 4.5: a short context
    ("llama-70b", "2 × a100_40gb", "does-not-fit"),
    ("llama-70b", "4 × a100_40gb", "fits-if"),  # 144.9 − 131.4 − 9: a short context
    ("llama-70b", "4 × a100_80gb", "fits"),
    ("llama-70b", "8 × v100_32gb", "fits"),  # 29.2 − 16.4 − 2.5 = 10 on each, 5 needed
    ("llama-70b", "4 × l40s", "fits-if"),
    ("llama-70b", "2 × h200", "fits"),
    ("llama-70b", "8 × mi250x", "fits"),
    ("llama-70b", "1 × mi300x", "fits-if"),  # 176 − 131.4 − 4.8: 39.7 GB, and its own context takes 40
    # 4 bits: 37.0
    ("llama-70b-awq", "1 × a100_80gb", "fits-if"),  # 72.8 − 37.0 − 2.3 = 33.5: less than 40
    ("llama-70b-awq", "2 × a100_80gb", "fits"),
    ("llama-70b-awq", "1 × a100_40gb", "fits-if"),  # 36.2 < 37.0
    ("llama-70b-awq", "4 × t4", "fits-if"),
    ("llama-70b-awq", "2 × v100_32gb", "does-not-fit"),  # AWQ needs 7.5
    # 8 bits: 67.7
    ("llama-70b-fp8", "2 × h100_80gb", "fits"),  # 2 × 72.8 − 67.7 − 5 = 73: more than 40
    ("llama-70b-fp8", "2 × a100_80gb", "fits"),  # weight-only
    ("llama-70b-fp8", "8 × v100_32gb", "does-not-fit"),
    ("llama-70b-fp8", "1 × l40s", "does-not-fit"),
    # 0.49e9 × 2 = 0.9
    ("qwen2.5-0.5b", "1 × t4", "fits"),
    ("qwen2.5-0.5b", "1 × a100_1g.5gb", "fits"),
    ("qwen2.5-0.5b", "1 × p100", "fits"),
    ("qwen2.5-0.5b", "8 × h200", "fits"),
    # 30.5e9 × 2 = 56.9; 40960 tokens are 3.8
    ("qwen3-30b-a3b", "1 × a100_80gb", "fits"),
    ("qwen3-30b-a3b", "1 × a100_40gb", "does-not-fit"),
    ("qwen3-30b-a3b", "2 × a100_40gb", "fits"),
    ("qwen3-30b-a3b", "1 × l40s", "does-not-fit"),
    ("qwen3-30b-a3b", "1 × h100_80gb", "fits"),
    # 671e9 × 1 = 625
    ("deepseek-v3", "8 × h100_80gb", "does-not-fit"),  # 582 usable
    ("deepseek-v3", "8 × h200", "fits"),  # 1028 usable
    ("deepseek-v3", "8 × a100_80gb", "does-not-fit"),
    ("deepseek-v3", "4 × b200", "fits-if"),  # 656 − 627 − 20: a short context
    ("deepseek-v3", "8 × mi300x", "fits"),
    # 27.4e9 × 2 = 51.1, five of six layers see 1024 tokens only
    ("gemma-3-27b", "1 × a100_80gb", "fits"),
    ("gemma-3-27b", "1 × l40s", "fits-if"),  # with weights in the node's memory
    ("gemma-3-27b", "2 × l40s", "fits"),
    (
        "gemma-3-27b",
        "2 × v100_32gb",
        "does-not-fit",
    ),  # no bfloat16 there and no float16 in Gemma: twice the weights
    ("gemma-3-27b", "4 × v100_32gb", "fits-if"),  # 4 × 29.2 = 117 < 102 + 4 × 5: weights in the node's memory
    ("gemma-3-27b", "8 × v100_32gb", "fits"),
    # 20.9e9 in 4 bits: about 13
    ("gpt-oss-20b", "1 × a100_40gb", "fits"),
    ("gpt-oss-20b", "1 × l4", "fits"),
    ("gpt-oss-20b", "1 × t4", "does-not-fit"),  # neither memory nor mxfp4
    ("gpt-oss-20b", "4 × v100_32gb", "does-not-fit"),
    # 1.54e9 × 2 = 2.9
    ("whisper-large-v3", "1 × t4", "fits"),
    ("whisper-large-v3", "1 × l4", "fits"),
    ("bge-large", "1 × t4", "fits"),
    ("bge-large", "1 × v100_16gb", "fits"),
    ("llama-8b-bnb", "1 × a100_80gb", "does-not-fit"),  # vLLM 0.32 has no bitsandbytes
]


@pytest.mark.parametrize(("name", "hardware", "verdict"), TABLE)
def test_the_verdict_is_the_one_reasoned_by_hand(name: str, hardware: str, verdict: str) -> None:
    found = fit(model(name), machine(hardware))
    assert found.verdict == verdict, found
    assert found.starts or verdict != "fits"
    assert found.arithmetic
    assert found.reasons or verdict == "fits"
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == verdict


@pytest.mark.parametrize(
    ("name", "memory_gb", "verdict"),
    [
        ("llama-8b", 64, "fits"),  # 15.0 + 2.5 + 16.0
        ("llama-8b", 24, "fits-if"),  # 6.5 left for the cache
        ("llama-8b", 16, "fits-if"),  # more memory
        ("qwen2.5-0.5b", 8, "fits"),
        ("qwen2.5-0.5b", 2, "fits-if"),
        ("whisper-large-v3", 16, "fits"),
        ("bge-large", 8, "fits"),
        ("llama-70b", 256, "fits"),
        ("llama-70b", 96, "fits-if"),  # 131.4 + 2.5 + 0.6: less than twice as much
        ("llama-70b", 64, "does-not-fit"),  # more than twice as much
    ],
)
def test_a_processor_is_weighed_by_the_nodes_memory(name: str, memory_gb: float, verdict: str) -> None:
    found = fit(model(name), machine("cpu", memory_gb))
    assert found.verdict == verdict, found
    assert found.has_gb == memory_gb


def test_the_arithmetic_is_shown_and_adds_up() -> None:
    """Blackfish 7: what is refused is refused with the sum."""
    found = fit(model("llama-70b"), machine("4 × a100_80gb"))
    assert found.arithmetic[0] == "weights 131.4 GB / 4 GPUs = 32.9 GB on each"
    assert "A100: 79.1 GB × 0.92 (--gpu-memory-utilization) = 72.8 GB" in found.arithmetic
    left = next(line for line in found.arithmetic if line.startswith("left for the KV cache"))
    memory, weights, kept, room = (float(word) for word in left.split() if word.replace(".", "").isdigit())
    assert memory - weights - kept == pytest.approx(room, abs=0.11)
    # 80 layers × 2 heads on each of 4 GPUs × 128 × 2 (K and V) × 2 bytes
    assert any(
        "KV cache 80.0 kB for each token, 10.0 GB for a request of 131072 tokens" in line
        for line in found.arithmetic
    )


def test_all_gpus_are_used_and_vllm_is_told_how() -> None:
    found = fit(model("llama-70b"), machine("4 × h100_80gb"))
    assert (found.tensor, found.pipeline) == (4, 1)
    assert found.engine_args == ("--tensor-parallel-size", "4")


def test_where_heads_do_not_divide_layers_are_split() -> None:
    """vec-inf 14, Blackfish 7: GPUs in any number, where the model can be split over them."""
    found = fit(model("qwen2.5-0.5b"), machine("4 × h100_80gb"))  # 14 heads
    assert (found.tensor, found.pipeline) == (2, 2)
    assert found.engine_args == ("--tensor-parallel-size", "2", "--pipeline-parallel-size", "2")
    for name in ("qwen2.5-0.5b", "llama-70b"):
        for gpus, split in ((3, (1, 3)), (6, (2, 3))):
            found = fit(model(name), machine(f"{gpus} × h100_80gb"))
            assert (found.verdict, found.tensor, found.pipeline) == ("fits", *split)


def test_the_context_is_shortened_only_when_nobody_asked_for_it() -> None:
    free = fit(model("llama-8b"), machine("1 × v100_32gb"))
    assert free.starts
    assert free.engine_args[-2] == "--max-model-len"
    assert free.context is not None
    assert int(free.engine_args[-1]) == free.context < 131072
    asked = fit(model("llama-8b"), machine("1 × v100_32gb"), engine_args=("--max-model-len", "131072"))
    assert (asked.verdict, asked.starts) == ("fits-if", False)
    assert any(f"--max-model-len {free.context}" in remedy.text for remedy in asked.remedies)
    shorter = fit(model("llama-8b"), machine("1 × v100_32gb"), context=free.context)
    assert shorter.verdict == "fits"


def test_more_than_the_models_own_context_is_refused() -> None:
    found = fit(model("qwen2.5-0.5b"), machine("1 × h200"), context=40000)
    assert (found.verdict, found.starts) == ("fits-if", False)
    assert [r.engine_args for r in found.remedies] == [("--max-model-len", "32768")]
    assert found.reasons == ("The model's own context is 32768 tokens; 40000 were asked for.",)


def test_many_requests_at_once_need_their_room() -> None:
    one = fit(model("llama-8b"), machine("1 × a100_80gb"), context=32768)
    assert one.requests is not None
    assert one.requests == pytest.approx(55.5 / 4.0, rel=0.05)  # 72.8 − 15.0 − 2 GB, 4.0 GB each
    assert fit(model("llama-8b"), machine("1 × a100_80gb"), context=32768, requests=12).verdict == "fits"
    assert fit(model("llama-8b"), machine("1 × a100_80gb"), context=32768, requests=20).verdict == "fits-if"


@pytest.mark.parametrize(
    ("args", "changed"),
    [
        (("--tensor-parallel-size", "2"), {"tensor": 2}),
        (("-tp", "2"), {"tensor": 2}),
        (("--tensor_parallel_size=2",), {"tensor": 2}),
        (("--tensor-par", "2"), {"tensor": 2}),
        (("--pipeline-parallel-size", "4"), {"pipeline": 4, "tensor": 1}),
        (("-tp=2", "-pp=2"), {"tensor": 2, "pipeline": 2}),
        (("-dp", "2"), {"tensor": 2}),
        (("--max-model-len", "16K"), {"context": 16384}),
        (("--max-model-len=16k",), {"context": 16000}),
        (("--max_model_len", "4096", "--max-model-len", "8192"), {"context": 8192}),
        (("--max-model-len", "auto"), {"context": 131072}),
        (("--kv-cache-dtype", "fp8"), {"kv_dtype": "fp8"}),
    ],
)
def test_the_users_arguments_are_respected_in_every_spelling(
    args: tuple[str, ...], changed: dict[str, object]
) -> None:
    found = fit(model("llama-8b"), machine("4 × h100_80gb"), engine_args=args)
    assert {name: getattr(found, name) for name in changed} == changed
    assert found.starts
    assert not {a for a in args if a.startswith("-")} & set(found.engine_args)


def test_memory_options_change_the_sum() -> None:
    def at_once(*args: str) -> float:
        found = fit(model("llama-8b"), machine("1 × a100_80gb"), context=32768, engine_args=args)
        return found.requests or 0

    plain = at_once()
    assert at_once("--kv-cache-dtype", "fp8") == pytest.approx(2 * plain, rel=0.01)
    assert at_once("--gpu-memory-utilization", "0.5") < 0.5 * plain
    assert at_once("--gpu_memory_utilization=0.98") > plain
    assert at_once("--cpu-offload-gb", "10") == pytest.approx(plain + 10 / 4, rel=0.02)
    assert at_once("--enforce-eager") > plain
    assert at_once("--quantization", "fp8") > plain + 1
    assert at_once("--kv-cache-memory-bytes", "8G") == pytest.approx(2, rel=0.01)
    assert at_once("--max-num-seqs", "8") >= plain


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("-tp", "8"), "A split over 8 GPUs is more than the 4 there are."),
        (("-tp", "4", "-pp", "2"), "A split over 4 × 2 GPUs is more than the 4 there are."),
        (("-tp", "3"), "32 attention heads cannot be divided by 3."),
        (("--kv-cache-memory-bytes", "200G"), "The weights alone leave no room for a KV cache."),
    ],
)
def test_what_vllm_would_refuse_is_said_before(args: tuple[str, ...], reason: str) -> None:
    found = fit(model("llama-8b"), machine("4 × h100_80gb"), engine_args=args)
    assert not found.starts
    assert found.reasons == (reason,)


@pytest.mark.parametrize(("name", "hardware", "verdict"), [row for row in TABLE if row[2] == "fits-if"])
def test_every_remedy_holds(name: str, hardware: str, verdict: str) -> None:
    where, asked = machine(hardware, gpus_max=8), ("--max-model-len", "32768")
    found = fit(model(name), where, engine_args=asked)
    for remedy in found.remedies:
        args = tuple(a for a in asked if "--max-model-len" not in remedy.engine_args) + remedy.engine_args
        gpus = remedy.request_changes.get("gpus", where.gpus)
        again = fit(model(name), dataclasses.replace(where, gpus=gpus), engine_args=args)
        assert again.verdict == "fits", (remedy, again)


def test_a_copy_in_fewer_bits_is_advised_where_it_fits() -> None:
    copies = [("org/70b-AWQ", model("llama-70b-awq")), ("org/70b-FP8", model("llama-70b-fp8"))]
    found = fit(model("llama-70b"), machine("1 × h100_80gb"), context=16384, siblings=copies)
    assert [r.request_changes for r in found.remedies] == [{"model": "org/70b-AWQ"}]
    assert found.remedies[0].text == "its copy org/70b-AWQ in fewer bits (as MODEL)"


@pytest.mark.parametrize(
    ("name", "hardware", "args", "reason"),
    [
        ("llama-8b", "1 × v100_32gb", ("--dtype", "bfloat16"),
         "bfloat16 needs compute capability 8.0; a V100 has 7.0."),
        ("llama-70b-fp8", "8 × v100_32gb", (), "fp8 weights need compute capability 7.5; a V100 has 7.0."),
        ("llama-70b-awq", "8 × v100_32gb", (), "awq weights need compute capability 7.5; a V100 has 7.0."),
        ("gpt-oss-20b", "8 × v100_32gb", (), "bfloat16 needs compute capability 8.0; a V100 has 7.0."),
        ("llama-8b", "1 × v100_32gb", ("--kv-cache-dtype=fp8", "--max-model-len", "4096"),
         "An fp8 KV cache needs compute capability 8.0; a V100 has 7.0."),
        ("llama-8b-bnb", "1 × h200", (), "vLLM 0.32 does not load bitsandbytes weights."),
    ],
)  # fmt: skip
def test_what_a_gpu_cannot_do_is_named(name: str, hardware: str, args: tuple[str, ...], reason: str) -> None:
    found = fit(model(name), machine(hardware), engine_args=args)
    assert not found.starts
    assert found.reasons[0] == reason


def test_a_gpu_without_bfloat16_computes_in_float16() -> None:
    found = fit(model("qwen2.5-0.5b"), machine("1 × t4"))
    assert found.verdict == "fits"
    assert found.engine_args == ("--dtype", "half")
    assert "computed in float16 instead" in found.notes[0]
    mended = fit(model("qwen2.5-0.5b"), machine("1 × t4"), engine_args=("--dtype", "bfloat16"))
    assert [r.engine_args for r in mended.remedies] == [("--dtype", "half")]


def test_a_type_that_vllm_refuses_is_left_for_vllm_to_say() -> None:
    plain = fit(model("qwen2.5-0.5b"), machine("1 × a100"))
    assert fit(model("qwen2.5-0.5b"), machine("1 × a100"), engine_args=("--dtype", "float64")) == plain


def test_fp8_on_an_a100_is_weight_only() -> None:
    found = fit(model("llama-70b-fp8"), machine("2 × a100_80gb"))
    assert found.notes == (
        "A100 has no fp8 arithmetic: the weights stay fp8, what is computed is 16-bit (Marlin).",
    )
    assert fit(model("llama-70b-fp8"), machine("2 × h100_80gb")).notes == ()


def profiled(**profile: Any) -> Fit:
    return fit(model("llama-70b"), hardware(Profile("gpu", "c", **profile)))


def test_what_the_site_does_not_say_is_no_refusal() -> None:
    nothing = profiled(gpus=2)
    assert (nothing.verdict, nothing.starts) == ("unknown", True)
    assert nothing.reasons == ('Profile "gpu" does not say how much memory its GPUs have (gpu_memory_gb).',)
    assert profiled(memory_gb=None).reasons == (
        'Profile "gpu" does not say how much memory it has (memory_gb).',
    )
    either = profiled(gpus=4, gpu_type="a100")  # 40 GB, or 80
    assert (either.verdict, either.starts) == ("fits-if", True)
    two = profiled(gpus=2, gpu_type="a100")
    assert (two.verdict, two.starts) == ("unknown", True)
    assert "does not say whether its GPUs have 40 or 64 or 80 GB" in two.reasons[0]


def test_an_unknown_gpu_is_weighed_by_what_the_site_says() -> None:
    assert profiled(gpus=4, gpu_type="x9000", gpu_memory_gb=80).verdict == "fits"
    assert profiled(gpus=1, gpu_type="x9000", gpu_memory_gb=80).verdict == "does-not-fit"
    assert (
        profiled(gpus=8, gpu_type="x9000", gpu_memory_gb=80, compute_capability=7.0).engine_args[-1] == "half"
    )


def test_a_processors_cache_is_as_large_as_the_variable_says() -> None:
    found = fit(
        model("qwen2.5-0.5b"), machine("cpu", 16), environment={"VLLM_CPU_KVCACHE_SPACE": "2"}, context=8192
    )
    assert found.engine_args == ()
    assert found.requests == pytest.approx(2 / 0.094, rel=0.05)  # 12 kB for each token
    chosen = fit(model("qwen2.5-0.5b"), machine("cpu", 16))
    assert chosen.engine_args == ("--kv-cache-memory-bytes", str(4 * 2**30))
