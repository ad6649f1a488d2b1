"""The words of a fit: sums that can be checked by hand, remedies that read well everywhere and name their option."""

from __future__ import annotations

import re

import pytest

from launcher.models.fit.gpus import gpus_of, known_gpus, sheet_gb
from launcher.models.fit.options import near_miss, read_options
from launcher.models.fit.verdict import Fit, fit
from launcher.settings.schema import Profile
from tests.hostile import HOSTILE
from tests.unit.fit_models import CONFIGS
from tests.unit.test_fit import TABLE, machine, model


def line(found: Fit, begin: str) -> str:
    return next(told for told in found.arithmetic if told.startswith(begin))


def test_the_cache_is_a_product_that_can_be_checked() -> None:
    told = line(fit(model("llama-70b"), machine("8 × h200")), "KV cache")
    # 80 layers × 1 of 8 heads × 128 × 2 (K and V) × 2 bytes = 40 kB; × 131072 = 5 GB
    assert told == "KV cache 40.0 kB for each token, 5.0 GB for a request of 131072 tokens on each GPU"
    whole = line(fit(model("llama-70b"), machine("1 × mi300x")), "KV cache")
    assert whole.startswith("KV cache 320.0 kB for each token, 40.0 GB ")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gemma-3-27b", "(52 of 62 layers only look at the last 1024 tokens)"),
        ("gpt-oss-20b", "(12 of 24 layers only look at the last 128 tokens)"),
        ("whisper-large-v3", "(what the encoder heard or saw comes to it)"),
    ],
)
def test_where_it_is_no_product_the_reason_is_said(name: str, why: str) -> None:
    assert line(fit(model(name), machine("1 × h200")), "KV cache").endswith(why)


def test_weights_are_those_of_the_type_it_computes_in() -> None:
    found = fit(model("gemma-3-27b"), machine("8 × v100_32gb"))  # no bfloat16 there, and no float16 in Gemma
    assert found.arithmetic[0].startswith("weights 102.2 GB ")


@pytest.mark.parametrize("memory_gb", [4, 8, 15, 16, 17, 20, 32, 40])
def test_the_sum_of_a_node_never_says_more_than_there_is(memory_gb: float) -> None:
    found = fit(model("llama-8b"), machine("cpu", memory_gb))
    (first, *_) = found.arithmetic
    if sums := re.search(r"= ([\d.]+) GB of ([\d.]+) GB", first):
        assert float(sums[1]) <= float(sums[2])
    else:
        assert not found.starts
    assert found.memory_short == (memory_gb < 17.8)
    assert bool(found.remedies) == (9 <= memory_gb < 33.5)


def test_what_a_node_needs_says_for_which_context() -> None:
    found = fit(model("llama-8b"), machine("cpu", 16))
    assert found.reasons == (
        "Weights, vLLM's own processes and the KV cache need about 18 GB of memory for a context of 2048 tokens; "
        "there are 16 GB.",
    )
    assert [r.text for r in found.remedies] == [
        "18 GB of memory for a context of 2048 tokens (--memory-gb 18)"
    ]


def test_gpus_that_are_too_small_are_told_in_the_numbers_of_a_launch() -> None:
    found = fit(model("llama-70b"), machine("1 × l4"))
    assert found.reasons == (
        "About 146 GB of GPU memory are needed for a context of 2048 tokens; there are 22 GB.",
    )
    assert (round(found.needs_gb or 0), found.needs_context) == (146, 2048)


@pytest.mark.parametrize(("name", "hardware", "verdict"), TABLE)
@pytest.mark.parametrize(
    "asked", [(), ("--max-model-len", "131072"), ("-tp", "3"), ("--cpu-offload-gb", "90")]
)
def test_every_remedy_reads_well_behind_take_and_names_its_option(
    name: str, hardware: str, verdict: str, asked: tuple[str, ...]
) -> None:
    found = fit(model(name), machine(hardware, 64, gpus_max=8), engine_args=asked)
    for remedy in found.remedies:
        assert re.match(r"(an? |its |\d+ |\d+ GB |all |float\d\d )", remedy.text), remedy.text
        option = re.search(r"\((?:-- )?(--[a-z-]+ ?[\w.]*|as MODEL)\)$", remedy.text)
        assert option is not None, remedy.text
        if remedy.engine_args:
            assert option[1] == " ".join(remedy.engine_args)
    assert found.own_build == ("v100" in hardware or "p100" in hardware)


def test_weights_in_the_nodes_memory_must_have_room_there() -> None:
    args = ("--cpu-offload-gb", "40")
    assert fit(model("llama-70b"), machine("2 × h100_80gb", 100), engine_args=args).starts
    tight = fit(model("llama-70b"), machine("2 × h100_80gb", 64), engine_args=args)
    assert (tight.verdict, tight.starts) == ("fits-if", False)
    assert tight.reasons[0].startswith(
        "40 GB of the weights of each of 2 GPUs do not fit into the node's memory"
    )
    assert [r.engine_args for r in tight.remedies] == [("--cpu-offload-gb", "28")]
    short = fit(model("llama-70b"), machine("2 × h100_80gb", 64), engine_args=args, context=8192)
    assert [r.engine_args for r in short.remedies] == [("--cpu-offload-gb", "0")]
    # More than all weights moves no more than all weights.
    assert fit(
        model("llama-8b"), machine("1 × h100_80gb", 64), engine_args=("--cpu-offload-gb", "500")
    ).starts


@pytest.mark.parametrize(("gpu_type", "sizes"), [("h100", [80]), ("h200", [141]), ("gh200", [96]),
                                                 ("a100", [40, 64, 80]), ("v100", [16, 32])])  # fmt: skip
def test_a_plain_name_is_the_usual_card(gpu_type: str, sizes: list[float]) -> None:
    assert [sheet_gb(gpu) for gpu in gpus_of(Profile("p", "c", gpus=1, gpu_type=gpu_type))] == sizes


def test_a_site_that_names_the_memory_has_that_card() -> None:
    (gpu,) = gpus_of(Profile("p", "c", gpus=1, gpu_type="h100", gpu_memory_gb=94))
    assert sheet_gb(gpu) == 94
    assert sheet_gb(known_gpus("a100_3g.20gb")[0]) == 19


def test_known_types_of_every_model_are_of_one_size_each() -> None:
    for name in CONFIGS:
        found = fit(model(name), machine("1 × h200"))
        assert found.needs_gb is not None
        assert found.needs_context == min(model(name).context, 2048)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_word_is_no_slip_of_the_hand(text: str) -> None:
    assert near_miss(text) is None
    assert read_options((text, f"--max-model-len={text}")) == read_options(())
