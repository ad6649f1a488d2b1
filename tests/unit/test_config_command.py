"""`launcher config`: what holds and where it came from; what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from tests.hostile import HOSTILE

SITE = """\
clusters:
  main: {}
profiles:
  gpu:
    cluster: main
    gpus: 1
session:
  hours: 2
  idle_minutes: 30
environments:
  vllm: {kind: container, image: /a.sif, env: {A: "1"}}
locks: [session.idle_minutes]
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    site, user = tmp_path / "site.yml", tmp_path / "config.yml"
    site.write_text(SITE)
    user.write_text("session:\n  hours: 3\n  page: false\n")
    monkeypatch.setenv("LAUNCHER_SITE", str(site))
    monkeypatch.setenv("LAUNCHER_CONFIG", str(user))
    return str(site), str(user)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["config", "show", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_value_has_its_origin(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site, user = files
    monkeypatch.setenv("LAUNCHER_SESSION__ENGINE_RESTARTS", "5")
    found = shown(capsys)

    def said(key: str) -> tuple[Any, str, int | None, bool]:
        entry = found[key]
        return entry["value"], entry["origin"], entry["line"], entry["locked"]

    assert said("session.start_timeout_minutes") == (60, "defaults", None, False)
    assert said("session.idle_minutes") == (30, site, 9, True)
    assert said("session.hours") == (3, user, 2, False), "the user's after the site's"
    assert said("session.page") == (False, user, 3, False)
    assert said("session.engine_restarts") == (5, "LAUNCHER_SESSION__ENGINE_RESTARTS", None, False)
    assert said("profiles.gpu.gpus") == (1, site, 6, False)
    assert said("profiles.gpu.nodes") == (1, "defaults", None, False), "left out of an entry of the site"
    assert said("environments.vllm.env.A") == ("1", site, 11, False)
    assert said("allow.models") == ("any", "defaults", None, True), "what is allowed is the site's own"
    assert said("locks")[:3] == (["session.idle_minutes", "allow", "limits"], site, 12)
    assert not [key for key in found if key.startswith(("clusters.local", "profiles.local"))]


def test_the_request_is_the_last_layer(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["launch", "simulated", "--dry-run", "--json", "--cpus", "2"]
    assert main(asked) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["limits"]["hours"], plan["origins"]["hours"]) == (3, files[1])
    assert (plan["resources"]["cpus"], plan["origins"]["cpus"]) == (2, "request")
    assert main([*asked, "--hours", "1"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["limits"]["hours"], plan["origins"]["hours"]) == (1, "request")


def test_a_part_is_shown_as_a_table(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "session"]) == 0
    rows = [line.split("|" if "|" in line else "│") for line in capsys.readouterr().out.splitlines()]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:4]] for row in rows if len(row) > 4}
    assert cells["session.hours"] == ["3", f"{files[1]}, line 2"]
    assert cells["session.idle_minutes"] == ["30", f"{files[0]}, line 9 (locked)"]
    assert cells["session.page"] == ["false", f"{files[1]}, line 3"]
    assert set(shown(capsys, "profiles.gpu")) < set(shown(capsys))
    assert list(shown(capsys, "profiles.gpu.gpus")) == ["profiles.gpu.gpus"]


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("sesion.hours", "Did you mean session.hours"),
        ("profiles.gpv", "Did you mean profiles.gpu"),
        ("qqqq", "launcher config show"),
    ],
)
def test_an_unknown_key_is_refused(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], key: str, advice: str
) -> None:
    assert main(["config", "show", key]) == 2
    error = capsys.readouterr().err
    assert f'There is no setting "{key}".' in error
    assert advice in error


