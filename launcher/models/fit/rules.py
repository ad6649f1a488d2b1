"""Which number types and quantisations run on which GPU, as vLLM 0.32 decides it.

Capabilities are NVIDIA's; what AMD's chips have is asked of theirs by name where it differs. Nothing is refused for a
GPU whose capability is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.models.fit.gpus import AMD, NVIDIA, Gpu
from launcher.models.fit.options import Options
from launcher.models.inspect.facts import Facts
from launcher.models.inspect.quantization import W4A8_FP8

# vllm/model_executor/layers/quantization/*.py, get_min_capability; of compressed-tensors that of its schemes for 4 and
# 8 bits (compressed_tensors/schemes/*.py).
_LEAST = {
    "awq": 7.5, "auto_awq": 7.5, "awq_marlin": 7.5,
    "gptq": 6.0, "auto_gptq": 6.0, "gptq_marlin": 7.5, "moe_wna16": 7.0,
    "fp8": 7.5, "fbgemm_fp8": 8.0, "deepseek_v4_fp8": 7.5,
    "fp8_per_tensor": 7.5, "fp8_per_block": 7.5, "fp8_per_channel": 7.5, "int8_per_channel_weight_only": 7.5,
    "compressed-tensors": 7.5, "quark": 7.0, "inc": 6.0, "humming": 7.5, "torchao": 7.5,
    "experts_int8": 8.0, "modelopt": 8.0, "modelopt_fp4": 7.5, "modelopt_mxfp8": 8.0, "modelopt_mixed": 7.5,
    "mxfp4": 8.0, "gpt_oss_mxfp4": 8.0, "mxfp8": 8.0, "fp_quant": 10.0, "nvfp4_per_token": 10.0,
}  # fmt: skip
# Not among vllm/model_executor/layers/quantization/__init__.py, QUANTIZATION_METHODS, any more.
_GONE = {"bitsandbytes": "bitsandbytes", "gguf": "GGUF", "aqlm": "AQLM", "hqq": "HQQ", "marlin": "Marlin",
         "deepspeedfp": "DeepSpeed FP", "exl2": "EXL2", "exl3": "EXL3", "quip": "QuIP", "eetq": "EETQ",
         "higgs": "HIGGS", "vptq": "VPTQ", "spqr": "SpQR"}  # fmt: skip
_ONLY_BFLOAT16 = ("mxfp4", "gpt_oss_mxfp4", "fp_quant", "modelopt_mxfp8", "mxfp8")  # get_supported_act_dtypes
# vllm/config/quantization.py, _DEFERRED_ONLINE_SHORTHANDS: of a plain model they mean vLLM's own quantisation at the
# start, which also computes in float16.
_ALSO_ONLINE = ("mxfp4", "mxfp8")
# compressed_tensors/schemes/compressed_tensors_w4a8_fp8.py and online/nvfp4.py have kernels for this chip alone.
_HOPPER, _BLACKWELL = 9.0, 10
# quark/schemes/quark_w8a8_fp8.py
_QUARK_FP8 = 8.9
# vllm/platforms/rocm.py, supported_quantization
_ON_AMD = ("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "fp8", "deepseek_v4_fp8", "compressed-tensors",
           "fbgemm_fp8", "inc", "quark", "mxfp4", "mxfp8", "torchao", "modelopt", "modelopt_fp4", "modelopt_mxfp8",
           "modelopt_mixed", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "online",
           "gpt_oss_mxfp4")  # fmt: skip
# vllm/config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS
_NO_FLOAT16 = ("gemma2", "gemma3", "gemma3_text", "glm4")
_BFLOAT16, _FLOAT16, _FLOAT32 = "bfloat16", "float16", "float32"
_SPOKEN_VOWELS = "AEFHILMNORSX"  # an A100, an H100, an RTX, a V100
_AMPERE, _ADA, _TURING = 8.0, 8.9, 7.5


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the GPU allows: `dtype` is what vLLM computes in; `troubles` keep it from starting, `notes` do not.

    `engine_args` say aloud what a newer vLLM would choose itself, so that an older one chooses the same; `repairs` are
    what to do against the troubles, each with its arguments.
    """

    dtype: str
    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    engine_args: tuple[str, ...] = ()
    own_build: bool = False
    repairs: tuple[tuple[str, tuple[str, ...]], ...] = ()


