"""What is known of widely used models: well formed, found by any spelling, and never in the way."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from launcher.engines import engine
from launcher.models.known import Known, engine_args, known, known_ids
from tests.hostile import HOSTILE

# The words of launcher.models.inspect.facts.
TASKS = {"chat", "completion", "vision", "embedding", "reranking", "classification", "transcription"}
ENTRIES = [found for id_ in known_ids() if (found := known(id_)) is not None]


def about(model: str) -> Known:
    found = known(model)
    assert found is not None, model
    return found


def test_it_is_about_sixty_models_and_more_of_every_task() -> None:
    assert len(ENTRIES) == len(known_ids()) >= 60
    assert {entry.task for entry in ENTRIES} >= {"chat", "vision", "embedding", "reranking", "transcription"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_each_entry_is_sound(entry: Known) -> None:
    assert entry.id.count("/") == 1
    assert entry.task in TASKS
    assert 0.01 < entry.parameters_b < 5000
    assert entry.active_b is None or entry.active_b < entry.parameters_b
    if entry.engine == "whisper":
        assert (entry.context, entry.tool_parser, entry.engine_args) == (None, None, ())
        assert entry.of
        return
    assert entry.context is not None
    assert 400 <= entry.context <= 131072, "a length to begin with, not the longest"
    if entry.task not in ("chat", "vision"):
        assert not entry.tool_parser
        assert not entry.reasoning_parser
    arguments = engine_args(entry)
    engine("vllm").check_args(arguments, allow_remote_code=False)
    assert all(argument.isprintable() and argument for argument in arguments)
    if "--hf-overrides" in arguments:
        assert json.loads(arguments[arguments.index("--hf-overrides") + 1])


def test_sizes_in_names_agree() -> None:
    """Llama-3.1-8B has about 8 billion parameters: a slip of the hand would be seen in the fit."""
    for entry in ENTRIES:
        # "A3B" and "E4B" say something else, as do Mixtral's 8x7B and Llama 4's 17B-16E.
        said = re.search(r"[/-](\d+(?:\.\d+)?)b(?:-(?!\d+E)|$)", entry.id, re.IGNORECASE)
        if said and entry.task != "transcription":  # Voxtral's name leaves its ears out
            assert entry.parameters_b == pytest.approx(float(said[1]), rel=0.27), entry.id


@pytest.mark.parametrize(
    ("asked", "id_"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("qwen/QWEN3-32b", "Qwen/Qwen3-32B"),
        ("Qwen/Qwen3-32B-AWQ", "Qwen/Qwen3-32B"),
        ("RedHatAI/Qwen3-32B-FP8-dynamic", "Qwen/Qwen3-32B"),
        ("Qwen3-32B", "Qwen/Qwen3-32B"),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-72B-Instruct"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", "meta-llama/Llama-3.3-70B-Instruct"),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "meta-llama/Llama-3.3-70B-Instruct"),
        ("someone/gpt-oss-20b-BF16", "openai/gpt-oss-20b"),
        # That name is its own model, and no quantised copy of another.
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
    ],
)
def test_copies_and_spellings_are_found(asked: str, id_: str) -> None:
    assert about(asked).id == id_


@pytest.mark.parametrize(
    "asked",
    [
        "Qwen/Qwen3-32B-Base",
        "my-org/my-model",
        "Llama-3.1",
        "meta-llama/Llama-3.1-8B",
        "",
        "/",
        "-int4" * 20_000 + "x",
        *HOSTILE,
    ],
)  # fmt: skip
def test_others_are_not(asked: str) -> None:
    """A base model has no chat template, so its chat sibling's parsers would be wrong."""
    assert known(asked) is None


def test_arguments_are_those_of_vllm() -> None:
    assert engine_args(about("Qwen/Qwen3-8B")) == (
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3",
    )  # fmt: skip
    assert engine_args(about("BAAI/bge-m3")) == ()
    assert engine_args(about("deepseek-ai/DeepSeek-V3.2"))[-2:] == ("--tokenizer-mode", "deepseek_v32")


def test_the_file_is_read_when_it_is_asked_and_not_before() -> None:
    code = (
        "import sys; from launcher.models import known as k; before = k._index.cache_info().currsize;"
        "k.known('x'); print(before, k._index.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
