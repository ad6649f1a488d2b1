"""The facts of the session panel."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from launcher.sessions.plan import Limits, PlannedModel, Resources
from launcher.ui.session import SessionFiles, hardware, panel, title
from tests.engines.plans import vllm_plan

PLAN = dataclasses.replace(
    vllm_plan(),
    model=PlannedModel("org/big", "big", "/models/big", "0123456789abcdef"),
    resources=Resources("gpu-large", nodes=2, gpus=4, gpu_type="a100", cpus=16, memory_gb=128),
)


def test_times_are_seconds_left() -> None:
    status = {
        "state": "READY",
        "ends_at": 1600.0,
        "idle": {"limit_s": 3600, "since": 900.0, "stops_at": 1500.0},
    }
    told = panel(PLAN, status, now=1000.0)
    assert (told["ends_in_s"], told["idle_in_s"], told["idle_limit_s"]) == (600.0, 500.0, 3600)
    assert (told["model"], told["commit"]) == ("org/big", "0123456789abcdef")
    assert panel(PLAN, status, now=2000.0)["ends_in_s"] == 0.0


def test_no_limits() -> None:
    endless = dataclasses.replace(PLAN, limits=Limits(hours=1, idle_minutes=0, start_timeout_s=60))
    told = panel(endless, {"state": "READY", "ends_at": None, "idle": None}, now=0.0)
    assert (told["ends_in_s"], told["idle_in_s"], told["idle_limit_s"]) == (None, None, None)


def test_a_countdown_that_is_not_known_yet_is_no_missing_limit() -> None:
    told = panel(PLAN, {"state": "READY", "idle": None}, now=0.0)
    assert (told["idle_in_s"], told["idle_limit_s"]) == (None, 3600)


def test_the_tab_is_called_by_the_name_that_was_given() -> None:
    assert title(dataclasses.replace(PLAN, name="thesis")) == "thesis – org/big"
    assert title(dataclasses.replace(PLAN, name="big")) == "org/big"


def test_hardware_in_words() -> None:
    assert hardware(PLAN) == "gpu-large: 2 nodes, 4 × a100, 16 CPUs, 128 GB"
    assert hardware(dataclasses.replace(PLAN, resources=Resources("cpu"))) == "cpu"


def test_files_that_are_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "session.json").write_text(PLAN.to_json())
    files = SessionFiles(tmp_path)
    assert files.panel()["state"] is None
    assert files.base_url("http://here") == "http://here"
    (tmp_path / "connection.json").write_text(json.dumps({"base_url": "http://gpu01:4/v1"}))
    assert files.base_url("http://here") == "http://gpu01:4/v1"
    (tmp_path / "status.json").write_text("{half")
    assert files.panel()["state"] is None
