"""LiteLLM and LangChain as clients of a session: the examples of docs/python.md, in a venv of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import Connection, Launcher
from launcher.settings.layers import load
from tests.conftest import skip_loudly
from tests.markdown import ROOT
from tests.settings import without_site

pytestmark = pytest.mark.timeout(300)
VERSIONS = Path(__file__).with_name("clients.txt")
EXAMPLES = ROOT / "docs" / "examples"
NAMES = ("litellm_client.py", "langchain_client.py")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a venv with both; seconds where uv has the packages already."""
    own = ROOT / ".make" / "uv" / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        skip_loudly("program uv: not in Debian; scripts/venv.sh fetches it")
    program = tmp_path_factory.mktemp("clients") / "bin" / "python"
    for argv in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(program.parents[1])],
        [uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", str(program), "-r", str(VERSIONS)],
    ):  # fmt: skip
        subprocess.run(argv, check=True)
    return program


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A session that both ask."""
    settings = load(without_site(tmp_path_factory.mktemp("session")))
    with Launcher(settings).launch("simulated") as session:
        yield session.wait(60)


@pytest.fixture(scope="module")
def running(
    python: Path, connection: Connection, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Both at once: most of their time is their imports."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path_factory.mktemp("home")),
        "OPENAI_BASE_URL": connection.base_url,
        "OPENAI_API_KEY": connection.key,
        # Without it LiteLLM asks the internet for the prices of models.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    started = {
        name: subprocess.Popen(
            [str(python), str(EXAMPLES / name), connection.model],
            env=env, cwd=env["HOME"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in NAMES
    }  # fmt: skip
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", NAMES)
def test_the_example_gets_an_answer(
    name: str, running: dict[str, subprocess.Popen[str]], connection: Connection
) -> None:
    """della 1: other people's programs, with address and key from the environment."""
    said, error = running[name].communicate(timeout=120)
    assert running[name].returncode == 0, error
    assert "Simulated answer: your question has" in said
    assert connection.key not in said + error
