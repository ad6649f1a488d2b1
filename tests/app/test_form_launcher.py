"""The page comes whatever the launcher does: missing, broken, silent, talking nonsense, or never ending."""

from __future__ import annotations

import html
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.app.cards import copy_app
from tests.app.ondemand import Form, OnDemand, OnDemandError, Version
from tests.conftest import needs_ruby
from tests.programs.front import wait_until
from tests.site import SETTINGS

pytestmark = [pytest.mark.app, pytest.mark.timeout(120)]
LAUNCHER = Path(sys.executable).parent / "launcher"
NOT_READY = "<strong>This app is not ready.</strong>"


@pytest.fixture
def version() -> Version:
    """Both versions run the same Ruby here; what differs is tried in both by `@BOTH`."""
    return "4.2"


BOTH = pytest.mark.parametrize("version", ["3.1", "4.2"])


@pytest.fixture
def ood(tmp_path: Path, version: Version) -> OnDemand:
    """An app whose launcher is `tmp_path/launcher`, which each test writes."""
    needs_ruby()
    (tmp_path / "site.yml").write_text(yaml.safe_dump(SETTINGS))
    env = {
        "LAUNCHER": str(tmp_path / "launcher"),
        "LAUNCHER_SITE": str(tmp_path / "site.yml"),
        "LAUNCHER_PLACES__SESSIONS": str(tmp_path / "sessions"),
        "HOME": str(tmp_path),
    }
    return OnDemand(copy_app(tmp_path / "app"), version, env=env)


def _write(folder: Path, script: str, first: str = "#!/bin/bash") -> None:
    """The launcher of this folder; `$$` of the script is kept, so that one can look for it afterwards."""
    launcher = folder / "launcher"
    launcher.write_text(f"{first}\necho $$ > {folder}/pid\n{script}\n")
    launcher.chmod(0o755)


def _hurry(ood: OnDemand, file: str, seconds: int) -> None:
    """The same file with less patience, so that the test need not have it."""
    text = (ood.app_dir / file).read_text()
    (ood.app_dir / file).write_text(re.sub(r"timeout\(\d+,", f"timeout({seconds},", text))
    assert f"timeout({seconds}," in (ood.app_dir / file).read_text()


def _is_gone(folder: Path) -> None:
    process = Path(f"/proc/{(folder / 'pid').read_text().strip()}/stat")

    def gone() -> bool:
        # Killed, and perhaps not yet fetched by the process that takes over orphans.
        try:
            return process.read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True

    wait_until(gone)  # a kill takes its moment


def _says_why(form: Form, words: str) -> None:
    assert NOT_READY in form.header
    assert words in form.header
    assert "Please tell the site" in form.header
    assert [name for name in form.fields if name != "cluster"] == ["notice"]
    assert not form.preset  # else the menu's link would launch at once instead of showing the page


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Traceback >&2; echo 'ImportError: No module named _x_y_' >&2; exit 1", "No module named _x_y_"),
        ("exit 0", "It printed nothing."),
        ("kill -9 $$", "It printed nothing."),
        ("echo hello; echo '[1, 2]'", "said: 1, 2"),
        ('echo \'{"cluster": "*", "form": [\'', "said"),
        (f"yes {'y' * 1000}", "It printed too much."),  # in lines of two letters that takes seconds
        ("cat /dev/zero", "It printed too much."),
        (r"printf 'caf\351 <img src=x onerror=alert(1)> **b** [a](b)\n' >&2; exit 3", "caf img src x onerror alert 1"),
    ],
)  # fmt: skip
def test_a_launcher_that_fails_or_babbles(ood: OnDemand, tmp_path: Path, script: str, words: str) -> None:
    _write(tmp_path, script)
    form = ood.form()
    _says_why(form, words)
    assert "<img" not in form.header
    _is_gone(tmp_path)


def test_a_launcher_that_hangs_is_ended_with_its_children(ood: OnDemand, tmp_path: Path) -> None:
    _hurry(ood, "form.yml.erb", 1)
    _write(tmp_path, "sleep 600 & wait")
    _says_why(ood.form(), "It did not answer within 10 seconds.")
    _is_gone(tmp_path)


