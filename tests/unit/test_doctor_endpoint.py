"""What the doctor says of an endpoint: its offers on their profiles, and its database; it makes nothing."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.doctor.checks import FAIL, OK, WARN, Check
from launcher.doctor.endpoint import check_endpoint
from launcher.settings.layers import load
from tests.hostile import HOSTILE

OFFERS: dict[str, Any] = {"chat": {"model": "simulated", "profiles": ["here", "there"]}}
SITE = {
    "clusters": {
        "main": {"scheduler": "local"},
        "far": {"scheduler": "slurm", "ssh": "far", "launcher": "x"},
    },
    "profiles": {"here": {"cluster": "main", "hours_max": 8}, "there": {"cluster": "far"}},
    "limits": {"hours": 2},
}


def found(folder: Path, **more: Any) -> dict[str, Check]:
    file = folder / "site.yml"
    file.write_text(
        yaml.safe_dump({**SITE, "places": {"sessions": str(folder / "mine" / "sessions")}, **more})
    )
    settings = load({"LAUNCHER_SITE": str(file), "LAUNCHER_CONFIG": os.devnull})
    checks = {check.about: check for check in check_endpoint(settings)}
    assert sorted(path.name for path in folder.iterdir()) == ["site.yml"], "nothing was made"
    return checks


def test_a_site_without_an_endpoint_hears_nothing_of_it(tmp_path: Path) -> None:
    assert found(tmp_path) == {}


def test_an_offer_that_can_be_started_says_where(tmp_path: Path) -> None:
    checks = found(tmp_path, offers={**OFFERS, "far": {"model": "simulated", "profiles": ["there"]}})
    assert (checks["offers.chat"].verdict, checks["offers.chat"].says) == (OK, "can be started on here.")
    assert (checks["offers.far"].verdict, "not asked" in checks["offers.far"].says) == (OK, True)
    assert checks["endpoint.state"].verdict == OK
    assert checks["endpoint.state"].says == f"is {tmp_path}/mine/endpoint/endpoint.db for you."


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        ({"model": "simulated", "hours": 5}, "This site allows up to 2 hours for one session, not 5."),
        ({"model": "no/such"}, 'Model "no/such" was not found'),
        ({"model": "simulated", "launch": {"nodes": 4}}, "nodes"),
        *(
            ({"model": text}, "cannot be started on here: ")
            for text in HOSTILE
            if text.isprintable() and text.strip()
        ),
    ],
)
def test_an_offer_that_never_could_be_started_fails_before_somebody_asks(
    tmp_path: Path, offer: dict[str, Any], said: str
) -> None:
    check = found(tmp_path, offers={"wrong": {"profiles": ["here"], **offer}})["offers.wrong"]
    assert check.verdict == FAIL
    assert check.says.startswith("cannot be started on here: ")
    assert said in check.says
    assert check.fix


def test_a_field_that_no_offer_may_say_is_named_with_its_line(tmp_path: Path) -> None:
    checks = found(tmp_path, offers={"odd": {"model": "simulated", "launch": {"nnname": 1}}})
    assert checks["offers"].verdict == FAIL
    assert f"{tmp_path}/site.yml" in checks["offers"].says


def test_a_database_that_does_not_answer_you_may_answer_its_user(tmp_path: Path) -> None:
    check = found(tmp_path, endpoint={"state": f"postgresql:///x?host={tmp_path}"})["endpoint.state"]
    assert check.verdict == WARN
    assert "cannot be used by you: postgresql:///x: " in check.says
    assert "Is it running?" in str(check.fix)


def test_a_port_that_somebody_else_has_is_told_before_the_gateway_meets_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check = found(tmp_path, offers=OFFERS, endpoint={"port": port})["endpoint.port"]
        assert (check.verdict, check.says) == (
            WARN,
            f"{port} of 127.0.0.1 is in use, perhaps by your own gateway.",
        )
    check = found(tmp_path, offers=OFFERS, endpoint={"port": port})["endpoint.port"]
    assert (check.verdict, check.says) == (OK, f"{port} of 127.0.0.1 is free on this machine.")
    check = found(tmp_path, offers=OFFERS, endpoint={"port": port, "host": "no.such.invalid"})[
        "endpoint.port"
    ]
    assert (check.verdict, "cannot be had" in check.says) == (WARN, True)


def test_without_the_extra_nobody_can_use_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    check = found(tmp_path, endpoint={"state": "postgresql://db/x"})["endpoint.state"]
    assert check.verdict == FAIL
    assert str(check.fix).startswith("make install PREFIX=… EXTRAS='ui whisper postgres'")
