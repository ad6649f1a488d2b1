"""Starting the same again from a record: what is asked for, what is refused, and what is said to differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher import Launcher
from launcher.api.record import Record, parse
from launcher.api.rerun import Rerun, prepared
from launcher.cli import main
from launcher.errors import LauncherError, ModelError, RequestError
from launcher.models.resolve import SHIPPED
from launcher.sessions.plan import Plan
from tests.hostile import HOSTILE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ARGUMENTS = ("--max-model-len", "512", "--enforce-eager")
SIF = b"#!/usr/bin/env run-singularity\n\x00" + b"SIF_MAGIC\x00" + b"01\x00" + b"02\x00"


class Place:
    """A site with one model in the hub's layout, one plain folder, and a venv that has vLLM."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hub = root / "models" / "models--org--chat-1B"
        self.plain = root / "models" / "plain-chat"
        shutil.copytree(SHIPPED / "tiny-chat", self.hub / "snapshots" / COMMIT)
        (self.hub / "refs").mkdir()
        (self.hub / "refs" / "main").write_text(COMMIT)
        shutil.copytree(SHIPPED / "tiny-chat", self.plain)
        program = root / "venv" / "bin" / "vllm"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        self.packages = root / "venv" / "lib" / "python3.11" / "site-packages"
        self.have("vllm-0.32.0", "torch-2.9.0", "rich-14.0")
        self.profiles: dict[str, dict[str, Any]] = {
            "small": {"cluster": "here", "partition": "gpu", "cpus": 4, "memory_gb": 8, "hours_max": 12},
            "large": {"cluster": "here", "partition": "big", "cpus": 16, "memory_gb": 64, "hours_max": 12},
        }
        self.blocks: dict[str, Any] = {}
        self.environment: dict[str, Any] = {"kind": "venv", "path": str(root / "venv"), "engines": ["vllm"]}

    def have(self, *packages: str) -> None:
        shutil.rmtree(self.packages, ignore_errors=True)
        for name in packages:
            (self.packages / f"{name}.dist-info").mkdir(parents=True)

    def launcher(self) -> Launcher:
        site = {
            "clusters": {"here": {"scheduler": "slurm"}},
            "profiles": self.profiles,
            "environments": {"vllm": self.environment},
            "models": {"folders": [str(self.root / "models")], "cache": str(self.root / "none")},
            "places": {"sessions": str(self.root / "sessions"), "cache": str(self.root / "cache")},
            **self.blocks,
        }
        (self.root / "site.yml").write_text(yaml.safe_dump(site))
        return Launcher()

    def record(
        self, model: str = "org/chat-1B", change: Callable[[Plan], Plan] | None = None, **wanted: Any
    ) -> Record:
        """The record that a session of `model` would leave here now."""
        plan = self.launcher().plan(
            model, **{"engine_args": ARGUMENTS, "fit_check": False, "hours": 2, **wanted}
        )
        plan = change(plan) if change else plan
        folder = Path(plan.model.snapshot or "")
        files = [
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in sorted(folder.iterdir())
        ]
        import launcher

        data = {
            "schema": 1,
            "plan": dataclasses.asdict(plan),
            "weights": files,
            "environment": {"packages": ["rich==14.0", "torch==2.9.0", "vllm==0.32.0"], "image": None},
            "versions": {"launcher": launcher.__version__, "vllm": "0.32.0"},
            "hardware": {"driver": "550.54"},
        }
        return parse(json.dumps(data).encode(), str(self.root / "sessions" / plan.id / "record.json"))

    def again(self, record: Record, **changed: Any) -> Rerun:
        return prepared(self.launcher(), record, door="python", **changed)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("LAUNCHER_CONFIG", os.devnull)
    return Place(tmp_path)


def said(found: Rerun) -> dict[str, tuple[str, str]]:
    return {one.what: (one.then, one.now) for one in found.differences}


def test_where_nothing_changed_nothing_differs_and_the_plan_is_the_same(place: Place) -> None:
    record = place.record(gpus=0, profile="large", env={"OMP_NUM_THREADS": "3"}, name="mine")
    found = place.again(record, strict=True)
    then, now = record.plan, found.plan
    assert found.differences == ()
    assert now.id != then.id
    same = ("engine", "engine_args", "model", "resources", "limits", "environment", "page", "name")
    assert {name: getattr(now, name) for name in same} == {name: getattr(then, name) for name in same}
    assert now.origins["rerun"] == then.id


