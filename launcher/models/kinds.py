"""What kind of model it is and which family it is of, in the words of vec-inf's users."""

from __future__ import annotations

import re

# The task (launcher.models.inspect.facts) and vec-inf's word for such models, in the order that a list has them.
TYPES = {
    "chat": "LLM", "completion": "LLM", "vision": "VLM", "audio": "Audio", "transcription": "Audio",
    "embedding": "Text_Embedding", "reranking": "Reranking", "classification": "Reward_Modeling",
    "unknown": "Unknown",
}  # fmt: skip
# Where a family's name ends: a number of parameters (8B, 0.5b, 8x7B, E4B, 300m) or what sizes are called without one.
_VARIANT = re.compile(
    r"[-_](?=(?:[aeAE]?\d+(?:\.\d+)?(?:[xX]\d+(?:\.\d+)?)?[bBmMtT]|tiny|mini|small|medium|large|base)(?:[-_.]|$))"
)
_LONGEST = 300


def model_type(task: str | None) -> str:
    """vec-inf's word for a model with this task; `Unknown` for None."""
    return TYPES.get(task or "", TYPES["unknown"])


def family(model: str) -> tuple[str, str | None]:
    """The family and the variant in a model's name: `Qwen2.5` and `7B-Instruct`; without a size all is the family."""
    name = model.rstrip("/").rpartition("/")[2]
    parts = _VARIANT.split(name[:_LONGEST], maxsplit=1) if len(name) <= _LONGEST else [name]
    return (parts[0], parts[1]) if len(parts) == 2 and parts[0] else (name, None)
