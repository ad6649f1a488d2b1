"""Another cluster's launcher, without ssh: how values cross, what starts it, the cluster's lines in the settings."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shlex
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from launcher.api import Launcher, Session
from launcher.api.remote import RemoteLauncher
from launcher.api.remote.answers import Answers
from launcher.api.remote.entry import with_entry
from launcher.api.remote.far import Far
from launcher.api.remote.package import fingerprint, wheel
from launcher.api.remote.session import RemoteSession
from launcher.api.remote.values import packed, packed_error, unpacked, unpacked_error
from launcher.cli import main
from launcher.errors import (
    EngineError,
    LauncherError,
    ModelError,
    RequestError,
    SchedulerError,
    SettingsError,
)
from launcher.planning import Request, make_plan
from launcher.sessions.connection import Connection
from launcher.sessions.plan import Plan
from launcher.sessions.status import Coming, Idle, Phase, Status
from launcher.settings.layers import load, mistakes_in
from launcher.settings.schema import Settings
from tests.hostile import HOSTILE

STATUS = Status(
    id="a-1", state="LAUNCHING", since=1.5, message="It loads.", phase="weights",
    phases=(Phase("weights", 1.0, 2.0, None),), coming=(Coming("probe", 1.0),), idle=Idle(60, 1.0, 61.0),
)  # fmt: skip
CONNECTION = Connection("a-1", "node1", 80, "http://node1:80/v1", None, "m", "secret")
ENTRY = {"ssh": "me@login", "launcher": "~/x/launcher"}
LINES = ["della:", "  ssh: me@login", "  launcher: ~/x/launcher"]


def with_della() -> Settings:
    here = load()
    cluster = dataclasses.replace(next(iter(here.clusters.values())), name="della", ssh="login", launcher="x")
    profile = dataclasses.replace(next(iter(here.profiles.values())), name="far", cluster="della")
    return dataclasses.replace(
        here, clusters={**here.clusters, "della": cluster}, profiles={**here.profiles, "far": profile}
    )


class There(Far):
    """A launcher elsewhere that starts what it is told to, one session after the other, and stops it."""

    asked: ClassVar[list[tuple[str, str]]] = []
    plans: ClassVar[Iterator[Plan]]

    def ask(self, do: str, **given: Any) -> Any:
        method = given["method"]
        self.asked.append((method, given.get("session", "")))
        if method == "stop":
            return packed(dataclasses.replace(STATUS, state="SHUTDOWN"))
        started = [
            {"$session": {"plan": plan.to_json(), "root": f"/there/{plan.id}", "job_id": "1"}}
            for plan in itertools.islice(self.plans, 2 if method == "batch_launch" else 1)
        ]
        return started if method == "batch_launch" else started[0]


def test_what_was_launched_elsewhere_is_stopped_there_in_the_end() -> None:
    """By whatever method it was launched."""
    plans = [make_plan(Request("simulated"), load({}), door="python") for _ in range(4)]
    There.plans = iter(plans)
    with RemoteLauncher(with_della(), cluster="della") as launcher:
        launcher.far = There("della", "login", "x")
        launched = [launcher.launch("simulated"), *launcher.batch_launch(["simulated"] * 2)]
        launched.append(launcher.rerun(plans[0].id))
        assert [session.id for session in launched] == [plan.id for plan in plans]
        assert "stop" not in dict(There.asked)
    stopped = [session for method, session in There.asked if method == "stop"]
    assert stopped == [plan.id for plan in plans] * 2  # all are asked before the first is waited for


def test_settings_of_the_call_hold_on_the_way_to_another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_della()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SchedulerError, match="no program ssh"):
        Launcher(settings).launch("simulated", profile="far")
    monkeypatch.setenv("LAUNCHER_PROFILE", "far")
    with pytest.raises(SchedulerError, match="no program ssh"):
        Launcher(settings).launch("simulated")
    # A command line names one in more ways than one.
    monkeypatch.setattr("launcher.settings.layers.load", lambda: settings)
    monkeypatch.delenv("LAUNCHER_PROFILE")
    assert main(["launch", "simulated", "profile=far"]) == SchedulerError.exit_code
    assert main(["run", "text-generation", "-p", "far", "simulated"]) == SchedulerError.exit_code


def nothing(data: dict[str, Any]) -> Session:
    raise AssertionError(data)


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.5, "text", [1, "a"], (1, ("b",)), {"a": (1,)}, {"$record": 1, "b": 2}, {1: "a"},
     Path("/a b"), STATUS, CONNECTION, [STATUS], {"a-1": STATUS}],
)  # fmt: skip
def test_values_cross_as_they_are(value: object) -> None:
    assert unpacked(json.loads(json.dumps(packed(value))), nothing) == value


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_cross_as_they_are(text: str) -> None:
    assert unpacked(json.loads(json.dumps(packed({text: [text]}))), nothing) == {text: [text]}


def test_records_of_another_version_cross() -> None:
    data = packed(STATUS)
    data["fields"]["added_later"] = 1
    del data["fields"]["restarts"]
    assert unpacked(data, nothing) == STATUS


def test_a_record_that_lacks_what_it_needs_is_another_versions() -> None:
    data = packed(STATUS)
    del data["fields"]["state"]
    with pytest.raises(SettingsError, match="Make both of one version"):
        unpacked(data, nothing)


@pytest.mark.parametrize(
    "name", ["os:system", "launcher.errors:LauncherError", "subprocess:Popen", "launcher.no.such:A", "x", ""]
)
def test_no_class_but_our_records_is_made(name: str) -> None:
    with pytest.raises(SettingsError, match="Make both of one version"):
        unpacked({"$record": name, "fields": {}}, nothing)


def test_errors_cross_with_their_class_and_what_it_adds() -> None:
    error = unpacked_error(
        json.loads(json.dumps(packed_error(EngineError("It failed.", "Do this.", "gone"))))
    )
    assert (type(error), error.message, error.hint) == (EngineError, "It failed.", "Do this.")
    assert isinstance(error, EngineError)
    assert error.reason == "gone"
    for kind in (ModelError, SettingsError, LauncherError):
        assert type(unpacked_error(packed_error(kind("a", "b")))) is kind
    assert type(unpacked_error({"kind": "of-tomorrow", "message": "a", "hint": None})) is LauncherError


@pytest.mark.parametrize(("far", "near"), [(RemoteLauncher, Launcher), (RemoteSession, Session)])
def test_whatever_one_can_ask_here_is_asked_there(far: type, near: type) -> None:
    """No method of `near` is left that would look for a session's files on this machine."""
    here = {"of", "settings", "stop_launched", "connect", "id"}
    left = [n for n in vars(near) if not n.startswith("_") and n not in here and n not in vars(far)]
    assert left == []


