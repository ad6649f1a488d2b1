"""The rules of the fit against the source of the installed vLLM: copied by hand, they must not grow old unseen."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from launcher.models.fit import reserve, rules, weigh
from launcher.models.fit.gpus import Gpu
from launcher.models.fit.options import Options
from tests.conftest import skip_loudly


def vllm() -> Path:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        skip_loudly("Python package vllm: make setup")
    return Path(found.origin).parent


def source(path: str) -> str:
    return (vllm() / path).read_text(encoding="utf-8")


def methods() -> set[str]:
    text = source("model_executor/layers/quantization/__init__.py")
    literal = text.partition("QuantizationMethods = Literal[")[2].partition("]")[0]
    return set(re.findall(r'"([^"]+)"', literal))


def test_every_quantisation_of_vllm_has_its_rule() -> None:
    known = methods()
    assert "awq" in known
    assert known - {"online"} <= set(rules._LEAST)
    assert set(rules._LEAST) <= known
    assert not known & set(rules._GONE)
    assert set(weigh._ONLINE) <= known


@pytest.mark.parametrize(
    ("file", "method"),
    [
        ("auto_awq.py", "awq"), ("auto_gptq.py", "gptq"), ("fp8.py", "fp8"), ("fbgemm_fp8.py", "fbgemm_fp8"),
        ("experts_int8.py", "experts_int8"), ("mxfp4.py", "mxfp4"), ("moe_wna16.py", "moe_wna16"),
        ("torchao.py", "torchao"), ("humming.py", "humming"), ("quark/quark.py", "quark"), ("inc/inc.py", "inc"),
        ("compressed_tensors/schemes/compressed_tensors_wNa16.py", "compressed-tensors"),
        ("online/base.py", "fp8_per_tensor"),
    ],
)  # fmt: skip
def test_the_least_capability_is_vllms(file: str, method: str) -> None:
    text = source(f"model_executor/layers/quantization/{file}")
    body = text.partition("def get_min_capability(")[2]
    found = re.search(r"return (\d+)", body)
    assert found is not None
    assert rules._LEAST[method] == int(found[1]) / 10


def test_the_types_that_some_models_cannot_have_are_vllms() -> None:
    text = source("config/model.py").partition("_FLOAT16_NOT_SUPPORTED_MODELS = {")[2].partition("}")[0]
    assert set(re.findall(r'"(\w+)":', text)) == set(rules._NO_FLOAT16)
    amd = source("platforms/rocm.py").partition("supported_quantization: list[str] = [")[2].partition("]")[0]
    assert set(re.findall(r'"([^"]+)",', amd)) == set(rules._ON_AMD)


def test_the_engines_defaults_are_vllms() -> None:
    fraction = re.search(
        r"gpu_memory_utilization: float = Field\(default=([0-9.]+)", source("config/cache.py")
    )
    assert fraction is not None
    assert float(fraction[1]) == reserve.MEMORY_FRACTION
    defaults = (
        source("engine/arg_utils.py").partition("def get_batch_defaults(")[2].partition("# tpu specific")[0]
    )
    tokens = [int(n) for n in re.findall(r"UsageContext.OPENAI_API_SERVER: (\d+)", defaults)]
    assert re.findall(r"device_memory >= (\d+) \* GiB_bytes", defaults) == ["160", "70"]
    ours = [
        reserve.batch(Options(), Gpu(name, memory_gb, 9.0), 10**6)
        for name, memory_gb in (("B200", 178), ("H100", 79), ("A100", 79))
    ]
    assert tokens == [size for step in ours for size in (step.tokens, step.sequences)]


def test_what_only_one_chip_has_is_vllms() -> None:
    schemes = "model_executor/layers/quantization/compressed_tensors"
    w4a8 = source(f"{schemes}/schemes/compressed_tensors_w4a8_fp8.py").partition("def get_min_capability(")[2]
    assert f"return {rules._HOPPER * 10:.0f}" in w4a8
    exact = (
        source(f"{schemes}/compressed_tensors.py")
        .partition("def _is_fp8_w4a8_sm90(")[2]
        .partition("@classmethod")[0]
    )
    assert "90, error=False, match_exact=True" in exact
    quark = source("model_executor/layers/quantization/quark/schemes/quark_w8a8_fp8.py")
    assert f"return {rules._QUARK_FP8 * 10:.0f}" in quark.partition("def get_min_capability(")[2]
    online = source("model_executor/layers/quantization/online/nvfp4.py")
    assert f"is_device_capability_family({rules._BLACKWELL * 10})" in online
    assert '"a100" not in device_name' in source("engine/arg_utils.py")


@pytest.mark.parametrize(
    ("file", "name", "method"),
    [
        ("mxfp4.py", "class Mxfp4Config", "mxfp4"), ("fp_quant.py", "class FPQuantConfig", "fp_quant"),
        ("modelopt.py", "class ModelOptMxFp8Config", "modelopt_mxfp8"),
    ],
)  # fmt: skip
def test_what_is_computed_in_bfloat16_alone_is_vllms(file: str, name: str, method: str) -> None:
    text = source(f"model_executor/layers/quantization/{file}").partition(name)[2]
    assert "return [torch.bfloat16]\n" in text.partition("def get_supported_act_dtypes(")[2][:120]
    assert method in rules._ONLY_BFLOAT16
    listed = source("model_executor/layers/quantization/__init__.py")
    assert '"mxfp8": ModelOptMxFp8Config' in listed
    assert '_DEFERRED_ONLINE_SHORTHANDS = frozenset(("mxfp4", "mxfp8"))' in source("config/quantization.py")
