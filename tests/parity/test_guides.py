"""The examples of docs/python.md and docs/switching.md, run as they stand.

As for docs/user.md (tests/integration/test_docs_commands.py): each guide is one terminal with a session of the
simulated engine behind the example's id and address. The guides and the examples in Python run side by side.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.conftest import needs
from tests.integration.test_docs_commands import LANGUAGES, Terminal, skipped
from tests.markdown import ROOT, Block, blocks

pytestmark = pytest.mark.timeout(300)
PYTHON, SWITCHING = ROOT / "docs" / "python.md", ROOT / "docs" / "switching.md"
GUIDES = ("vec-inf", "Blackfish", "della-inference")  # headings of switching.md
SHIPPED = ROOT / "launcher" / "models" / "shipped" / "tiny-chat"
# What starts runs here; what is only shown is for a Slurm that is not asked.
SITE = """
clusters: {here: {scheduler: local}, vector: {scheduler: slurm}}
profiles:
  here: {cluster: here, hours_max: 12}
  a40: {cluster: vector, partition: a40, gpus: 1, gpus_max: 4, gpu_type: a40, gpu_memory_gb: 48, cpus: 16}
  pli: {cluster: vector, partition: pli-c, account: pli, gpus: 8, gpu_type: h100, gpu_memory_gb: 80, cpus: 96}
catalog:
  tiny-chat: {engine: simulated, path: null, engine_args: [--start-delay-s, "0.1", --token-rate, "0"]}
models: {folders: [~/model-weights]}
session: {page: false, profile: here}
"""
# What is to be read in the output of a block that has the word: what a user would look for.
SAYS = {
    "What is the capital of France?": ["Simulated answer: your question has 6 words."],
    "error.reason": ["CUDA out of memory"],
    "launcher.rerun": ["\nTrue\n"],
    "launcher.batch_launch": ["'READY', 'READY'"],
    "launcher metrics": ["Model Status", "READY", "Generation Throughput", "GPU Cache Usage", '"model_status"'],
    "launcher list\n": ["tiny-chat", '"model_name"'],
    "--qos m2 --dry-run": [
        "#SBATCH --qos=m2", "#SBATCH --partition=a40", "#SBATCH --gres=gpu:a40:1", "#SBATCH --time=8:00:00",
        "#SBATCH --mem=65536M", "#SBATCH --cpus-per-task=16",
    ],
    "VEC_INF_CONFIG": ["#SBATCH --qos=m2", "#SBATCH --time=8:00:00"],
    "launcher batch-launch": ["#SBATCH hetjob", "READY", "SHUTDOWN"],
    "session.json": ["--token-rate"],
    "launcher shutdown": ["SHUTDOWN"],
    "text-generation tiny-chat --dry-run": ["#!/bin/bash", "blackfish-77771", "READY"],
    "--gres 1 --time": ["#SBATCH --time=0:30:00", "#SBATCH --gres=gpu:a40:1"],
    "launcher prune": ["tiny-chat"],
    "hours=12 --dry-run": ["#SBATCH --time=12:00:00", "#SBATCH --account=pli", "#SBATCH --gres=gpu:h100:8"],
}  # fmt: skip
# Each example in a process of its own, whose imports were done once for all; their exit codes in their order.
EACH = """
import json, os, sys
import openai
from launcher import AsyncLauncher

children = []
for place, text in enumerate(json.load(sys.stdin)):
    children.append(os.fork())
    if children[-1] == 0:
        output = os.open(os.path.join(sys.argv[1], str(place)), os.O_CREAT | os.O_WRONLY, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        exec(compile(text, f"example-{place}", "exec"), {"__name__": "__main__"})
        sys.exit()
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
Answers: TypeAlias = "dict[str, Future[dict[str, str]]]"


class GuideTerminal(Terminal):
    """A terminal on that site, with two folders of weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SITE)
        for name in ("Meta-Llama-3.1-8B-Instruct", "Qwen2.5-7B-Instruct-1M"):
            weights = self.home / "model-weights" / name
            shutil.copytree(SHIPPED, weights)
            config = json.loads((weights / "config.json").read_text())
            larger = {"max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 8}
            (weights / "config.json").write_text(json.dumps({**config, **larger}))

    def run(self, block: Block) -> str:
        if not self.session.paths.plan.exists():  # an example has removed it
            self.session = self.launcher.launch("tiny-chat")
            self.session.wait(60)
        return super().run(block)

    def run_each(self, several: list[Block]) -> dict[str, str]:
        """Run examples in Python that start their own sessions, all at once."""
        output = self.home / "output"
        output.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", EACH, str(output)], input=json.dumps([block.text for block in several]),
            cwd=self.home, env=self.env, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        said = {str(block): (output / str(place)).read_text() for place, block in enumerate(several)}
        assert done.stdout.split() == ["0"] * len(several), (done.stdout, done.stderr, said)
        return said


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page, *LANGUAGES) if skipped(block) is None]


def guide_of(block: Block) -> str:
    """The heading of the second level that the block stands under."""
    lines = block.page.read_text(encoding="utf-8").splitlines()[: block.line]
    return next(line[3:] for line in reversed(lines) if line.startswith("## "))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What each block said: of each guide, and of the examples in Python."""
    needs("curl", "curl")

    def guide(name: str, folder: Path) -> dict[str, str]:
        terminal = GuideTerminal(folder)
        try:
            if name == PYTHON.name:
                return terminal.run_each(runnable(PYTHON))
            return {str(b): terminal.run(b) for b in runnable(SWITCHING) if guide_of(b) == name}
        finally:
            terminal.close()

    names = (*GUIDES, PYTHON.name)
    with ThreadPoolExecutor(len(names)) as pool:
        yield {name: pool.submit(guide, name, tmp_path_factory.mktemp("terminal")) for name in names}


def check(block: Block, said: str) -> None:
    for word, expected in SAYS.items():
        if word in block.text:
            assert [text for text in expected if text not in said] == [], f"{block}\n{said}"


@pytest.mark.parametrize("block", runnable(PYTHON), ids=str)
def test_an_example_of_the_python_page_runs(block: Block, answers: Answers) -> None:
    """Each by itself, in a process of its own."""
    check(block, answers[PYTHON.name].result()[str(block)])


@pytest.mark.parametrize("block", runnable(SWITCHING), ids=str)
def test_an_example_of_a_guide_runs_in_our_words(block: Block, answers: Answers) -> None:
    """What a user of the other system has before the eyes, typed here."""
    check(block, answers[guide_of(block)].result()[str(block)])


def test_every_expectation_belongs_to_a_block() -> None:
    texts = [block.text for page in (PYTHON, SWITCHING) for block in runnable(page)]
    assert [word for word in SAYS if not any(word in text for text in texts)] == []


def test_what_is_not_run_says_why() -> None:
    for page in (PYTHON, SWITCHING):
        for block in blocks(page, *LANGUAGES):
            assert block.kind in ("", "not run", "not ours", "runs where there is"), block