@pytest.mark.parametrize("program", ["launcher", "/apps/x/launcher", "~/.local/x y/launcher"])
def test_the_words_that_start_it_work_in_any_home(program: str, tmp_path: Path) -> None:
    home = tmp_path / "a 'home"
    path = home / program.removeprefix("~/") if program.startswith("~/") else tmp_path / "bin" / "launcher"
    path.parent.mkdir(parents=True)
    path.write_text('#!/bin/sh\nprintf "%s|" "LAUNCHER_CLUSTER=$LAUNCHER_CLUSTER" "$@"\n')
    path.chmod(0o755)
    shown = str(path) if program.startswith("/") else program
    words = Far("c", "host", shown).words("status", "a b", "$(id)", "it's")
    # sshd gives them to the account's shell as one text.
    done = subprocess.run(
        ["sh", "-c", shlex.join(words)],
        env={"HOME": str(home), "PATH": f"{path.parent}:/usr/bin:/bin", "LAUNCHER_CLUSTER": "loop"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "LAUNCHER_CLUSTER=|status|a b|$(id)|it's|"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ["clusters:", *(f"  {line}" for line in LINES)]),
        ("# mine\n", ["# mine", "", "clusters:", *(f"  {line}" for line in LINES)]),
        ("session:\n  hours: 2 # two\n",
         ["session:", "  hours: 2 # two", "", "clusters:", *(f"  {line}" for line in LINES)]),
        ("clusters:\n    other:\n        ssh: x\n# end\n",
         ["clusters:", *(f"    {line}" for line in LINES), "    other:", "        ssh: x", "# end"]),
        ("clusters:\nsession:\n  hours: 2\n",
         ["clusters:", *(f"  {line}" for line in LINES), "session:", "  hours: 2"]),
        ("clusters:\n  della:\n    ssh: old # was\n    login_host: l\n",
         ["clusters:", "  della:", "    launcher: ~/x/launcher", "    ssh: me@login # was", "    login_host: l"]),
        ("clusters:\n  della:\n    ssh:\n    launcher: \"old\"\n",
         ["clusters:", "  della:", "    ssh: me@login", "    launcher: ~/x/launcher"]),
        ("clusters:\n  della:\n", ["clusters:", "  della:", "    ssh: me@login", "    launcher: ~/x/launcher"]),
    ],
)  # fmt: skip
def test_the_entry_is_written_where_it_belongs(before: str, after: list[str], tmp_path: Path) -> None:
    text = with_entry(before, "della", ENTRY, "config.yml")
    assert text.splitlines() == after
    assert yaml.safe_load(text)["clusters"]["della"].items() >= ENTRY.items()
    assert with_entry(text, "della", ENTRY, "config.yml") == text
    file = tmp_path / "config.yml"
    file.write_text(text + "profiles: {p: {cluster: della}}\n")
    assert [error for error in mistakes_in(file) if "other" not in error.message] == []


