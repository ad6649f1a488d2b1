"""`launcher completion` in real shells: what a press of the tabulator key offers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.cli.completion import SCRIPTS
from tests.conftest import needs

SITE = """
clusters: {local: {scheduler: local}}
profiles: {gpu-small: {cluster: local}, gpu-large: {cluster: local}}
environments: {vllm-here: {kind: venv}}
catalog: {tiny-one: {engine: simulated}, tiny-two: {engine: simulated}, secret: {engine: simulated, hidden: true}}
"""
# As readline calls it: the words, divided at its own breaks, and the place of the cursor.
PRESS = f"""{SCRIPTS["bash"]}
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_launcher
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# zsh outside of its line editor: the words and the place that its completion system would give, and what it is offered.
PRESS_ZSH = f"""compadd() {{ print -rl -- ${{argv[2,-1]}} }}
_files() {{ : }}
{SCRIPTS["zsh"]}
words=("$@") CURRENT=$#
_launcher
"""
# fish completes a whole line.
PRESS_FISH = f"""{SCRIPTS["fish"]}
complete -C "$argv"
"""
Tab = Callable[..., list[str]]


@pytest.fixture
def tab(tmp_path: Path) -> Tab:
    """Press the key at the end of a line in bash."""
    return pressing(tmp_path, needs("bash", "bash"), "-c", PRESS, "bash")


def pressing(tmp_path: Path, *argv: str) -> Tab:
    """Press the key in a shell that `argv` starts, with the line's words behind it."""
    (tmp_path / "site.yml").write_text(SITE)
    session = tmp_path / ".local/state/launcher/sessions/tiny-one-0a1b2c3d"
    session.mkdir(parents=True)
    (session / "session.json").write_text("{}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(tmp_path), "LAUNCHER_SITE": str(tmp_path / "site.yml")}

    def press(*line: str) -> list[str]:
        done = subprocess.run(
            [*argv, "launcher", *line], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [word for word in done.stdout.splitlines() if word]

    return press


def test_commands_options_and_names_are_completed_in_bash(tab: Tab) -> None:
    assert tab("laun") == ["launch"]
    assert "serve" not in tab("")
    assert tab("launch", "tiny-") == ["tiny-chat", "tiny-one", "tiny-two", "tiny-whisper"]
    assert tab("launch", "tiny-one", "--profi") == ["--profile"]
    assert tab("launch", "--profile", "gpu-") == ["gpu-large", "gpu-small"]
    assert tab("launch", "--profile", "=", "gpu-s") == ["gpu-small"]
    assert tab("launch", "--environment", "v") == ["vllm-here"]
    assert tab("stop", "ti") == ["tiny-one-0a1b2c3d"]
    assert tab("shutdown", "ti") == ["tiny-one-0a1b2c3d"]
    assert tab("logs", "--of", "g") == ["gateway"]
    assert tab("config", "sc") == ["schema"]
    assert tab("run", "sp") == ["speech-recognition"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_offer_the_same(shell: str, tmp_path: Path) -> None:
    program = needs(shell, shell)
    start = ["-fc", PRESS_ZSH, "zsh"] if shell == "zsh" else ["--no-config", "-c", PRESS_FISH]
    tab = pressing(tmp_path, program, *start)
    assert tab("laun") == ["launch"]
    assert tab("launch", "--profile", "gpu-") == ["gpu-large", "gpu-small"]
    assert tab("stop", "ti") == ["tiny-one-0a1b2c3d"]


@pytest.mark.parametrize("word", ["$(touch ran)", "a b'", "--x=", "*", "x" * 3000])
def test_what_stands_there_is_never_run_and_offers_nothing_odd(tab: Tab, tmp_path: Path, word: str) -> None:
    (tmp_path / "hit").write_text("")
    for line in ((word,), ("launch", "--profile", word), (word, "x", "")):
        assert all(offered.startswith(word) or line[-1] == "" for offered in tab(*line))
    assert not (tmp_path / "ran").exists()


def test_a_site_file_that_is_wrong_offers_nothing(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("profiles: 3\n")
    assert tab("launch", "--profile", "") == []
    assert tab("launch", "--profi") == ["--profile"]


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_the_script_is_one_that_the_shell_reads(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    done = subprocess.run(
        [needs(shell, shell), "-n"], input=script, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash", "zsh"]) == 2
    assert capsys.readouterr().err == (
        'launcher: "zsh" is one word too many. Write only: launcher completion bash\n'
    )
    assert main(["completion", "csh"]) == 2
    assert capsys.readouterr().err == (
        'launcher: "csh" is no shell that can be helped. Choose one of: bash, zsh, fish.\n'
    )
