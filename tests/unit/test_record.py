"""The record of a session as a paragraph for a paper, and as it is read back."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher
from launcher.api.methods import methods
from launcher.api.record import Record, parse, read
from launcher.cli import main
from launcher.engines.installed import installed
from launcher.errors import SessionError
from launcher.planning import Request, make_plan
from launcher.sessions.plan import Plan, PlannedModel
from launcher.settings.layers import load
from launcher.settings.schema import Environment
from tests.hostile import HOSTILE

COMMIT = "a09a35458c702b33eeacc393d103063234e8bc28"


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = make_plan(Request("simulated"), load({}), door="shell")
    return dataclasses.replace(
        made,
        engine="vllm",
        model=PlannedModel("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "/models/q", COMMIT),
        engine_args=("--max-model-len", "8192", "--served-note", "two words"),
        resources=dataclasses.replace(made.resources, gpus=2, gpu_type="a100"),
        cluster=dataclasses.replace(made.cluster, name="della", scheduler="slurm"),
    )


def record(plan: Plan, **parts: Any) -> Record:
    data: dict[str, Any] = {
        "schema": 1,
        "preliminary": False,
        "plan": dataclasses.asdict(plan),
        "model": {"parameters": 7_615_616_512, "quantization": None},
        "weights": [{"name": "a", "bytes": 1, "sha256": "0" * 64}, {"name": "b", "bytes": 1, "sha256": None}],
        "environment": {"name": "vllm", "kind": "venv", "image": None},
        "versions": {"launcher": "0.7.0", plan.engine: "0.32.0"},
        "hardware": {
            "gpus": ["NVIDIA A100-SXM4-80GB, 81920 MiB, 550.54.15, GPU-1"] * 2,
            "driver": "550.54.15",
        },
        "times": {"started_at": 1_777_777_777.0, "ended_at": 1_777_777_777.0 + 11_000},
        "usage": {"requests": 1, "prompt_tokens": 1, "completion_tokens": 4200, "audio_s": 0},
        "end": {"state": "SHUTDOWN", "reason": "user", "message": "You stopped the session."},
        **parts,
    }
    return parse(json.dumps(data).encode(), "record.json")


def test_the_paragraph_says_what_the_record_holds(plan: Plan) -> None:
    assert methods(record(plan)) == (
        f"We used the model Qwen/Qwen2.5-7B-Instruct (commit {COMMIT}, 7.62 billion parameters), served by vLLM 0.32.0 "
        "on two GPUs (NVIDIA A100-SXM4-80GB, driver 550.54.15) of the cluster della. The weights are not quantized. "
        "The SHA-256 hash of one file of the model is in the session's record. The engine was started with "
        "--max-model-len 8192 --served-note 'two words'. The session was started with the launcher 0.7.0 of Inference "
        "OnDemand on 3 May 2026 and ran for 3 h 3 min; it answered one request (one token read, 4,200 tokens written)."
    )


def test_one_and_many_are_told_apart(plan: Plan) -> None:
    one = dataclasses.replace(plan, resources=dataclasses.replace(plan.resources, gpus=1))
    files = [{"name": str(n), "bytes": 1, "sha256": "0" * 64} for n in range(12)]
    said = methods(record(one, weights=files, usage={"requests": 1204, "prompt_tokens": 0, "audio_s": 7200}))
    assert "on one GPU (NVIDIA" in said
    assert "The SHA-256 hashes of 12 files of the model are in the session's record." in said
    assert "it answered 1,204 requests (2 h 0 min of audio)." in said


def test_what_is_not_in_the_record_is_not_in_the_paragraph(plan: Plan) -> None:
    bare = dataclasses.replace(
        plan, model=PlannedModel("my-model", "my-model", "/models/q"), engine_args=(),
        resources=dataclasses.replace(plan.resources, gpus=0, cpus=4),
    )  # fmt: skip
    said = methods(
        record(bare, model=None, weights=[], versions={}, hardware={}, times={}, usage={}, environment={})
    )
    assert said == (
        "We used the model my-model (a copy without a recorded commit), served by vLLM on four processor cores of the "
        "cluster della, without a GPU. The engine was started without further arguments. The session was started with "
        "the launcher of Inference OnDemand."
    )
    assert "None" not in said


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        (
            {"quantization": "gptq", "quantization_bits": 4.0},
            (),
            "The weights are quantized with gptq (4 bits).",
        ),
        (
            {"quantization": None},
            ("--quantization=fp8",),
            "The weights were quantized with fp8 as they were loaded.",
        ),
        ({"quantization": None}, ("--dtype", "float16"), "It ran in float16."),
        ({"quantization": None}, ("--dtype", "auto"), "The weights are not quantized. The"),
        ({}, ("-q", "fp8"), "The weights were quantized with fp8 as they were loaded."),
    ],
)
def test_the_precision_is_told_as_far_as_it_is_known(
    plan: Plan, model: dict[str, Any], arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in methods(record(dataclasses.replace(plan, engine_args=arguments), model=model))


def test_a_container_is_named_with_its_id(plan: Plan) -> None:
    image = {"path": "/apps/vllm.sif", "id": "0f7d51f3-52bb-4f0a-a4e5-9a2c5e3c1a77"}
    said = methods(record(plan, environment={"kind": "container", "image": image}))
    assert (
        "vLLM 0.32.0 in the container image /apps/vllm.sif (id 0f7d51f3-52bb-4f0a-a4e5-9a2c5e3c1a77) on"
        in said
    )


def test_a_simulated_session_used_no_model(plan: Plan) -> None:
    said = methods(record(dataclasses.replace(plan, engine="simulated")))
    assert said.startswith(f"No model was used: the session {plan.id} ran the launcher's simulated engine.")
    assert "Qwen" not in said


def test_a_record_of_an_older_launcher_is_read(plan: Plan) -> None:
    """It had neither the environment's packages nor what the model is."""
    data = {"schema": 1, "plan": dataclasses.asdict(plan), "weights": [], "versions": {"vllm": "0.10"}}
    old = parse(json.dumps(data).encode(), "old")
    assert not old.preliminary
    assert old.engine_version == "0.10"
    assert methods(old).startswith("We used the model Qwen/Qwen2.5-7B-Instruct")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema": 1}',
        b'{"schema": 1, "plan": []}',
        b'{"schema": 1, "plan": {"id": 1}}',
        b"[" * 9999,
    ],
)
def test_what_is_no_record_is_refused_in_a_sentence(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(text)
    with pytest.raises(SessionError, match="is not a"):
        read(file)


def test_a_record_of_a_newer_launcher_says_so(plan: Plan) -> None:
    with pytest.raises(SessionError, match="has schema 9, this launcher reads 1"):
        parse(json.dumps({"schema": 9, "plan": {}}).encode(), "record.json")


def test_nobody_waits_for_the_other_end_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(SessionError, match="There is no record"):
        read(tmp_path / "record.json")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_of_records_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("LAUNCHER_SITE", os.devnull)
    monkeypatch.setenv("LAUNCHER_PLACES__SESSIONS", str(tmp_path))
    for name in (text, f"{text}.json"):
        with pytest.raises(SessionError):
            Launcher().record(name)


def test_hostile_words_in_a_record_do_not_break_the_paragraph(plan: Plan) -> None:
    for text in HOSTILE:
        hostile = dataclasses.replace(
            plan, model=PlannedModel(text, text, "/models/q"), engine_args=(text, "--dtype", text)
        )
        assert "We used the model" in methods(
            record(hostile, versions={"vllm": text}, hardware={"gpus": [text]})
        )


SIF_ID = bytes.fromhex("0f7d51f352bb4f0aa4e59a2c5e3c1a77")


def test_an_image_is_known_by_the_id_that_is_in_it(tmp_path: Path) -> None:
    image = tmp_path / "vllm.sif"
    image.write_bytes(
        b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + b"02\0" + SIF_ID + b"\0" * 64
    )
    found = installed(Environment("box", kind="container", image=str(image))).image
    assert found is not None
    assert (found.id, found.bytes) == ("0f7d51f3-52bb-4f0a-a4e5-9a2c5e3c1a77", 128)
    image.write_bytes(b"squashfs")
    other = installed(Environment("box", kind="container", image=str(image))).image
    assert other is not None
    assert (other.id, other.bytes) == (None, 8)


def test_what_cannot_be_looked_into_is_not_known(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (
        str(tmp_path / "none.sif"),
        "docker://vllm/vllm-openai",
        str(tmp_path),
        str(tmp_path / "pipe"),
    ):
        found = installed(Environment("box", kind="container", image=name)).image
        assert found is not None
        assert (found.path, found.id, found.bytes) == (name, None, None)
    assert installed(Environment("mod", kind="module", modules=("vllm",))).packages == ()
    assert installed(Environment("gone", path=str(tmp_path / "gone"))).packages == ()


def test_a_venv_is_known_by_its_packages(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in (
        "vllm-0.32.0.dist-info",
        "faster_whisper-1.2.1.dist-info",
        "torch-2.9.0+cu128.dist-info",
        "vllm",
        "_x",
    ):
        (packages / name).mkdir(parents=True)
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion_info = 3.11.7\n")
    found = installed(Environment("own", path=str(tmp_path)))
    assert found.packages == ("faster-whisper==1.2.1", "torch==2.9.0+cu128", "vllm==0.32.0")
    assert (found.version("vllm"), found.version("whisper"), found.python) == ("0.32.0", "1.2.1", "3.11.7")
    assert found.version("simulated") is None


@pytest.mark.parametrize(
    "parts",
    [
        {"hardware": {"gpus": 5, "driver": 7}},
        {"hardware": []},
        {"environment": {"image": "x"}},
        {"weights": {"a": 1}},
        {"weights": [1, None]},
        {"times": {"started_at": "now"}},
        {"times": {"started_at": 1e300, "ended_at": float("nan")}},
        {"usage": {"requests": "many"}},
        {"model": {"parameters": "7B", "quantization": ["x"]}},
        {"versions": []},
    ],
)
def test_odd_values_in_a_record_are_passed_over(
    plan: Plan, parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = record(plan, **parts)
    assert methods(odd).startswith("We used the model Qwen/Qwen2.5-7B-Instruct")
    file = tmp_path / "record.json"
    file.write_text(json.dumps(dict(odd.data)))
    assert main(["record", str(file)]) == 0
    assert "Qwen/Qwen2.5-7B-Instruct" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ("limits", {"hours": "4", "idle_minutes": 1, "start_timeout_s": 1}),
        ("engine_args", [1]),
        ("id", 5),
        ("engine", None),
    ],
)
def test_a_plan_of_other_kinds_of_values_is_refused(plan: Plan, block: str, value: Any) -> None:
    data = {"schema": 1, "plan": {**dataclasses.asdict(plan), block: value}}
    with pytest.raises(SessionError, match="is not a record"):
        parse(json.dumps(data).encode(), "record.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema": 1, "plan": {"id": "a', "it was cut off, or is no JSON"),
        ("\xff", "it was cut off, or is no JSON"),
        ('{"schema": 1}', "plan is missing"),
        ('{"schema": 1, "plan": {"resources": {}, "environment": {}}}', "model is missing"),
        ("[]", "a value in it is of another kind"),
    ],
)
def test_what_is_no_record_says_why(text: str, why: str) -> None:
    with pytest.raises(SessionError, match=f"^record.json is not a record: {why}\\. Give"):
        parse(text.encode("latin-1"), "record.json")
