"""The examples of README.md, docs/user.md, docs/shell.md and docs/batch.md, run as they stand on the simulated engine.

Each page is one terminal: its blocks run in their order, and variables that one exports are there in the next. Only the
example's session id and address are replaced by the real ones. HOME is a fresh folder, so `~` in the examples is true.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import Launcher, Session
from launcher.settings.layers import load
from tests.conftest import needs
from tests.markdown import ROOT, Block, blocks

PAGES = ("README.md", "docs/user.md", "docs/shell.md", "docs/batch.md")
EXAMPLE_ID, EXAMPLE_URL = "tiny-chat-3f9a2c1b", "http://gpu07:41823"
LANGUAGES = {"sh": "bash", "python": "python", "r": "Rscript"}
# What a user of the example would look for in its output.
SAYS = {
    "What is the capital of France?": ["Simulated answer: your question has 6 words."],
    "--env OMP_NUM_THREADS": ["#!/bin/bash"],
    "--config big.yaml": ['"account": "chem123"', "big.yaml, line 3"],
    "launcher environments": ["ready to start", "model_name", "There"],
    "--filter state=READY": ["READY"],
    "launcher wait --all": ["READY"],
    "launcher metrics": ["Generation Throughput", "not reported"],
    "launcher top --once": ["READY", '"sessions"'],
    "launcher batch-launch": ["READY", "SHUTDOWN"],
    "printenv OPENAI_BASE_URL": ["http://127.0.0.1:"],
    "launcher record": ["simulated"],
    "> requests.jsonl": ["requests.answers.jsonl"],
    "launcher batch resume": ["completed", "third.jsonl"],
    "launcher batch chat": ["Simulated answer"],
    "client.batches": ["completed", '"custom_id": "2"'],
    "output_folder_path": ['"status": "validating"', "/answers"],
}
SITE = """
catalog:
  tiny-chat: {engine: simulated, path: null, engine_args: [--start-delay-s, "0.1", --token-rate, "0"]}
session: {page: false}
"""


class Terminal:
    """A shell whose exported variables are kept from one block to the next, and the session that the examples mean."""

    def __init__(self, folder: Path, settings: str = SITE) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.kept = folder / "exported.sh"
        self.kept.touch()
        site, user = folder / "site.yml", folder / "config.yml"
        site.write_text(settings)
        user.touch()
        sessions = self.home / ".local" / "state" / "launcher" / "sessions"
        programs = Path(sys.executable).parent
        self.env = {
            "HOME": str(self.home),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "LAUNCHER_SITE": str(site),
            "LAUNCHER_CONFIG": str(user),
            "LAUNCHER_NETWORK__BIND": "127.0.0.1",
            "LAUNCHER_PLACES__SESSIONS": str(sessions),
            "LAUNCHER_PLACES__CACHE": str(folder / "cache"),
        }
        self.launcher = Launcher(load(self.env))
        self.session = self.launcher.launch("tiny-chat")
        self.session.wait(60)

    def run(self, block: Block) -> str:
        """Run `block`; its output. Another session is started where an earlier block ended this one."""
        if self.session.status().ended:
            self.session = self.launcher.launch("tiny-chat")
            self.session.wait(60)
        connection = self.session.connection
        assert connection is not None
        text = block.text.replace(EXAMPLE_ID, self.session.id)
        text = text.replace(EXAMPLE_URL, connection.base_url.removesuffix("/v1"))
        code = self.home / f"block.{block.language}"
        code.write_text(text)
        argument = f"{LANGUAGES[block.language]} {code.name}"
        if block.language == "sh":
            argument = f". ./{code.name}; declare -px >{self.kept}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f". {self.kept}; {argument}"],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def close(self) -> None:
        """End every session that the examples started."""
        sessions: list[Session] = self.launcher.sessions()
        for session in sessions:
            session.stop(wait=False)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not all(session.status().final for session in sessions):
            time.sleep(0.2)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    needs("curl", "curl")
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def skipped(block: Block) -> str | None:
    """Why a block cannot be run here."""
    if block.kind == "runs where there is":
        return None if shutil.which(block.why) else f"there is no {block.why} here"
    return block.why or None


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.timeout(300)
def test_the_examples_run(name: str, terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    """What the examples print is looked at where it is certain: each question gets an answer."""
    said: dict[str, str] = {}
    for block in blocks(ROOT / name, *LANGUAGES):
        if (why := skipped(block)) is not None:
            with capsys.disabled():
                print(f"\n{block} is not run: {why}", end="")
            continue
        said[str(block)] = terminal.run(block)
        for word, expected in SAYS.items():
            if word in block.text:
                missing = [text for text in expected if text not in said[str(block)]]
                assert missing == [], f"{block}\n{said[str(block)]}"
    assert len(said) >= 4


def test_what_is_not_run_says_why() -> None:
    for name in PAGES:
        for block in blocks(ROOT / name, *LANGUAGES):
            assert block.kind in ("", "not run", "runs where there is"), block
            assert block.kind != "runs where there is" or block.language == "r", block
