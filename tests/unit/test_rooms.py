"""The shape of the code: which room may import which, what the core must not load, sizes and names."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "launcher"

# Each room may import the ones before it and itself.
ORDER = (
    "errors",
    "settings",
    "models",
    "sessions",
    "schedulers",
    "engines",
    "whisper",
    "gateway",
    "batch",
    "ui",
    "serve",
    "planning",
    "api",
    "fleet",
    "transcripts",
    "doctor",
    "ondemand",
    "cli",
)
# Only these rooms may load what their extra brings; the rest must run with the core's dependencies alone.
HEAVY = {
    "torch": (),
    "vllm": (),
    "transformers": (),
    "gradio": ("ui",),
    "openai": ("ui",),
    "flask": ("whisper",),
    "faster_whisper": ("whisper",),
    "sqlalchemy": ("fleet",),
    "psycopg": ("fleet",),
}
FORBIDDEN_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "manager",
    "handler",
    "worker",
    "instance",
    "deployment",
}
MAX_LINES = 400


def python_files(*folders: str) -> list[Path]:
    found = [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    ]
    return sorted(found)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


MODULES = python_files("launcher")
CODE = python_files("launcher", "tests", "scripts", "benchmarks")


def room_of(path: Path) -> str:
    """`errors` for launcher/errors.py, `gateway` for launcher/gateway/proxy.py, "" for the package itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first in ("__init__.py", "__main__.py") else first.removesuffix(".py")


@dataclass(frozen=True)
class Source:
    """What the rules ask of a file, read once for all of them; lines count from 1."""

    documented: bool
    imports: tuple[tuple[int, str], ...]  # inside functions too: a late import is an import
    late: frozenset[
        int
    ]  # lines that do not run when the module is loaded, but in functions or for the type checker
    names: tuple[tuple[int, str], ...]  # of classes and functions


@functools.cache
def source(path: Path) -> Source:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: list[tuple[int, str]] = []
    late: set[int] = set()
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative imports hide the room"
            imports += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append((node.lineno, node.name))
        if is_not_run(node):
            assert isinstance(node, ast.stmt)
            late.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return Source(ast.get_docstring(tree) is not None, tuple(imports), frozenset(late), tuple(names))


def is_not_run(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
        isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )


def test_imports_point_one_way() -> None:
    wrong = []
    for path in MODULES:
        room = room_of(path)
        if not room:
            continue  # the package's own door opens on every room
        if room not in ORDER:
            wrong.append(f"{name_of(path)}: a new room needs its place in ORDER")
            continue
        for line, name in source(path).imports:
            parts = name.split(".")
            if len(parts) > 1 and parts[0] == "launcher" and parts[1] not in ORDER[: ORDER.index(room) + 1]:
                wrong.append(f"{name_of(path)}:{line}: {room} may not import {name}")
    assert not wrong, "\n".join(wrong)


def test_heavy_packages_stay_in_their_rooms() -> None:
    wrong = [
        f"{name_of(path)}:{line}: {name}"
        for path in MODULES
        for line, name in source(path).imports
        if line not in source(path).late
        and room_of(path) not in HEAVY.get(name.split(".")[0], (room_of(path),))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "statement", ["import launcher", "import launcher.cli", "from launcher import LauncherError"]
)
def test_the_command_line_starts_light(statement: str) -> None:
    """Half a second of imports would be felt at every `launcher status`."""
    heavy = [*HEAVY, "aiohttp", "yaml", "jinja2", "numpy", "prometheus_client"]
    code = f"import sys; {statement}; print(' '.join(name for name in {heavy!r} if name in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_modules_are_at_most_three_screens() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    wrong = [
        f"{name_of(path)} has {count} lines: split it along its nouns"
        for path, count in lines.items()
        if count > MAX_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_owns() -> None:
    # An empty __init__.py among the tests only makes a folder importable.
    kept = [path for path in CODE if path in MODULES or path.stat().st_size]
    wrong = [name_of(path) for path in kept if not source(path).documented]
    assert not wrong, f"no docstring: {', '.join(wrong)}"


def words(name: str) -> set[str]:
    """`SessionManager` and `session_manager` both hold the word `manager`."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_names_are_nouns_of_the_field() -> None:
    """`SessionManager` says nothing that `Sessions` does not."""
    wrong = []
    for path in CODE:
        wrong += [name_of(path) for part in path.relative_to(ROOT).parts if words(part) & FORBIDDEN_NAMES]
        wrong += [
            f"{name_of(path)}:{line}: {name}"
            for line, name in source(path).names
            if words(name) & FORBIDDEN_NAMES
        ]
    assert not wrong, "\n".join(wrong)


def test_words_are_found_in_both_spellings() -> None:
    assert words("SessionManager") == {"session", "manager"}
    assert words("http_handler.py") == {"http", "handler", "py"}
    assert words("HTTPWorker") == {"http", "worker"}
