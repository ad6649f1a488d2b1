"""Whether a model takes images, read from its config.json: a hint for the page, never a gate.

The engine has the last word; a model of a kind that is not known here is merely offered no attach button.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# How the configurations of transformers' and vLLM's vision-language models name their image side.
_KEYS = frozenset(
    (
        "vision_config",
        "vit_config",
        "vision_tower",
        "mm_vision_tower",
        "vision_encoder",
        "visual",  # Qwen-VL
        "img_processor",  # Phi-3-vision
        "image_token_id",
        "image_token_index",
        "vision_start_token_id",
    )
)
_NESTED = ("thinker_config", "llm_config", "text_config", "language_config")
# Flags of vLLM and of the simulated engine that leave the image side out.
_WITHOUT = frozenset(("--language-model-only", "--no-images"))
_LIMITS = "--limit-mm-per-prompt"


def takes_images(config: Mapping[str, Any]) -> bool:
    """Whether the model with this config.json has an image side."""
    if any(config.get(key) not in (None, {}) for key in _KEYS):
        return True
    return any(takes_images(part) for name in _NESTED if isinstance(part := config.get(name), dict))


def images_refused(engine_args: Sequence[str]) -> bool:
    """Whether the engine's arguments switch images off, e.g. `--limit-mm-per-prompt '{"image": 0}'`."""
    return _refused(engine_args, "image")


def videos_refused(engine_args: Sequence[str]) -> bool:
    """The same of videos."""
    return _refused(engine_args, "video")


def _refused(engine_args: Sequence[str], kind: str) -> bool:
    for number, argument in enumerate(engine_args):
        if argument in _WITHOUT:
            return True
        name, equals, value = argument.partition("=")
        if name == _LIMITS:
            value = value if equals else next(iter(engine_args[number + 1 : number + 2]), "")
            if _limit(value, kind) == 0:
                return True
    return False


def read_config(snapshot: Path) -> dict[str, Any]:
    """The config.json of a snapshot; empty where there is none that can be read."""
    try:
        config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _limit(value: str, kind: str) -> object:
    try:
        limits = json.loads(value)
    except ValueError:
        return None
    limit = limits.get(kind) if isinstance(limits, dict) else None
    return limit.get("count") if isinstance(limit, dict) else limit