def test_a_file_of_the_model_that_changed_is_named_and_strict_refuses(place: Place) -> None:
    record = place.record("plain-chat")
    (place.plain / "tokenizer_config.json").write_text("{}")
    (place.plain / "README.md").unlink()
    (place.plain / "extra.json").write_text("{}")
    found = said(place.again(record))
    assert set(found) == {"file README.md", "file extra.json", "file tokenizer_config.json"}
    assert found["file README.md"][1] == found["file extra.json"][0] == "not there"
    assert all(text.startswith("sha256 ") for text in found["file tokenizer_config.json"])
    with pytest.raises(RequestError, match=r"file tokenizer_config\.json differ"):
        place.again(record, strict=True)


def test_the_recorded_commit_is_taken_and_not_the_newest(place: Place) -> None:
    record = place.record()
    newer = "f" * 40
    shutil.copytree(place.hub / "snapshots" / COMMIT, place.hub / "snapshots" / newer)
    (place.hub / "refs" / "main").write_text(newer)
    assert place.again(record, strict=True).plan.model.revision == COMMIT
    shutil.rmtree(place.hub / "snapshots" / COMMIT)
    with pytest.raises(ModelError) as caught:
        place.again(record)
    assert str(caught.value).startswith(f"The model of session {record.plan.id} is not here as it was. ")
    assert COMMIT in str(caught.value)
    assert f"launcher models add org/chat-1B --revision {COMMIT}" in str(caught.value)


def test_other_versions_are_told_the_weighty_ones_by_name(place: Place) -> None:
    record = place.record()
    place.have("vllm-0.33.0", "torch-2.10.0", "rich-15.0", "new_thing-1")
    found = said(place.again(record))
    assert found["vllm"] == ("0.32.0", "0.33.0")
    assert found["torch"] == ("2.9.0", "2.10.0")
    assert found["other packages"] == ("2 had another version", "new-thing, rich")


def test_what_the_engine_calls_itself_is_no_other_version(place: Place) -> None:
    """vLLM says 0.32.0 where its package is 0.32.0+cpu."""
    place.have("vllm-0.32.0+cpu", "torch-2.9.0", "rich-14.0")
    record = place.record()
    packages = ["rich==14.0", "torch==2.9.0", "vllm==0.32.0+cpu"]
    for environment in ({"packages": packages}, {}):
        now = dataclasses.replace(record, data={**record.data, "environment": environment})
        assert place.again(now, strict=True).differences == ()
    place.have("vllm-0.32.0+cu130", "torch-2.9.0", "rich-14.0")
    now = dataclasses.replace(record, data={**record.data, "environment": {"packages": packages}})
    assert said(place.again(now)) == {"vllm": ("0.32.0+cpu", "0.32.0+cu130")}


def test_another_image_under_the_same_name_is_told(place: Place) -> None:
    image = place.root / "vllm.sif"
    image.write_bytes(SIF + b"1" * 16)
    place.environment = {"kind": "container", "image": str(image), "engines": ["vllm"]}
    record = place.record()
    old = {
        "path": str(image),
        "id": "31313131-3131-3131-3131-313131313131",
        "bytes": 64,
        "modified": "2026-01-01",
    }
    record = dataclasses.replace(record, data={**record.data, "environment": {"image": old}})
    same = place.again(record)
    assert same.differences == ()
    assert "The version of vllm here is known once it runs; it was 0.32.0." in same.not_compared
    image.write_bytes(SIF + b"2" * 16)
    assert said(place.again(record))["image's id"][1] == "32323232-3232-3232-3232-323232323232"
    image.unlink()
    with pytest.raises(LauncherError, match="is not there"):
        place.again(record)


def test_a_profile_that_was_changed_gives_what_the_record_says(place: Place) -> None:
    record = place.record(profile="small")
    place.profiles["small"] |= {"cpus": 8, "memory_gb": 32, "sbatch_args": ["--exclusive"]}
    found = place.again(record)
    assert (found.plan.resources.cpus, found.plan.resources.memory_gb) == (4, 8)
    assert said(found) == {"sbatch args": ("none", "--exclusive")}