def ruling(facts: Facts, gpu: Gpu | None, options: Options) -> Ruling:
    """What holds for this model with these options on `gpu` (None: a processor)."""
    method = options.quantization or facts.quantization
    dtype = options.dtype
    if method is not None and method in _GONE:
        plain = "a copy in safetensors, plain or" if method == "gguf" else "a plain copy, or one"
        return Ruling(
            facts.dtype,
            (f"vLLM 0.32 does not load {_GONE[method]} weights.",),
            repairs=((f"{plain} in AWQ, GPTQ or FP8 (as MODEL)", ()),),
        )
    if gpu is None or gpu.capability is None:
        return Ruling(facts.dtype if dtype == "auto" else dtype)
    troubles: list[str] = []
    notes: list[str] = []
    repairs: list[tuple[str, tuple[str, ...]]] = []
    arguments: tuple[str, ...] = ()
    chosen, capability = facts.dtype if dtype == "auto" else dtype, gpu.capability
    if chosen == _BFLOAT16 and capability < _AMPERE:
        lacks = f"bfloat16 needs compute capability 8.0; {_a(gpu)} has {capability:.1f}."
        other = _FLOAT32 if facts.model_type in _NO_FLOAT16 else _FLOAT16
        word = "half" if other == _FLOAT16 else other
        if dtype != "auto":
            troubles.append(lacks)
            repairs.append((f"{other} instead of bfloat16 (-- --dtype {word})", ("--dtype", word)))
        elif method in _ONLY_BFLOAT16:
            troubles.append(lacks)
        else:
            chosen, arguments = other, ("--dtype", word)
            notes.append(f"{lacks} It is computed in {other} instead.")
    if chosen == _FLOAT16 and method in _ONLY_BFLOAT16 and not _is_online(facts, options):
        troubles.append(f"vLLM computes {method} weights in bfloat16, not in float16.")
        if capability >= _AMPERE:
            repairs.append(("bfloat16 instead of float16 (-- --dtype bfloat16)", ("--dtype", "bfloat16")))
    if method is not None and gpu.vendor == NVIDIA:
        least = (
            _QUARK_FP8 if (method, facts.quantization_format) == ("quark", "fp8") else _LEAST.get(method, 0)
        )
        if only := _only(method, facts, capability):
            troubles.append(f"{only}; {_a(gpu)} has {capability:.1f}.")
        elif capability < least:
            troubles.append(
                f"{method} weights need compute capability {least:.1f}; {_a(gpu)} has {capability:.1f}."
            )
        elif "fp8" in method and capability < _ADA:
            notes.append(
                f"{gpu.name} has no fp8 arithmetic: the weights stay fp8, what is computed is 16-bit (Marlin)."
            )
    if options.kv_dtype.startswith("fp8") and gpu.vendor == NVIDIA and capability < _AMPERE:
        troubles.append(f"An fp8 KV cache needs compute capability 8.0; {_a(gpu)} has {capability:.1f}.")
        repairs.append(("a KV cache in 16 bits (-- --kv-cache-dtype auto)", ("--kv-cache-dtype", "auto")))
    own_build = needs_own_build(gpu)
    if own_build:
        notes.append(
            f"vLLM's published builds need compute capability 7.5: {_a(gpu)} needs a build of your own."
        )
    if gpu.vendor == AMD and method is not None and method not in _ON_AMD:
        troubles.append(f"vLLM 0.32 does not load {method} weights on AMD's GPUs.")
    return Ruling(chosen, tuple(troubles), tuple(notes), arguments, own_build, tuple(repairs))


def _is_online(facts: Facts, options: Options) -> bool:
    return facts.quantization is None and options.quantization in _ALSO_ONLINE


def _only(method: str, facts: Facts, capability: float) -> str | None:
    """What a method asks of the chip, where newer ones do not have it either."""
    if method == "nvfp4_per_token" and int(capability) != _BLACKWELL:
        return "nvfp4_per_token needs a Blackwell of compute capability 10.x"
    if facts.quantization_format == W4A8_FP8 and method == "compressed-tensors" and capability != _HOPPER:
        return "Weights in 4 bits with fp8 arithmetic (W4A8-FP8) need compute capability 9.0"
    return None


def needs_own_build(gpu: Gpu) -> bool:
    """Whether vLLM's published wheels have no code for `gpu`: CUDA 13, which they are built with, begins at Turing."""
    return gpu.vendor == NVIDIA and gpu.capability is not None and gpu.capability < _TURING


def fp8_cache(gpu: Gpu | None) -> bool:
    """Whether an fp8 KV cache can be advised on `gpu`: every attention backend of an Ada or a newer chip has it."""
    return gpu is not None and gpu.vendor == NVIDIA and gpu.capability is not None and gpu.capability >= _ADA


def _a(gpu: Gpu) -> str:
    return f"{'an' if gpu.name[:1].upper() in _SPOKEN_VOWELS else 'a'} {gpu.name}"