@pytest.mark.parametrize(
    "text",
    ["clusters: {a: {ssh: b}}\n", "{clusters: }\n", "- a\n", "clusters:\n  della: {ssh: x}\n", "a: [\n"],
)
def test_a_form_that_cannot_be_edited_is_left_alone(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        with_entry(text, "della", ENTRY, "config.yml")
    assert "config.yml" in caught.value.message
    if text != "a: [\n":
        assert "della:; ssh: me@login" in str(caught.value)


@pytest.mark.parametrize("value", ["1e5", "123", "true", "user@host", "on", "a:b"])
def test_hosts_stay_texts(value: str) -> None:
    text = with_entry("", "della", {"ssh": value}, "x")
    assert yaml.safe_load(text)["clusters"]["della"]["ssh"] == value


def test_the_wheel_has_all_of_the_package_and_says_what_it_needs(tmp_path: Path) -> None:
    made = wheel(tmp_path)
    with zipfile.ZipFile(made) as packed_up:
        assert packed_up.testzip() is None
        names = set(packed_up.namelist())
        described = next(name for name in names if name.endswith("/METADATA"))
        needs = packed_up.read(described).decode()
        record = packed_up.read(described.replace("METADATA", "RECORD")).decode()
    assert {
        "launcher/cli/__init__.py",
        "launcher/settings/defaults.yml",
        "launcher/schedulers/job.sh.j2",
    } <= names
    assert "Requires-Dist: aiohttp" in needs
    assert "Requires-Dist: gradio" in needs
    assert {line.split(",")[0] for line in record.splitlines()} == names
    again = wheel(tmp_path / ".")
    assert again.read_bytes() == made.read_bytes()
    assert len(fingerprint()) == 10


@pytest.mark.parametrize(
    "request_", ["{}", "no json", '{"do": "launcher", "with": {"method": "_folder", "given": [], "named": {}}}',
                 '{"do": "launcher", "with": {"method": "submit", "given": [], "named": {}}}',
                 '{"do": "of-tomorrow", "with": {}}',
                 '{"do": "launcher", "with": {"method": "session", "given": [1, 2, 3], "named": {}}}'],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(request_: str) -> None:
    taken = io.BytesIO()
    answers = Answers(io.BytesIO(request_.encode() + b"\n"), taken)
    assert answers.serve(lambda: None) == RequestError.exit_code
    assert json.loads(taken.getvalue())["error"]["kind"] == "request"