def test_a_profile_that_is_gone_leaves_the_sizes(place: Place) -> None:
    record = place.record(profile="small")
    place.profiles = {"tiny": {**place.profiles["small"], "partition": "other", "cpus": 1}}
    found = place.again(record)
    assert (found.plan.resources.cpus, found.plan.resources.partition) == (4, "other")
    assert {"profile", "partition"} <= set(said(found))


def test_what_is_asked_for_may_differ_in_a_strict_rerun(place: Place) -> None:
    record = place.record(profile="small")
    found = place.again(record, strict=True, profile="large", hours=3, name="second")
    assert (found.plan.resources.profile, found.plan.limits.hours, found.plan.name) == ("large", 3, "second")
    assert found.plan.resources.cpus == 16
    assert said(found)["hours"] == ("2", "3")
    with pytest.raises(RequestError, match='cannot change "model"'):
        place.again(record, model="other")


def test_somebody_elses_record_is_not_charged_to_their_account(place: Place) -> None:
    mine = place.record(account="lab-a", qos="high", reservation="course")
    assert place.again(mine).plan.resources.account == "lab-a"
    theirs = place.record(
        account="lab-a",
        qos="high",
        reservation="course",
        change=lambda plan: dataclasses.replace(plan, user="else"),
    )
    found = place.again(theirs, strict=True)
    wanted = found.plan.resources
    assert (wanted.account, wanted.qos, wanted.reservation) == (None, None, None)
    assert said(found)["account"] == ("lab-a", "none")


def test_a_variable_of_the_users_shell_does_not_change_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = place.record()
    monkeypatch.setenv("LAUNCHER_PARTITION", "elsewhere")
    monkeypatch.setenv("VEC_INF_ACCOUNT", "other")
    assert place.again(record, strict=True).differences == ()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--api-key", "secret"),
        ("--uds", "/tmp/x"),
        ("--port=1",),
        ("--trust-remote-code",),
        ("a\nb",),
        ("\0",),
    ],
)
def test_a_record_asks_for_nothing_that_a_user_may_not(place: Place, arguments: tuple[str, ...]) -> None:
    record = place.record(change=lambda plan: dataclasses.replace(plan, engine_args=arguments))
    with pytest.raises(RequestError):
        place.again(record)


def test_a_records_site_arguments_are_no_way_round_the_site(place: Place) -> None:
    def crafted(plan: Plan) -> Plan:
        wanted = dataclasses.replace(plan.resources, sbatch_args=("--uid=root",))
        return dataclasses.replace(
            plan, resources=wanted, launcher="/tmp/evil", network=dataclasses.replace(plan.network, bind="6.6.6.6"),
            environment=dataclasses.replace(plan.environment, path="/tmp/evil", setup="/tmp/evil.sh"),
        )  # fmt: skip

    record = place.record(change=crafted)
    plan = place.again(record).plan
    assert "evil" not in plan.to_json()
    assert plan.resources.sbatch_args == ()
    assert plan.network.bind == "0.0.0.0"
    with pytest.raises(RequestError, match="folder of the environment"):
        place.again(record, strict=True)


def test_what_stood_around_the_engine_is_asked_for_again(place: Place) -> None:
    image = place.root / "vllm.sif"
    image.write_bytes(SIF + b"1" * 16)
    folder = place.root / "data"
    folder.mkdir()
    around: dict[str, Any] = {
        "binds": (str(folder),),
        "work_dir": str(folder),
        "env": {"HF_HUB_OFFLINE": "1"},
    }
    record = place.record(environment=str(image), **around)  # no environment of the site's
    record = dataclasses.replace(record, data={**record.data, "environment": {}})
    found = place.again(record)
    assert said(found) == {}
    assert (found.plan.environment.image, found.plan.work_dir) == (str(image), str(folder))
    assert str(folder) in found.plan.environment.binds
    assert found.plan.environment.env["HF_HUB_OFFLINE"] == "1"
    (place.root / "venv" / "bin" / "python").symlink_to(sys.executable)
    venv = place.record(environment=str(place.root / "venv"))
    assert place.again(venv, strict=True).plan.environment.path == str(place.root / "venv")
    folder.rmdir()
    found = place.again(record)
    assert "working directory" in said(found)
    assert found.plan.environment.env["HF_HUB_OFFLINE"] == "1"


