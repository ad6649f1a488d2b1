"""How much GPU memory vLLM keeps for itself besides weights and KV cache.

vLLM measures it at the start (v1/worker/gpu_worker.py, determine_available_memory): the peak of one forward pass over
a full batch and of the sampler after it, CUDA graphs, and what CUDA and NCCL took. Before the start it can only be
estimated. The formulas below follow what is allocated; tests/unit/test_fit_logs.py compares them with what vLLM 0.9 to
0.23 printed in public logs, docs/performance.md shows the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.models.fit.gpus import Gpu
from launcher.models.fit.options import Options
from launcher.models.inspect.facts import Facts

GB = 2**30
# vllm/config/cache.py, gpu_memory_utilization.
MEMORY_FRACTION = 0.92
_WORKSPACE = int(0.6 * GB)  # cuBLAS, attention and compiled kernels, whatever the model
_CUDA, _NCCL = int(0.25 * GB), int(0.5 * GB)
_GRAPH = 220_000  # bytes of one layer in one CUDA graph
_EXPERTS_OF_A_TOKEN = 8
_IMAGES = 2 * GB  # the image side's pass over the largest image that the model takes
# ... and over the longest video: as many tokens as the context holds, at the most 14 frames of 16384 / 2 (Qwen2.5-VL).
_VIDEO_TOKEN, _VIDEO_TOKENS = int(0.14 * 2**20), 114_688
_VIDEOS = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen2_5_omni",
    "qwen3_omni_moe",
    "glm4v",
    "glm4v_moe",
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of the engine holds at most: tokens and requests."""

    tokens: int
    sequences: int


def batch(options: Options, gpu: Gpu | None, context: int) -> Batch:
    """vLLM's defaults for an API server (vllm/engine/arg_utils.py, get_batch_defaults), where `options` are silent."""
    memory_gb = gpu.memory_gb if gpu else 0
    if gpu is None:
        tokens, sequences = 2048, 128
    elif memory_gb >= 160:
        tokens, sequences = 16384, 1024
    elif memory_gb >= 70 and "a100" not in gpu.name.lower():
        tokens, sequences = 8192, 1024
    else:
        tokens, sequences = 2048, 256
    sequences = options.sequences or sequences
    tokens = options.batched or max(1, min(tokens, sequences * context))
    return Batch(tokens, min(sequences, tokens))


def reserve(facts: Facts, gpu: Gpu, options: Options, *, tensor: int, pipeline: int, context: int) -> int:
    """Bytes of one GPU that are neither weights nor KV cache."""
    step = batch(options, gpu, context)
    number_bytes = 4 if facts.dtype == "float32" else 2
    # Residual and norm, then gate, up and their product; a mixture of experts also copies each token to its experts.
    width = 2 * facts.hidden + 3 * facts.intermediate // tensor
    if facts.experts:
        width += _EXPERTS_OF_A_TOKEN * (facts.hidden + 3 * facts.expert_width // tensor)
    forward = step.tokens * width * number_bytes
    # Logits and probabilities, both in float32 (v1/sample/sampler.py).
    sampler = step.sequences * facts.vocabulary * 8 if not facts.pooling else 0
    images = _IMAGES if facts.task in ("vision", "audio") else 0
    if watches(facts, options):
        images = max(images, _VIDEO_TOKEN * min(context, _VIDEO_TOKENS))
    other = _CUDA + (_NCCL if tensor * pipeline > 1 else 0)
    return _WORKSPACE + max(forward, sampler) + images + other + graphs(facts, gpu, options, step, pipeline)


def watches(facts: Facts, options: Options) -> bool:
    """Whether the model takes videos, so that the reserve grows with the context."""
    return facts.model_type in _VIDEOS and options.videos


def graphs(facts: Facts, gpu: Gpu, options: Options, step: Batch, pipeline: int) -> int:
    """Bytes of CUDA graphs: one for each batch size up to the largest (vllm/config/vllm.py, _set_cudagraph_sizes)."""
    if options.eager or facts.pooling:
        return 0
    largest = min(
        2 * step.sequences, 1024 if gpu.capability and 10 <= gpu.capability < 11 else 512, step.tokens
    )
    sizes = 3 + min(largest, 255) // 8 + max(0, (largest - 256) // 16 + 1)
    layers = -(-facts.layers // pipeline)
    return int(0.25 * GB) + sizes * layers * _GRAPH * (2 if facts.experts else 1)
