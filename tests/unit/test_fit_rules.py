"""What a chip and a number type allow, method by method; that it is vLLM's is tests/contract/test_fit_rules.py's."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.models.fit.gpus import Gpu, known_gpus
from launcher.models.fit.options import read_options
from launcher.models.fit.reserve import batch
from launcher.models.fit.rules import ruling
from launcher.models.inspect.facts import facts_of
from tests.unit.fit_models import CONFIGS

_TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}
_GROUP = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
W4A8 = {
    "quant_method": "compressed-tensors", "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": _GROUP, "input_activations": _TOKEN}},
}  # fmt: skip
W4A16 = {
    "quant_method": "compressed-tensors", "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": _GROUP, "input_activations": None}},
}  # fmt: skip
QUARK_FP8 = {
    "quant_method": "quark",
    "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"dtype": "fp8_e4m3"}},
}
QUARK_INT4 = {
    "quant_method": "quark",
    "global_quant_config": {"weight": {"dtype": "int4"}, "input_tensors": None},
}


@pytest.mark.parametrize(
    ("quantization", "gpu", "arguments", "trouble"),
    [
        (None, "b200", "--quantization nvfp4_per_token", None),
        (None, "b300", "--quantization nvfp4_per_token", None),
        (None, "rtx5090", "--quantization nvfp4_per_token", "nvfp4_per_token needs a Blackwell of compute"),
        (None, "rtxpro6000", "--quantization nvfp4_per_token", "capability 10.x; an RTXPRO6000 has 12.0."),
        (None, "h100", "--quantization nvfp4_per_token", "an H100 has 9.0."),
        (W4A8, "h100", "", None),
        (W4A8, "a100", "", "(W4A8-FP8) need compute capability 9.0; an A100 has 8.0."),
        (W4A8, "b200", "", "(W4A8-FP8) need compute capability 9.0; a B200 has 10.0."),
        (W4A16, "a100", "", None),
        (QUARK_FP8, "l40s", "", None),
        (QUARK_FP8, "a100", "", "quark weights need compute capability 8.9; an A100 has 8.0."),
        (QUARK_INT4, "a100", "", None),
        ({"quant_method": "mxfp4"}, "h100", "", None),
        (
            {"quant_method": "mxfp4"},
            "h100",
            "--dtype half",
            "vLLM computes mxfp4 weights in bfloat16, not in float16.",
        ),
        ({"quant_method": "mxfp8"}, "h100", "--dtype float16", "vLLM computes mxfp8 weights in bfloat16"),
        ({"quant_method": "mxfp8"}, "h100", "", None),
        ({"quant_method": "fp8"}, "h100", "--dtype half", None),
        (None, "h100", "--quantization mxfp8 --dtype half", None),
        ({"quant_method": "mxfp4"}, "v100", "", "mxfp4 weights need compute capability 8.0"),
    ],
)
def test_what_runs_where(
    quantization: dict[str, Any] | None, gpu: str, arguments: str, trouble: str | None
) -> None:
    config = CONFIGS["llama-8b"] | ({"quantization_config": quantization} if quantization else {})
    found = ruling(facts_of(config, None), known_gpus(gpu)[0], read_options(arguments.split()))
    if trouble is None:
        assert found.troubles == ()
    else:
        assert trouble in " ".join(found.troubles)


def test_a_type_that_is_refused_has_its_repair() -> None:
    config = CONFIGS["llama-8b"] | {"quantization_config": {"quant_method": "mxfp4"}}
    found = ruling(facts_of(config, None), known_gpus("h100")[0], read_options(["--dtype", "half"]))
    assert found.repairs == (("bfloat16 instead of float16 (-- --dtype bfloat16)", ("--dtype", "bfloat16")),)


@pytest.mark.parametrize(
    ("name", "tokens"), [("A100", 2048), ("NVIDIA A100-SXM4-80GB", 2048), ("H100", 8192)]
)
def test_an_a100_takes_smaller_batches_whatever_it_is_called(name: str, tokens: int) -> None:
    assert batch(read_options([]), Gpu(name, 79, 8.0), 10**6).tokens == tokens