def test_a_strangers_record_brings_no_program_no_folder_and_no_code(place: Place) -> None:
    """Whoever sends a record, whatever it says, does not choose what runs as me: also where it says that it is mine."""
    evil = place.root / "evil"
    shutil.copytree(place.root / "venv", evil)
    (evil / "bin" / "python").symlink_to(sys.executable)
    place.blocks = {"allow": {"trust_remote_code": True}}
    around: dict[str, Any] = {
        "environment": str(evil), "work_dir": str(evil), "env": {"LD_PRELOAD": f"{evil}/a.so", "OMP_NUM_THREADS": "3"},
    }  # fmt: skip
    mine = place.record(**around)
    sent = dataclasses.replace(mine, source=str(place.root / "downloads" / "record.json"))
    assert str(evil) in place.again(mine).plan.to_json()
    found = place.again(sent)
    assert str(evil) not in found.plan.to_json()
    assert found.plan.environment.env["OMP_NUM_THREADS"] == "3"
    assert {"environment", "working directory", "variable LD_PRELOAD"} <= said(found).keys()
    for code in (
        ("--trust-remote-code",),
        ("--tool-parser-plugin", f"{evil}/a.py"),
        ("--worker-cls", "evil.Worker"),
    ):
        record = place.record(engine_args=code)
        assert place.again(record, strict=True).differences == ()
        with pytest.raises(RequestError, match="no session of yours"):
            place.again(dataclasses.replace(record, source=sent.source))
    for source, name in (
        ("downloads", "../downloads"),
        ("sessions", mine.plan.id),
    ):  # an id that leads to its file
        elsewhere = dataclasses.replace(
            mine.plan, id=name, user="stranger" if source == "sessions" else mine.plan.user
        )
        path = str(place.root / source / name.rpartition("/")[2] / "record.json")
        path = str(place.root / "downloads" / "record.json") if source == "downloads" else path
        assert (
            str(evil)
            not in place.again(dataclasses.replace(mine, plan=elsewhere, source=path)).plan.to_json()
        )


def test_where_the_site_allows_no_arguments_they_are_chosen_anew(place: Place) -> None:
    record = place.record()
    place.blocks = {"allow": {"engine_args": False}}
    found = place.again(record)
    assert "512" not in found.plan.engine_args
    assert "engine arguments" in said(found)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_in_a_record_are_refused_or_only_shown(
    place: Place, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for field in ("name", "partition", "model", "argument"):

        def crafted(plan: Plan, field: str = field) -> Plan:
            if field == "name":
                return dataclasses.replace(plan, name=text)
            if field == "partition":
                return dataclasses.replace(
                    plan, resources=dataclasses.replace(plan.resources, partition=text)
                )
            if field == "model":
                return dataclasses.replace(plan, model=dataclasses.replace(plan.model, id=text))
            return dataclasses.replace(plan, engine_args=("--chat-template", text))

        record = place.record(change=crafted)
        file = place.root / "crafted.json"
        file.write_text(json.dumps(dict(record.data)))
        assert main(["rerun", str(file), "--dry-run"]) in (0, 2, 4)
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        assert "\n#SBATCH --job-name=injected" not in shown.out


def test_the_command_shows_the_differences_and_the_script(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    record = place.record()
    file = place.root / "record.json"
    file.write_text(json.dumps(dict(record.data)))
    assert main(["rerun", str(file), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("#!/bin/bash")
    assert f"Nothing that could be compared differs from {record.plan.id}." in shown.err
    place.have("vllm-0.33.0", "torch-2.9.0", "rich-14.0")
    assert main(["rerun", str(file), "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["differences"] == [{"what": "vllm", "then": "0.32.0", "now": "0.33.0"}]
    assert data["script"].startswith("#!/bin/bash")
    assert main(["rerun", str(file), "--strict"]) == 2
    assert "vllm differs." in capsys.readouterr().err
    assert not list((place.root / "sessions").glob("[a-z]*"))