def test_a_launcher_that_cannot_be_started(ood: OnDemand, tmp_path: Path) -> None:
    _write(tmp_path, "", first="#!/nowhere/python3")
    _says_why(ood.form(), "No such file or directory")
    (tmp_path / "launcher").write_bytes(b"\x7fELF")
    _says_why(ood.form(), "said")


@BOTH
@pytest.mark.parametrize("there", ["nothing", "a folder", "not executable"])
def test_a_launcher_that_is_not_there(ood: OnDemand, tmp_path: Path, there: str) -> None:
    if there == "a folder":
        (tmp_path / "launcher").mkdir()
    elif there == "not executable":
        (tmp_path / "launcher").touch(mode=0o644)
    _says_why(ood.form(), f"There is no launcher beside {ood.app_dir}")
    with pytest.raises(OnDemandError, match="There is no launcher beside") as caught:
        ood.submit({"model": "simulated"}, tmp_path / "staged")
    assert caught.value.where == "save"


@pytest.mark.parametrize(
    "script",
    [
        f"echo 'Loading module inference/2026'; echo warning >&2; {LAUNCHER} \"$@\"",
        f"{LAUNCHER} \"$@\"; echo 'bye'; sleep 600",
        f"sleep 600 & exec {LAUNCHER} \"$@\"",
        f"LC_ALL=de_DE.ISO-8859-1 exec {LAUNCHER} \"$@\"",
    ],
    ids=["talks before", "does not end", "leaves a child", "latin-1"],
)  # fmt: skip
def test_a_launcher_with_bad_manners_does_its_work(ood: OnDemand, tmp_path: Path, script: str) -> None:
    description = "Größe \U0001f600 ☃"
    settings = SETTINGS | {"profiles": {"cpu": {**SETTINGS["profiles"]["cpu"], "description": description}}}
    (tmp_path / "site.yml").write_text(yaml.safe_dump(settings))
    _write(tmp_path, script)
    form = ood.form()
    assert form.header == ""
    assert form.fields["profile"].options[0][0].startswith(description)
    values = {name: field.posted for name, field in form.fields.items()} | {"model": "simulated"}
    submit = ood.submit(values, tmp_path / "staged")
    assert "--partition=cpu" in submit["script"]["native"]
    _is_gone(tmp_path)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("cat >/dev/null; sleep 600", "The launcher did not answer within 60 seconds."),
        ("sleep 600", "The launcher did not answer within 60 seconds."),
        ("exit 0", "The launcher said nothing."),
        ("echo 'launcher: No \"a\" here.' >&2; echo 'Choose b.' >&2; exit 2", 'No "a" here.\nChoose b.'),
        ("yes", "y\ny"),
    ],
)  # fmt: skip
def test_a_launcher_that_fails_at_launch_is_a_sentence_above_the_form(
    ood: OnDemand, tmp_path: Path, script: str, words: str
) -> None:
    _hurry(ood, "submit.yml.erb", 1)
    _hurry(ood, "form.yml.erb", 1)
    _write(tmp_path, script)
    with pytest.raises(OnDemandError) as caught:
        ood.submit({"model": "simulated", "revision": "x" * 200_000}, tmp_path / "staged")
    assert caught.value.where == "save"
    assert caught.value.message.startswith(words)
    assert len(caught.value.message) <= 2000
    _is_gone(tmp_path)


def test_a_broken_site_file_is_told_as_it_is_written(ood: OnDemand, tmp_path: Path) -> None:
    os.symlink(LAUNCHER, tmp_path / "launcher")
    text = "<img src=x onerror=alert(1)> [a](javascript:alert(1)) *b* _c_ `d` # e naïve \U0001f600"
    settings = SETTINGS | {"session": {"hours": text}}
    (tmp_path / "site.yml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    form = ood.form()
    _says_why(form, "session.hours must be a number, not")
    assert not re.search(r"<(?!/?(p|strong)>)", form.header), form.header
    shown = html.unescape(re.sub(r"<[^>]*>", "", form.header))
    assert "<img src=x onerror=alert(1)> [a](javascript:alert(1)) *b* _c_ `d` # e" in shown
