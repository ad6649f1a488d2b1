"""The documentation is true as far as it can be read: what is made from the code is current, links lead somewhere,
commands parse, Python compiles, settings load. What must be run is in tests/integration/test_docs_commands.py.
"""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from launcher.cli.parser import AFTER_DASHES, ALIASES, parser
from launcher.errors import RequestError
from launcher.planning import Request
from launcher.settings.explained import BLOCK_SAYS, SAYS
from launcher.settings.layers import load
from launcher.settings.schema import BLOCKS, NAMED
from scripts import docs
from tests.markdown import PAGES, ROOT, anchors, blocks, commands, links, prose

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
STATES = ROOT / "docs" / "states.md"
# tests/integration/test_docs_commands.py, test_docs_endpoint.py and tests/parity/test_guides.py run these.
RUN = (
    *("README.md", "docs/user.md", "docs/shell.md", "docs/batch.md", "docs/endpoint.md"),
    *("docs/python.md", "docs/switching.md"),
)
LANGUAGES = ("sh", "python", "r")


@pytest.mark.parametrize("name", docs.MADE)
def test_what_is_made_from_the_code_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == docs.current(name), "run scripts/docs.py"


def test_every_setting_is_explained_and_no_other() -> None:
    keys = {
        f"{block}.{field.name}"
        for block, type_ in (BLOCKS | NAMED).items()
        for field in dataclasses.fields(type_)
        if not (block in NAMED and field.name == "name")
    }
    assert set(SAYS) == keys
    assert set(BLOCK_SAYS) == {*BLOCKS, *NAMED}


def said_reasons(path: Path) -> set[str]:
    """Reasons in the code: the first argument of Diagnosis, the third of EngineError, every `reason="…"`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        values = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
        if called in ("Diagnosis", "ending"):
            values += node.args[:1]
        if called == "EngineError":
            values += node.args[2:3]
        found |= {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    return found - {""}


def test_every_reason_in_the_code_is_in_the_states() -> None:
    rooms = [ROOT / "launcher" / room for room in ("serve", "engines", "sessions")]
    reasons = {reason for room in rooms for path in room.rglob("*.py") for reason in said_reasons(path)}
    assert {"idle", "engine-missing", "no-answer", "start-timeout"} <= reasons, "the search finds too little"
    text = STATES.read_text(encoding="utf-8")
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    page = ROOT / name
    wrong = []
    for target in links(page):
        parts = urlsplit(target)
        if parts.scheme:
            continue
        file = (page.parent / parts.path).resolve() if parts.path else page
        if not file.exists() or (
            parts.fragment and file.suffix == ".md" and parts.fragment not in anchors(file)
        ):
            wrong.append(target)
    assert not wrong, f"{name}: {wrong}"


def test_every_picture_is_shown_somewhere() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    assert [
        picture.name for picture in sorted((ROOT / "docs" / "images").iterdir()) if picture not in shown
    ] == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_parse(name: str) -> None:
    wrong = []
    known = parser()
    for where, arguments in commands(ROOT / name):
        if arguments[:1] == ["--cluster"]:
            del arguments[:2]
        arguments[:1] = [ALIASES.get(word, word) for word in arguments[:1]]
        taking = bool(arguments) and arguments[0] in AFTER_DASHES
        cut = arguments.index("--") if taking and "--" in arguments else len(arguments)
        try:
            known.parse_args(arguments[:cut])
        except SystemExit:  # --help, --version
            continue
        except RequestError as error:
            # `launcher launch` and `launcher batch run` alone only name the command
            if arguments[1:] != [] and " ".join(arguments) not in docs.command_names():
                wrong.append(f"{where}: launcher {' '.join(arguments)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_commands_are_found_at_all() -> None:
    found = [arguments for page in PAGES for _, arguments in commands(page)]
    assert ["stop", "tiny-chat-3f9a2c1b"] in found
    assert ["launch", "simulated", "--wait"] in found, "with a path before it"
    assert {arguments[0] for arguments in found if arguments} >= {"launch", "status", "wait", "logs", "stop"}


@pytest.mark.parametrize("name", NAMES)
def test_python_compiles(name: str) -> None:
    for block in blocks(ROOT / name, "python"):
        compile(block.text, str(block), "exec")


def test_settings_load(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yml"
    empty.touch()
    found = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if block.kind == "not ours":
                continue
            file = tmp_path / "site.yml"
            file.write_text(block.text)
            load({"LAUNCHER_SITE": str(file), "LAUNCHER_CONFIG": str(empty)})
            found += 1
    assert found >= 5


def test_the_python_door_takes_what_its_page_says() -> None:
    text = prose(ROOT / "docs" / "user.md")
    listed = text.partition("`launch` takes what the command takes")[2].partition("\n\n")[0]
    missing = [
        f.name for f in dataclasses.fields(Request) if f.name != "model" and f"`{f.name}`" not in listed
    ]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_blocks_say_what_they_are(name: str) -> None:
    assert [str(block) for block in blocks(ROOT / name) if not block.language] == []


@pytest.mark.parametrize("name", sorted({*NAMES} - {*RUN}))
def test_what_no_test_runs_says_why(name: str) -> None:
    """The blocks of the other pages; of those in `RUN` the tests that run them look."""
    assert [str(block) for block in blocks(ROOT / name, *LANGUAGES) if not block.why] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_developers_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [word for word in ("/work/", "/root/", "../shared") if word in text] == []
