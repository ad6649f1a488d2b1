"""What well-known models weigh, worked out by hand from their published shapes; no code of the launcher is used here.

`weights` and `kv_token` are sums that anybody can check with a calculator: matrices × bytes of a value. `published` is
the number of parameters on the model's card, in 10⁹. `kv_32k` is a request of 32768 tokens (or of the whole context
where that is shorter) on one GPU, with batches of 8192 tokens, two at once. `per_gpu` has the bytes of the weights on
each GPU where they are not simply divided by the number of GPUs; None where vLLM refuses the split.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BF16 = 2
BLOCK = 16  # tokens
IN_FLIGHT = 2 * 8192


@dataclass(frozen=True)
class Figures:
    """One model by hand; bytes."""

    published: float
    weights: float
    kv_token: int
    kv_32k: float
    context: int
    task: str = "chat"
    quantization: str | None = None
    per_gpu: dict[int, float | None] = field(default_factory=dict)


def dense(
    vocabulary: int, hidden: int, layers: int, inner: int, heads: int, kv: int, head: int = 128
) -> float:
    """Parameters of a Llama: two embeddings; query and output, key and value, and three matrices in each layer."""
    attention = 2 * hidden * heads * head + 2 * hidden * kv * head
    return 2 * vocabulary * hidden + layers * (attention + 3 * hidden * inner)


def kv(layers: int, heads: int, head: int = 128, value: int = BF16) -> int:
    """Bytes of one token: a key and a value for each KV head in each layer."""
    return 2 * layers * heads * head * value


def window(tokens: int) -> int:
    """Tokens that a sliding layer holds of a long request: the window, what is under way, and one block more."""
    return tokens - 1 + IN_FLIGHT + 1 + BLOCK


# A layer of 4-bit integers in groups of 128: half a byte, 2 bytes of scale and half a byte of zero point for 128.
INT4 = 0.5 + 2.5 / 128
# fp8: a byte, and for 128 × 128 values a scale of 4 bytes.
FP8 = 1 + 4 / 16384
# mxfp4: half a byte, and for 32 values a scale of one byte.
MXFP4 = 0.5 + 1 / 32

QWEN_32B = dense(152064, 5120, 64, 27648, 40, 8) * BF16
QWEN_7B_ENDS = 2 * 152064 * 3584
QWEN_7B_LAYERS = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
QWEN_7B_SPLITS: dict[int, float | None] = {8: None}  # 28 heads
# Sixteen experts and one for all.
SCOUT_LAYER = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 17 * 3 * 5120 * 8192 + 16 * 5120
SCOUT_VISION = 34 * (4 * 1408**2 + 2 * 1408 * 5632)
MOE_30B_ATTENTION = 2 * 2048 * 4096 + 2 * 2048 * 512
MOE_30B_EXPERTS = 128 * 3 * 2048 * 768
# The query is twice as wide: one half gates the output.
NEXT_FULL = 2048 * 8192 + 2048 * 4096 + 2 * 2048 * 512
NEXT_LINEAR = 2048 * (2 * 2048 + 2 * 4096) + 2048 * 64 + 4096 * 2048
NEXT_EXPERTS = 513 * 3 * 2048 * 512 + 512 * 2048
LITE_ATTENTION = 2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 256 + 16 * 128 * 2048
LITE_EXPERTS = 66 * 3 * 2048 * 1408 + 64 * 2048
V3_COPIED = 7168 * 1536 + 7168 * 576
V3_ATTENTION = 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
V3_EXPERTS = 257 * 3 * 7168 * 2048 + 256 * 7168
V3_ENDS = 2 * 129280 * 7168 * BF16
OSS_ATTENTION = 2 * 2880 * 4096 + 2 * 2880 * 512
GEMMA3_TEXT = 262208 * 5376 + 62 * (2 * 5376 * 4096 + 2 * 5376 * 2048 + 3 * 5376 * 21504)
GEMMA3_VISION = 27 * (4 * 1152**2 + 2 * 1152 * 4304)
WHISPER_LAYER = 4 * 1280**2 + 2 * 1280 * 5120
WHISPER = 51866 * 1280 + 32 * WHISPER_LAYER + 32 * (WHISPER_LAYER + 4 * 1280**2)
BGE_POSITIONS = 8194 * 1024
BGE_DIVIDED = 250002 * 1024 + 24 * (4 * 1024**2 + 2 * 1024 * 4096)
VL_VISION = 32 * (4 * 1280**2 + 3 * 1280 * 3420) + 5120 * 5120 + 5120 * 3584


def gpt_oss(layers: int, experts: int, gpus: int) -> float:
    """Weights on each GPU; the kernels keep the experts in 3072 × multiples of 128 where the file has 2880 × 2880."""
    part = {1: 2944, 2: 1536, 4: 768, 8: 384}[gpus]
    matrices = layers * experts * 3 * MXFP4 * 3072 * part
    return 2 * 201088 * 2880 * BF16 / gpus + layers * OSS_ATTENTION * BF16 / gpus + matrices


def deepseek_v3(gpus: int) -> float:
    """Weights on each GPU; the matrices down to the latent space are on every one."""
    dense_layers = 3 * 3 * 7168 * 18432
    divided = 61 * V3_ATTENTION + dense_layers + 58 * V3_EXPERTS
    return (V3_ENDS + divided * FP8) / gpus + 61 * V3_COPIED * FP8


# What Blackfish's README says each model took on its GPUs (princeton-ddss/blackfish, Models). It names no unit;
# here is the one that lies nearer to the weights. 63.1 and 30.5 would agree with either within 5 %, the others with
# one only.
BLACKFISH = {
    "qwq-32b": (61.0, 2**30),
    "qwen3-32b": (64.4, 10**9),
    "qwen2.5-72b": (144.8, 10**9),
    "qwen2.5-32b": (63.1, 10**9),
    "gemma-3-27b": (54.1, 10**9),
    "llama-3.3-70b": (140.4, 10**9),
    "deepseek-r1-distill-llama-70b": (141.2, 10**9),
    "deepseek-r1-distill-qwen-32b": (64.6, 10**9),
    "deepseek-v2-lite": (30.5, 10**9),
    # Half a GB is taken off for the CUDA context of its process: a guess, the README says nothing of it.
    "whisper-large-v3": (3.6 - 0.5, 10**9),
}
SAME_SHAPE = {"deepseek-r1-distill-llama-70b": "llama-3.3-70b"}

FIGURES = {
    "llama-3.1-8b": Figures(
        8.03, dense(128256, 4096, 32, 14336, 32, 8) * BF16, kv(32, 8), kv(32, 8) * 32768, 131072
    ),
    "llama-3.2-1b": Figures(
        # One embedding: it is the head too.
        1.24, (128256 * 2048 + 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192)) * BF16,
        kv(16, 8, 64), kv(16, 8, 64) * 32768, 131072,
    ),
    "llama-3.3-70b": Figures(
        70.6, dense(128256, 8192, 80, 28672, 64, 8) * BF16, kv(80, 8), kv(80, 8) * 32768, 131072
    ),
    "llama-3.3-70b-fp8": Figures(
        70.6, 2 * 128256 * 8192 * BF16 + (dense(128256, 8192, 80, 28672, 64, 8) - 2 * 128256 * 8192),
        kv(80, 8), kv(80, 8) * 32768, 131072, quantization="compressed-tensors",
    ),
    "llama-4-scout": Figures(
        109, (2 * 202048 * 5120 + 48 * SCOUT_LAYER + SCOUT_VISION) * BF16, kv(48, 8),
        # 36 of 48 layers look back 8192 tokens at most.
        kv(12, 8) * 32768 + kv(36, 8) * (8192 + IN_FLIGHT), 10485760, "vision",
    ),
    "qwen2.5-32b": Figures(32.8, QWEN_32B, kv(64, 8), kv(64, 8) * 32768, 32768),
    "qwq-32b": Figures(32.8, QWEN_32B, kv(64, 8), kv(64, 8) * 32768, 40960),
    "deepseek-r1-distill-qwen-32b": Figures(32.8, QWEN_32B, kv(64, 8), kv(64, 8) * 32768, 131072),
    "qwen2.5-72b": Figures(
        72.7, dense(152064, 8192, 80, 29568, 64, 8) * BF16, kv(80, 8), kv(80, 8) * 32768, 32768
    ),
    "qwen2.5-72b-awq": Figures(
        73.0, 2 * 152064 * 8192 * BF16 + (dense(152064, 8192, 80, 29696, 64, 8) - 2 * 152064 * 8192) * INT4,
        kv(80, 8), kv(80, 8) * 32768, 32768, quantization="awq",
    ),
    "qwen2.5-7b-gptq-int4": Figures(
        7.6, QWEN_7B_ENDS * BF16 + QWEN_7B_LAYERS * INT4, kv(28, 4), kv(28, 4) * 32768, 32768,
        quantization="gptq", per_gpu=QWEN_7B_SPLITS,
    ),
    "qwen2.5-7b-bnb-4bit": Figures(
        7.6, QWEN_7B_ENDS * BF16 + QWEN_7B_LAYERS * (0.5 + 1 / 64), kv(28, 4), kv(28, 4) * 32768, 32768,
        quantization="bitsandbytes", per_gpu=QWEN_7B_SPLITS,
    ),
    "qwen2.5-vl-7b": Figures(
        8.3, (QWEN_7B_ENDS + QWEN_7B_LAYERS + VL_VISION) * BF16, kv(28, 4), kv(28, 4) * 32768, 128000, "vision",
        per_gpu=QWEN_7B_SPLITS,
    ),
    "qwen3-32b": Figures(
        32.8, dense(151936, 5120, 64, 25600, 64, 8) * BF16, kv(64, 8), kv(64, 8) * 32768, 40960
    ),
    "qwen3-30b-a3b": Figures(
        30.5, (2 * 151936 * 2048 + 48 * (MOE_30B_ATTENTION + MOE_30B_EXPERTS)) * BF16, kv(48, 4), kv(48, 4) * 32768,
        40960,
    ),
    "qwen3-30b-a3b-fp8": Figures(
        30.5, 2 * 151936 * 2048 * BF16 + 48 * (MOE_30B_ATTENTION + MOE_30B_EXPERTS) * FP8, kv(48, 4),
        kv(48, 4) * 32768, 40960, quantization="fp8",
        # An expert is 768 wide: 192 and 96 are no multiples of the block of 128.
        per_gpu={4: None, 8: None},
    ),
    "qwen3-next-80b-a3b": Figures(
        80, (2 * 151936 * 2048 + 12 * NEXT_FULL + 36 * NEXT_LINEAR + 48 * NEXT_EXPERTS) * BF16, kv(12, 2, 256),
        # Blocks of 544 tokens, so that one holds a state (1.1 MB); three groups of states with two blocks each.
        12 * 544 * 2048 * (61 + 3 * 2), 262144,
    ),
    "deepseek-v2-lite": Figures(
        15.7, (2 * 102400 * 2048 + 27 * LITE_ATTENTION + 3 * 2048 * 10944 + 26 * LITE_EXPERTS) * BF16,
        27 * 576 * BF16, 27 * 576 * BF16 * 32768, 163840,
    ),
    "deepseek-v3": Figures(
        671, deepseek_v3(1), 61 * 576 * BF16, 61 * 576 * BF16 * 32768, 163840, quantization="fp8",
        per_gpu={gpus: deepseek_v3(gpus) for gpus in (2, 4, 8)},
    ),
    "gemma-2-27b": Figures(
        27.2, (dense(256000, 4608, 46, 36864, 32, 16) - 256000 * 4608) * BF16, kv(46, 16),
        # Half the layers look back 4096 tokens; the whole context is 8192.
        kv(23, 16) * (8192 + 8192 + BLOCK), 8192,
    ),
    "gemma-3-27b": Figures(
        27.4, (GEMMA3_TEXT + GEMMA3_VISION) * BF16, kv(62, 16),
        # 10 full layers; 52 with a window of 1024 in groups of 10, the last filled up to 60.
        kv(10, 16) * 32768 + kv(60, 16) * window(1024), 131072, "vision",
    ),
    "mistral-7b-v0.1": Figures(
        7.24, dense(32000, 4096, 32, 14336, 32, 8) * BF16, kv(32, 8), kv(32, 8) * window(4096), 32768
    ),
    "e5-mistral-7b": Figures(
        # No head: it gives vectors.
        7.11, (dense(32000, 4096, 32, 14336, 32, 8) - 32000 * 4096) * BF16, kv(32, 8), kv(32, 8) * window(4096),
        32768, "embedding",
    ),
    "mistral-small-24b": Figures(
        23.6, dense(131072, 5120, 40, 32768, 32, 8) * BF16, kv(40, 8), kv(40, 8) * 32768, 32768
    ),
    "mixtral-8x7b": Figures(
        46.7, (2 * 32000 * 4096 + 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 8 * 3 * 4096 * 14336 + 8 * 4096)) * BF16,
        kv(32, 8), kv(32, 8) * 32768, 32768,
    ),
    "phi-4": Figures(
        14.7, dense(100352, 5120, 40, 17920, 40, 10) * BF16, kv(40, 10), kv(40, 10) * 16384, 16384,
        per_gpu={4: None, 8: None},  # ten KV heads
    ),
    "phi-3.5-mini": Figures(
        # vLLM stays below the stretched positions, at 4096 of 131072, unless told otherwise.
        3.82, dense(32064, 3072, 32, 8192, 32, 32, 96) * BF16, kv(32, 32, 96), kv(32, 32, 96) * (4096 + BLOCK), 4096
    ),
    "gpt-oss-20b": Figures(
        20.9, gpt_oss(24, 32, 1), kv(24, 8, 64), kv(12, 8, 64) * (32768 + window(128)), 131072,
        quantization="mxfp4", per_gpu={gpus: gpt_oss(24, 32, gpus) for gpus in (2, 4, 8)},
    ),
    "gpt-oss-120b": Figures(
        117, gpt_oss(36, 128, 1), kv(36, 8, 64), kv(18, 8, 64) * (32768 + window(128)), 131072,
        quantization="mxfp4", per_gpu={gpus: gpt_oss(36, 128, gpus) for gpus in (2, 4, 8)},
    ),
    "whisper-large-v3": Figures(
        # 448 tokens of text; of the sound vLLM keeps room for a whole batch.
        1.54, WHISPER * BF16, kv(32, 20, 64), kv(32, 20, 64) * (448 + 8192), 448, "transcription", per_gpu={8: None}
    ),
    "bge-m3": Figures(
        0.57, (BGE_POSITIONS + BGE_DIVIDED) * BF16, 0, 0, 8194, "embedding",
        per_gpu={gpus: (BGE_POSITIONS + BGE_DIVIDED / gpus) * BF16 for gpus in (2, 4, 8)},
    ),
}  # fmt: skip
