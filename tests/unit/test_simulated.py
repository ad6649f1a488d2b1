"""The simulated engine as the launcher sees it: its command, its options, its phases, its deaths."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.engines import engine
from launcher.engines.simulated.script import Script
from launcher.errors import RequestError
from launcher.sessions.plan import Limits, Plan, PlannedCluster, PlannedModel, Resources
from launcher.settings.schema import Environment, Network, Places

PLAN = Plan(
    id="tiny-1",
    name="tiny",
    created_at=0.0,
    door="shell",
    user="alice",
    engine="simulated",
    model=PlannedModel("tiny", "tiny-chat"),
    cluster=PlannedCluster("here", "local"),
    resources=Resources("small"),
    environment=Environment("none", "venv"),
    limits=Limits(1.0, 60.0, 60.0),
    network=Network(),
    places=Places(),
    launcher="/apps/with space/bin/launcher",
    engine_args=("--answer", "$(id)\n'x"),
)
simulated = engine("simulated")


def test_the_command_uses_the_launchers_own_python() -> None:
    argv = simulated.command(PLAN, Path("/run/s"), Path("/cache")).argv
    assert argv[:3] == ("/apps/with space/bin/python", "-m", "launcher.engines.simulated.serve")
    assert argv[3:] == ("--uds", "/run/s", "--served-name", "tiny-chat", "--answer", "$(id)\n'x")


def test_the_probe_asks_for_one_token() -> None:
    probe = simulated.probe(PLAN)
    assert (probe.path, probe.field, probe.body["max_tokens"]) == ("/v1/chat/completions", "choices", 1)
    assert probe.body["model"] == "tiny-chat"


@pytest.mark.parametrize(
    "args",
    [
        ("--uds", "/tmp/other"),
        ("--served-name", "x"),
        ("--token-rate", "-1"),
        ("--token-rate", "fast"),
        ("--token-rate", "nan"),
        ("--tokens", "0"),
        ("--tokens", "1.5"),
        ("--fail-at", "noon"),
        ("--fail-code", "256"),
        ("--fail-signal", "HELLO"),
        ("--hang-at", "x"),
        ("--answer",),
        ("--ans", "x"),
        ("extra",),
        ("-h",),
    ],
)
def test_a_wrong_option_is_one_plain_error(args: tuple[str, ...]) -> None:
    with pytest.raises(RequestError) as refused:
        simulated.check_args(args, allow_remote_code=False)
    assert "--token-rate" in (refused.value.hint or "")
    assert "\n" not in refused.value.message


def test_right_options_are_understood() -> None:
    args = ("--fail-at", "2.5", "--fail-signal", "kill", "--answer=-x", "--ignore-term", "3", "--tokens", "4")
    simulated.check_args(args, allow_remote_code=False)
    script = Script.parse(args)
    assert (script.fail_after_s, script.fail_signal, script.answer) == (2.5, "SIGKILL", "-x")
    assert (script.ignore_term_s, script.tokens) == (3.0, 4)
    assert Script.parse(()).fail_after_s is None


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("INFO 11-21 10:00:00 [x.py:1] Starting to load model tiny...", "weights"),
        ("INFO [x.py:1] torch.compile started", "compile"),
        ("INFO [x.py:1] Capturing CUDA graphs", "graphs"),
        ("INFO [x.py:1] Warming up", "warm-up"),
        ("INFO [x.py:1] Application startup complete.", "probe"),
        ("INFO something else", None),
    ],
)
def test_phases(line: str, phase: str | None) -> None:
    assert simulated.phase(line) == phase


@pytest.mark.parametrize(
    ("log", "code", "ready", "reason", "words"),
    [
        (
            "INFO x\nRuntimeError: No such weights.\n",
            1,
            False,
            "engine-exit",
            ("exit code 1", "before", "weights."),
        ),
        ("torch.OutOfMemoryError: CUDA out of memory\n", 1, False, "out-of-memory", ("CUDA out of memory",)),
        ("INFO x\n", -9, True, "engine-exit", ("signal SIGKILL", "in use")),
        ("", None, False, "engine-exit", ("unknown",)),
        ("", -200, False, "engine-exit", ("signal 200",)),
    ],
)
def test_a_death_is_explained(
    log: str, code: int | None, ready: bool, reason: str, words: tuple[str, ...]
) -> None:
    diagnosis = simulated.explain(log, code, ready, 41.3)
    assert diagnosis.reason == reason
    assert diagnosis.hint
    assert ("--fail-at" in diagnosis.hint) == ((code == 1 and reason == "engine-exit") or code is None)
    for word in ("41 s", *words):
        assert word in diagnosis.message
    assert ".." not in diagnosis.message
