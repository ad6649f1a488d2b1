"""Where the sessions are, remembered between commands: only as long as everything that it rests on is as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.sessions.remembered import keep, recall
from launcher.settings.layers import load_noting
from tests.hostile import HOSTILE

LONG_AGO = 1_000_000_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("launcher.sessions.remembered._SETTLED_S", -1)  # these files are as new as the test
    return tmp_path


@pytest.fixture
def site(home: Path) -> Path:
    file = home / "site.yml"
    file.write_text("places: {sessions: ~/mine}\n")
    return file


def variables(site: Path, **more: str) -> dict[str, str]:
    return {"LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": os.devnull, **more}


def remember(of: dict[str, str]) -> None:
    keep(of, load_noting(of)[1])


def test_it_is_the_folder_of_the_settings(home: Path, site: Path) -> None:
    of = variables(site)
    assert recall(of) is None
    remember(of)
    assert recall(of) == home / "mine"
    (file,) = (home / ".cache" / "launcher").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_home_that_moved_is_seen(home: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is the text with its ~ and its variables."""
    of = variables(site)
    site.write_text("places: {sessions: /scratch/$USER/sessions}\n")
    monkeypatch.setenv("USER", "alice")
    remember(of)
    monkeypatch.setenv("USER", "bob")
    assert recall(of) == Path("/scratch/bob/sessions")


def changed_site(site: Path) -> dict[str, str]:
    site.write_text("places: {sessions: ~/other}\n")
    return variables(site)


def changed_back_in_time(site: Path) -> dict[str, str]:
    """The same size and the same time of change: only what nobody can set tells."""
    before = site.stat()
    site.write_text("places: {sessions: ~/yours}\n"[: before.st_size])
    os.utime(site, ns=(before.st_atime_ns, before.st_mtime_ns))
    return variables(site)


def another_site(site: Path) -> dict[str, str]:
    other = site.with_name("other.yml")
    other.write_bytes(site.read_bytes())
    return variables(other)


def a_user_file(site: Path) -> dict[str, str]:
    user = site.with_name("config.yml")
    user.write_text("places: {sessions: ~/users}\n")
    return variables(site, LAUNCHER_CONFIG=str(user))


def a_variable(site: Path) -> dict[str, str]:
    return variables(site, LAUNCHER_PLACES__SESSIONS="/elsewhere")


def a_wrong_variable(site: Path) -> dict[str, str]:
    return variables(site, LAUNCHER_NONSENSE__KEY="1")


def no_site(site: Path) -> dict[str, str]:
    site.unlink()
    return variables(site)


@pytest.mark.parametrize(
    "change",
    [changed_site, changed_back_in_time, another_site, a_user_file, a_variable, a_wrong_variable, no_site],
)
def test_any_change_of_the_settings_is_seen(site: Path, change: Callable[[Path], dict[str, str]]) -> None:
    remember(variables(site))
    assert recall(change(site)) is None


def test_a_file_that_has_just_changed_is_not_remembered(
    home: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.sessions.remembered._SETTLED_S", 3600)
    remember(variables(site))
    assert not (home / ".cache").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000, *HOSTILE[:12]])
def test_a_broken_memory_is_passed_over(home: Path, site: Path, text: str) -> None:
    of = variables(site)
    remember(of)
    (file,) = (home / ".cache" / "launcher").iterdir()
    file.write_text(text)
    assert recall(of) is None
    remember(of)
    assert recall(of) == home / "mine"


def test_a_memory_that_somebody_else_could_write_is_not_believed(home: Path, site: Path) -> None:
    of = variables(site)
    remember(of)
    (file,) = (home / ".cache" / "launcher").iterdir()
    file.chmod(0o666)
    assert recall(of) is None
    real = file.rename(home / "real")
    file.symlink_to(real)
    assert recall(of) is None


def test_a_home_that_is_full_or_not_there_costs_only_time(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    keep(variables(site), "~/mine")
    assert recall(variables(site)) is None


def test_the_second_status_reads_no_settings(home: Path) -> None:
    """P6: settings are a third of the time of `launcher status`."""
    site = home / "site.yml"
    site.write_text("places: {sessions: ~/mine}\n")
    # The change time cannot be set back, and a new process knows nothing of this test's patience.
    code = (
        "import launcher.sessions.remembered as r, sys; r._SETTLED_S = -1; from launcher.cli import main; "
        "main(['status']); print(sorted(m for m in sys.modules if m in ('yaml', 'launcher.settings.schema')))"
    )
    env = {**os.environ, **variables(site), "HOME": str(home)}
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert [lines[-1] for lines in said] == ["['launcher.settings.schema', 'yaml']", "[]"]
    assert said[0][:-1] == said[1][:-1]
