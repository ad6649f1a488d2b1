"""What known.yml advises exists in the installed vLLM: parsers by name, arguments by its own parser."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.models.known import engine_args, known, known_ids

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

ENTRIES = [found for id_ in known_ids() if (found := known(id_)) is not None]


def test_every_parser_is_registered(vllm_said: dict[str, Any]) -> None:
    wrong = [
        f"{entry.id}: {name}"
        for entry in ENTRIES
        for name, registered in ((entry.tool_parser, "tools"), (entry.reasoning_parser, "reasoning"))
        if name is not None and name not in vllm_said["parsers"][registered]
    ]
    assert wrong == []


def test_every_argument_is_read(vllm_said: dict[str, Any]) -> None:
    read = vllm_said["arguments"]
    assert set(read) == {entry.id for entry in ENTRIES}
    assert read["deepseek-ai/DeepSeek-V3.2"]["tokenizer_mode"] == "deepseek_v32"
    assert read["Qwen/Qwen3-Reranker-4B"]["hf_overrides"]["is_original_qwen3_reranker"] is True
    assert read["Qwen/Qwen3-8B"] == {"tokenizer_mode": "auto", "hf_overrides": {}}
    assert all(
        engine_args(entry)[-len(entry.engine_args) :] == entry.engine_args
        for entry in ENTRIES
        if entry.engine_args
    )
