"""The states of a session that a card shows, as `launcher serve` writes them: one for each picture and each test."""

from __future__ import annotations

from dataclasses import replace

from launcher.sessions.connection import Connection
from launcher.sessions.plan import Plan
from launcher.sessions.status import (
    ENDINGS,
    ENGINE_RESTART,
    FAILED,
    LAUNCHING,
    READY,
    SHUTDOWN,
    UNHEALTHY,
    Coming,
    Phase,
    Status,
)

BEGAN = 1795266131.0  # 2026-11-21 14:02:11 in Berlin
KEY = "sk-" + "4f" * 32
LOG = (
    "/home/alice/ondemand/data/sys/dashboard/batch_connect/sys/inference/output/aa6b2cbe-7e3c-4e5f/engine.log"
)


def first_start(plan: Plan) -> Status:
    """Nobody knows yet how long it takes."""
    return Status(
        plan.id, LAUNCHING, BEGAN, "Loading the weights.", phase="weights", phases=(Phase("weights", BEGAN, 38.0),),
        job_id="4711", log=LOG, updated_at=BEGAN + 38,
    )  # fmt: skip


def starting(plan: Plan) -> Status:
    """The same model was started before."""
    return replace(
        first_start(plan),
        message="Compiling the model.",
        phase="compile",
        phases=(Phase("weights", BEGAN, 31.2, 30.4), Phase("compile", BEGAN + 31, 6.8, 22.0)),
        expected_s=71.0,
        coming=(Coming("graphs", 9.0), Coming("warm-up", 6.0), Coming("probe", 1.2)),
    )


def ready(plan: Plan) -> Status:
    return replace(first_start(plan), state=READY, message="The model answers.", phase=None)


def restarting(plan: Plan) -> Status:
    return replace(
        starting(plan),
        state=UNHEALTHY,
        reason=ENGINE_RESTART,
        message="The engine stopped by itself and is being started again.",
    )


def idle(plan: Plan) -> Status:
    _, message, hint = ENDINGS["idle"]
    return replace(ready(plan), state=SHUTDOWN, reason="idle", message=message, hint=hint, final=True)


def failed(plan: Plan) -> Status:
    return replace(
        first_start(plan),
        state=FAILED,
        reason="gpu-memory",
        message="vLLM stopped after 41 s (exit code 1) before it was ready: "
        "CUDA out of memory while allocating the KV cache.",
        hint="Try --max-model-len 16384 or profile gpu-large.",
        form_hint='Set a smaller "Context length" (16384), or choose other "Hardware".',
        quote="torch.OutOfMemoryError: *CUDA* <b>out</b> of memory\n[a](b) `c` & the next line",
        phase=None,
        final=True,
    )


def connection(plan: Plan, host: str = "gpu07", port: int = 41823, key: str = KEY) -> Connection:
    """An address that ends an hour after the start."""
    page = f"http://{host}:{port}/"
    return Connection(
        plan.id, host, port, f"{page}v1", page, plan.model.served_name, key, BEGAN + 3600, "4711"
    )
