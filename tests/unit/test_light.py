"""What the commands of every day do not load: it would be felt each time (P6, benchmarks/cli.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Slow to load, and loaded late by what needs them.
SLOW = (
    "aiohttp", "asyncio", "concurrent.futures", "difflib", "email", "hashlib", "http.client", "importlib.resources",
    "jinja2", "lzma", "openai", "prometheus_client", "random", "shutil", "socket", "tempfile", "yaml", "zipfile",
)  # fmt: skip
CODE = """
import sys
from launcher.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print(*(name for name in {slow!r} if name in sys.modules), file=sys.stderr)
"""


def loaded(*arguments: str, home: Path, more: tuple[str, ...] = ()) -> list[str]:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LAUNCHER_")},
        "HOME": str(home),
        "LAUNCHER_SITE": os.devnull,
        "LAUNCHER_CONFIG": os.devnull,
    }
    code = CODE.format(arguments=list(arguments), slow=(*SLOW, *more))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout
    return done.stderr.split()


def test_help_loads_next_to_nothing(tmp_path: Path) -> None:
    assert loaded("--help", home=tmp_path, more=("dataclasses", "json", "launcher.api", "subprocess")) == []


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("ls",)])
def test_a_status_loads_what_it_needs(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    first = loaded(*arguments, home=tmp_path)  # it reads the settings, and remembers where the sessions are
    assert set(first) <= {"yaml", "random", "tempfile", "shutil", "lzma", "hashlib"}, first
    assert loaded(*arguments, home=tmp_path, more=("launcher.settings.schema",)) == []


def test_a_commands_help_is_english_whatever_the_locale(tmp_path: Path) -> None:
    """argparse would look for a translation of each of its words in four folders."""
    env = {**os.environ, "HOME": str(tmp_path), "LANGUAGE": "de:fr", "COLUMNS": "100"}
    argv = [sys.executable, "-m", "launcher", "stop", "--help"]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: launcher stop")
    assert "show this help message and exit" in done.stdout
