"""Plans for tests of the engine `whisper`: one session of the shipped model on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from launcher.models.resolve import SHIPPED
from launcher.sessions.plan import Plan, PlannedModel, Resources
from tests.engines.plans import vllm_plan

TINY_WHISPER = SHIPPED / "tiny-whisper"


def whisper_plan(
    *engine_args: str, snapshot: Path = TINY_WHISPER, served_name: str = "tiny-whisper", gpus: int = 0
) -> Plan:
    """A plan for the engine `whisper`."""
    return dataclasses.replace(
        vllm_plan(*engine_args),
        engine="whisper",
        model=PlannedModel("tiny-whisper", served_name, str(snapshot)),
        resources=Resources("here", gpus=gpus),
    )
