"""The examples of docs/endpoint.md, run as they stand against a real endpoint, whose offers are the simulated engine.

As for the other pages (test_docs_commands.py): one terminal, its blocks in their order.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.integration.test_docs_commands import LANGUAGES, Terminal, skipped
from tests.markdown import ROOT, Block, blocks

PAGE = ROOT / "docs" / "endpoint.md"
EXAMPLE_URL = "http://login1:41873"
SAYS = {
    "What is the capital of France?": ["Simulated answer: your question has 6 words."],
    "launcher gateway status": ["http://127.0.0.1:", "chat", "ready"],
    "launcher keys ls": ["alice", "bob", "no end"],
    "launcher auth login": ["You are logged in", "chat", "forgotten"],
    "launcher usage": ["Tokens in", "chat", '"usage"'],
    "launcher ls-jobs": ["running", '"clusters"'],
}
SITE = """
catalog:
  tiny-chat: {engine: simulated, path: null, engine_args: [--start-delay-s, "0.1", --token-rate, "0"]}
  other: {engine: simulated, path: null, engine_args: [--start-delay-s, "0.1", --token-rate, "0"]}
offers:
  chat: {model: other}
  big: {model: simulated}
  lab: {model: simulated, groups: [chemistry]}
groups: {chemistry: {owners: [carol]}}
session: {page: false}
"""


class EndpointTerminal(Terminal):
    """A terminal beside a gateway; the page's example address is that gateway's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SITE)
        with (folder / "gateway.log").open("w") as log:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "launcher", "gateway", "--json"],
                cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.gateway.stdout is not None
        line = self.gateway.stdout.readline()
        assert line, (folder / "gateway.log").read_text()
        self.url = json.loads(line)["base_url"].removesuffix("/v1")

    def run(self, block: Block) -> str:
        return super().run(replace(block, text=block.text.replace(EXAMPLE_URL, self.url)))

    def close(self) -> None:
        self.gateway.terminate()
        try:
            self.gateway.wait(60)
        finally:
            self.gateway.kill()
            assert self.gateway.stdout is not None
            self.gateway.stdout.close()
            super().close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[EndpointTerminal]:
    needs("curl", "curl")
    opened = EndpointTerminal(tmp_path)
    yield opened
    opened.close()


@pytest.mark.timeout(300)
def test_the_examples_run(terminal: EndpointTerminal, capsys: pytest.CaptureFixture[str]) -> None:
    """FIRST 14: what the page of the endpoint says is what happens."""
    left = dict(SAYS)
    for block in blocks(PAGE, *LANGUAGES):
        assert block.kind in ("", "not run"), block
        if (why := skipped(block)) is not None:
            with capsys.disabled():
                print(f"\n{block} is not run: {why}", end="")
            continue
        said = terminal.run(block)
        for word, expected in SAYS.items():
            if word in block.text:
                assert [text for text in expected if text not in said] == [], f"{block}\n{said}"
                left.pop(word, None)
    assert left == {}
