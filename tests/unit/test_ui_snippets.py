"""The snippets are code whatever the model is called, and never hold a key."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess

import pytest

from launcher.ui.snippets import audio_snippets, key_command, snippets
from tests.hostile import HOSTILE

BASE = "http://gpu01.example:41234/v1"
TYPED = [text for text in HOSTILE if "\0" not in text]


def code(label: str, model: str, system: str = "") -> str:
    return next(snippet.code for snippet in snippets(BASE, model, system=system) if snippet.label == label)


@pytest.mark.parametrize("text", TYPED)
def test_python_says_what_was_typed(text: str) -> None:
    tree = ast.parse(code("Python", text, system=text))
    said = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert BASE in said
    assert text in said


@pytest.mark.parametrize("text", TYPED)
def test_curl_sends_what_was_typed(text: str) -> None:
    command = code("curl", text, system=text)
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    words = shlex.split(command.partition("|")[2].replace("\\\n", " "))
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == text
    assert f"{BASE}/chat/completions" in words


@pytest.mark.parametrize("text", TYPED)
def test_javascript_and_r_hold_it_as_one_literal(text: str) -> None:
    for label in ("JavaScript", "R"):
        assert json.dumps(text, ensure_ascii=False) in code(label, text)


@pytest.mark.parametrize("path", TYPED)
def test_the_key_comes_from_a_file(path: str) -> None:
    command = key_command(path) + '; printf "%s" "$OPENAI_API_KEY"'
    shown = subprocess.run(
        ["bash", "-c", f"cat() {{ printf '%s|' \"$@\"; }}; {command}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"{path}|"


def audio_code(label: str, model: str) -> str:
    return next(snippet.code for snippet in audio_snippets(BASE, model) if snippet.label == label)


@pytest.mark.parametrize("model", TYPED)
def test_the_audio_snippets_name_the_model_as_it_is(model: str) -> None:
    constants = [
        node.value
        for node in ast.walk(ast.parse(audio_code("Python", model)))
        if isinstance(node, ast.Constant)
    ]
    assert model in constants
    command = audio_code("curl", model)
    assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    words = shlex.split(command.partition("|")[2].replace("\\\n", " "))
    assert words[words.index("--form-string") + 1] == f"model={model}"
    assert f"{BASE}/audio/transcriptions" in words
    for label in ("JavaScript", "R"):
        assert json.dumps(model, ensure_ascii=False) in audio_code(label, model)


def test_no_snippet_holds_a_key() -> None:
    for snippet in (*snippets(BASE, "m"), *audio_snippets(BASE, "m")):
        assert "OPENAI_API_KEY" in snippet.code
        assert "sk-" not in snippet.code