@pytest.mark.parametrize("text", [text for text in HOSTILE if text and text != "--help"])
def test_hostile_keys_and_files_are_one_line(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    for arguments in (["show", text], ["check", text]):
        assert main(["config", *arguments]) in (2, 3)
        out, error = capsys.readouterr()
        assert (out + error).count("\n") == 1
        assert "Traceback" not in error


def test_check_lists_every_mistake_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yml"
    site.write_text(SITE.replace("gpus: 1", "gpus: two").replace("hours: 2", "hour: 2"))
    assert main(["config", "check", str(site)]) == 3
    assert capsys.readouterr().out.splitlines() == [
        f'{site}, line 6: profiles.gpu.gpus must be a whole number, not "two". Write a number, such as gpus: 1.',
        f"{site}, line 8: session.hour is not a known key. Did you mean hours?",
    ]
    assert main(["config", "check", str(site), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == [str(site)]
    assert [entry["hint"] for entry in found["mistakes"]] == [
        "Write a number, such as gpus: 1.",
        "Did you mean hours?",
    ]
    site.write_text(SITE)
    assert main(["config", "check", str(site)]) == 0
    assert capsys.readouterr().out == f"No mistakes in {site}.\n"


def test_check_alone_checks_what_holds(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == f"No mistakes in {files[0]} and {files[1]}.\n"
    Path(files[1]).write_text("session: {idle_minutes: 0}\n")
    assert main(["config", "check"]) == 3
    assert f"session.idle_minutes is locked by {files[0]}" in capsys.readouterr().out


def test_check_warns_of_profiles_beyond_the_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yml"
    site.write_text(
        "clusters: {main: {}, here: {scheduler: local}}\nprofiles:\n"
        "  whole:\n    cluster: main\n    gpus: 8\n    hours_max: 48\n"
        "  two: {cluster: main, gpus: 2, nodes: 3}\n  usual: {cluster: main}\n"
        "  desk: {cluster: here, nodes: 2}\nlimits: {gpus: 4, hours: 12}\nallow: {nodes: 2}\n"
    )
    warned = [
        f"{site}, line 5: profiles.whole.gpus is 8, more than limits.gpus, 4: every session on it is refused.",
        f"{site}, line 6: profiles.whole.hours_max is 48, more than limits.hours, 12, which is what users get.",
        f"{site}, line 7: profiles.two.gpus is 2 on each of 3 nodes, more than limits.gpus, 4: every session on it is "
        "refused.",
        f"{site}, line 7: profiles.two.nodes is 3, more than allow.nodes, 2: no model gets it without --nodes 2.",
        f"{site}, line 9: profiles.desk.nodes is 2, and its cluster is one machine: every session on it is refused.",
    ]
    advice = [
        "Write gpus: 4, or raise limits.gpus.",
        "Write hours_max: 12, or raise limits.hours.",
        "Write gpus: 1, or raise limits.gpus.",
        "Write nodes: 2, or raise allow.nodes.",
        "Write nodes: 1.",
    ]
    assert main(["config", "check", str(site)]) == 0
    lines = [f"warning: {says} {write}" for says, write in zip(warned, advice, strict=True)]
    assert capsys.readouterr().out.splitlines() == [*lines, f"No mistakes in {site}."]
    assert main(["config", "check", str(site), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [warning["message"] for warning in found["warnings"]] == warned
    assert [warning["hint"] for warning in found["warnings"]] == advice


def test_check_tells_what_an_endpoint_could_make_nothing_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yml"
    text = (
        "clusters: {main: {}}\nprofiles:\n  small: {cluster: main, hours_max: 8}\n  large: {cluster: main}\n"
        "endpoint: {port: 8000}\ngroups:\n  chem: {}\n  bio: {owners: [alice]}\noffers:\n"
        "  chat: {hours: 12, profiles: [small, large], groups: [chem]}\n"
    )
    site.write_text(text)
    assert main(["config", "check", str(site)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in said[:3]] == [
        f"{site}, line {n}" for n in (10, 7, 8)
    ]
    assert (
        "offers.chat.hours is 12, more than hours_max of profile small, 8: nothing is started there."
        in said[0]
    )
    assert "groups.chem.owners names nobody: only keys made with --group chem open chat." in said[1]
    assert "groups.bio is named by no offer: it opens nothing." in said[2]
    assert "endpoint.port is 8000 for every user" in said[3]
    assert len(said) == 5
    site.write_text(text + "    launch: {nnname: x}\n".replace("    ", "  other: {", 1).replace("\n", "}\n"))
    assert main(["config", "check", str(site)]) == 3
    assert f"{site}, line 11: offers.other.launch.nnname cannot be said there." in capsys.readouterr().out
    site.write_text(text + "limits: {hours: 4}\n")
    assert main(["config", "check", str(site)]) == 0
    assert "is 12, more than limits.hours, 4: every start of it is refused." in capsys.readouterr().out


def test_show_of_a_broken_file_says_the_first_mistake(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files[0]).write_text("session: {idle_minutes: two}\n")
    assert main(["config", "show"]) == 3
    assert capsys.readouterr().err.startswith(f"launcher: {files[0]}, line 1: session.idle_minutes must be a")
