"""What a profile gives under the site's limits, wherever it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli import main
from launcher.planning.limits import within
from launcher.settings.layers import load
from launcher.settings.schema import Profile, Settings

EIGHT = {"cluster": "test", "gpus": 8, "hours_max": 48}


def _settings(folder: Path, profile: dict[str, Any], limits: dict[str, Any], locks: list[str]) -> Settings:
    site = {"clusters": {"test": {}}, "profiles": {"p": profile}, "limits": limits, "locks": locks}
    (folder / "site.yml").write_text(yaml.safe_dump(site))
    return load({"LAUNCHER_SITE": str(folder / "site.yml"), "LAUNCHER_CONFIG": "/dev/null"})


@pytest.mark.parametrize(
    ("profile", "limits", "locks", "given"),
    [
        (EIGHT, {}, [], (8, None, None, 48)),
        (EIGHT, {"gpus": 4}, [], None),
        (EIGHT, {"gpus": 8, "hours": 24}, [], (8, None, None, 24)),
        (EIGHT | {"gpus": 1, "gpus_max": 8, "hours": 30}, {"gpus": 4, "hours": 24}, [], (1, 4, 24, 24)),
        (EIGHT | {"gpus": 1, "gpus_max": 8, "hours": 2}, {"hours": 24}, [], (1, 8, 2, 24)),
        (EIGHT | {"gpus": 1, "gpus_max": 8}, {}, ["profiles.p.gpus"], (1, None, None, 48)),
        (EIGHT | {"gpus": 2, "nodes": 2}, {"gpus": 3}, [], None),
        (EIGHT | {"gpus": 0}, {"gpus": 0, "hours": 0.5}, [], (0, None, None, 0.5)),
    ],
)
def test_what_a_profile_gives_under_the_limits(
    tmp_path: Path,
    profile: dict[str, Any],
    limits: dict[str, Any],
    locks: list[str],
    given: tuple[Any, ...] | None,
) -> None:
    settings = _settings(tmp_path, profile, limits, locks)
    found: Profile | None = within(settings.profiles["p"], settings)
    assert (found and (found.gpus, found.gpus_max, found.hours, found.hours_max)) == given


def test_the_list_of_profiles_shows_what_the_limits_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = {
        "clusters": {"test": {}},
        "profiles": {"eight": EIGHT, "some": EIGHT | {"gpus": 1, "gpus_max": 8}},
        "limits": {"gpus": 4, "hours": 24},
    }
    (tmp_path / "site.yml").write_text(yaml.safe_dump(site, sort_keys=False))
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("PATH", str(tmp_path))  # without Slurm
    assert main(["profiles"]) == 0
    text = capsys.readouterr().out
    assert "1 to 4 × GPU" in text
    assert "24 h" in text
    assert "48 h" not in text.splitlines()[2]
    assert "eight: This site allows at most 4 GPUs for one session, not 8." in text
    assert main(["profiles", "--json", "--hours", "30"]) == 0
    eight, some = json.loads(capsys.readouterr().out)["profiles"]
    assert (some["gpus_max"], some["hours_max"]) == (4, 24)
    assert some["start"]["trouble"] == 'Profile "some" allows up to 24 h.'
    assert eight["start"]["starts_at"] is None
