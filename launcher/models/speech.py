"""Whisper models and their two engines: which copy goes with which, and what to say where they do not.

Our own server (`whisper`) reads CTranslate2's format, vLLM what Transformers reads. A copy of the one kind is never
made into the other here.
"""

from __future__ import annotations

from pathlib import Path

from launcher.errors import ModelError
from launcher.models.inspect.header import read_json
from launcher.models.known import Known, converted
from launcher.models.near import add_command
from launcher.models.snapshot import CTRANSLATE2
from launcher.settings.schema import CatalogModel, Settings


def check_engine(entry: CatalogModel, kind: str, folder: Path, settings: Settings) -> None:
    """Raise ModelError where the catalog's `entry` names an engine that does not load weights of this `kind`."""
    key = f"catalog.{entry.name}.engine"
    if kind == CTRANSLATE2 and entry.engine == "vllm" and key in settings.origins:
        raise ModelError(
            f'Model "{entry.name}": {folder} is a Whisper model in the format of CTranslate2 (faster-whisper), which '
            "vLLM cannot load.",
            f"In {settings.where(key)}, write engine: whisper.",
        )
    if kind != CTRANSLATE2 and entry.engine == "whisper":
        copy = converted(entry.id or folder.name)
        better = f" such as {copy.id}" if copy else ""
        raise ModelError(
            f'Model "{entry.name}": {folder} is not in the format of CTranslate2, which the engine whisper reads.',
            f"In {settings.where(key)}, name a copy that is{better}, or write engine: vllm.",
        )


def is_chosen_for_vllm(entry: CatalogModel | None, settings: Settings) -> bool:
    """Whether the catalog itself says that vLLM runs the model of `entry`."""
    return entry is not None and entry.engine == "vllm" and f"catalog.{entry.name}.engine" in settings.origins


def check_format(model: str, folder: Path, settings: Settings) -> None:
    """Raise ModelError where `folder` holds a Whisper model in Transformers' format: no session serves it by itself."""
    try:
        config = read_json(folder / "config.json") or {}
    except ModelError:  # the engine will say what is wrong with it
        return
    if config.get("model_type") == "whisper":
        raise ModelError(
            f'Model "{model}" is a Whisper model in the format of Transformers; sessions serve Whisper from copies '
            "in CTranslate2's.",
            _advice(model, settings),
        )


def missing_copy(alias: str, copy: Known, settings: Settings) -> ModelError:
    """The error for a name of faster-whisper's whose model is not on this disk."""
    can = settings.allow.downloads and settings.allow.models == "any"
    return ModelError(
        f'Model "{alias}" is {copy.id}, which is not on this disk.',
        f"To download it: {add_command(copy.id)}" if can else "Ask the site to download it.",
    )


def _advice(model: str, settings: Settings) -> str:
    copy = converted(model)
    if copy is None:
        return (
            "Convert it with ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json, or let "
            "the catalog name it with engine: vllm."
        )
    if settings.allow.downloads and settings.allow.models == "any":
        return f"Take {copy.id}; to download it: {add_command(copy.id)}"
    return f"Take {copy.id}, or ask the site for it."
