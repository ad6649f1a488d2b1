"""A site's install: `scripts/install.sh` into a folder, again, and with a failure in the middle."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Site:
    """A copy of the checkout, so that nothing changes between two installs, and where it is installed."""

    checkout: Path
    prefix: Path

    def install(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Install the core alone."""
        command = ["bash", str(self.checkout / "scripts" / "install.sh"), str(self.prefix), "none"]
        environment = {**os.environ, **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The core, installed; only these tests write there afterwards."""
    folder = tmp_path_factory.mktemp("site")
    # What other tests may be writing at this moment is none of it.
    skipped = shutil.ignore_patterns(
        ".venv", ".git", ".make", ".demo", ".*_cache", ".hypothesis", "__pycache__", "site.yml"
    )
    shutil.copytree(ROOT, folder / "checkout", ignore=skipped)
    shutil.copy(ROOT / "scripts" / "site.yml", folder / "checkout" / "scripts")
    if (ROOT / ".make" / "uv").exists():
        (folder / "checkout" / ".make").mkdir()
        (folder / "checkout" / ".make" / "uv").symlink_to(ROOT / ".make" / "uv")
    made = Site(folder / "checkout", folder / "inference")
    result = made.install()
    assert result.returncode == 0, result.stderr
    assert f"ln -s {made.prefix}/app " in result.stdout
    return made


@pytest.fixture
def prefix(site: Site) -> Path:
    return site.prefix


@pytest.mark.timeout(300)
def test_the_installed_command_runs_without_the_checkout(prefix: Path) -> None:
    for program in ("venv/bin/launcher", "app/venv/bin/launcher"):
        result = subprocess.run(
            [prefix / program, "--help"], cwd="/", capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    where = subprocess.run(
        [prefix / "venv/bin/python", "-c", "import launcher; print(launcher.__file__)"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).resolve().is_relative_to(prefix.resolve())


@pytest.mark.timeout(300)
def test_every_file_of_the_package_ships(site: Site) -> None:
    installed = next((site.prefix / "venv" / "lib").glob("python3*/site-packages/launcher"))

    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {str(path.relative_to(folder)) for path in found}

    assert files(installed) == files(site.checkout / "launcher")


@pytest.mark.timeout(300)
def test_everybody_can_read_and_nobody_else_can_write(prefix: Path) -> None:
    for path in prefix.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            continue
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH), path
        assert mode & stat.S_IROTH, path
        assert mode & stat.S_IXOTH or not path.is_dir(), path
    assert (prefix / "app" / "template" / "script.sh").stat().st_mode & stat.S_IXOTH


@pytest.mark.timeout(300)
def test_an_upgrade_keeps_the_site_file_and_installs_nothing_twice(site: Site, prefix: Path) -> None:
    (prefix / "site.yml").write_text("session: {hours: 7}\n")
    before = os.readlink(prefix / "current")
    result = site.install()
    assert result.returncode == 0, result.stderr
    assert os.readlink(prefix / "current") == before
    assert (prefix / "site.yml").read_text() == "session: {hours: 7}\n"
    code = "from launcher.settings.layers import load; print(load().session.hours)"
    for python in ("venv/bin/python", "app/venv/bin/python", "current/venv/bin/python"):
        said = subprocess.run(
            [prefix / python, "-c", code], capture_output=True, text=True, check=True, cwd="/"
        )
        assert float(said.stdout) == 7


@pytest.mark.timeout(300)
def test_a_failed_install_leaves_the_former_one(site: Site, prefix: Path) -> None:
    before = os.readlink(prefix / "current")
    result = site.install(PYTHON="/no/such/python")
    assert result.returncode != 0
    assert "/no/such/python is not a Python 3.11, 3.12 or 3.13" in result.stderr
    assert os.readlink(prefix / "current") == before
    assert [path.name for path in (prefix / "releases").iterdir()] == [Path(before).name]
    subprocess.run([prefix / "venv/bin/launcher", "--help"], capture_output=True, check=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = Site(ROOT, tmp_path / "file" / "inference").install()
    assert result.returncode == 2
    assert f"cannot write to {tmp_path}/file/inference" in result.stderr


@pytest.mark.timeout(300)
def test_an_upgrade_repeats_what_the_install_was_told(site: Site) -> None:
    """The documented line of an upgrade names only PREFIX: engine, extras and Python stay as they were."""
    before = (site.prefix / "current").readlink()
    result = subprocess.run(
        ["make", "-C", str(site.checkout), "install", f"PREFIX={site.prefix}"],
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "PYTHON"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (site.prefix / "current").readlink() == before
    assert (site.prefix / "install.choices").read_text().startswith("ENGINE=none\nEXTRAS=\n")
