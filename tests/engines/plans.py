"""Plans for tests of an engine: one session of one model on this machine."""

from __future__ import annotations

from pathlib import Path

from launcher.sessions.plan import Limits, Plan, PlannedCluster, PlannedModel, Resources
from launcher.settings.schema import Environment, Network, Places

TINY_CHAT = Path(__file__).resolve().parents[2] / "launcher" / "models" / "shipped" / "tiny-chat"


def vllm_plan(
    *engine_args: str, snapshot: Path = TINY_CHAT, served_name: str = "tiny-chat", nodes: int = 1
) -> Plan:
    """A plan for the engine `vllm`."""
    return Plan(
        id="tiny-chat-0123abcd",
        name="tiny-chat",
        created_at=0.0,
        door="python",
        user="alice",
        engine="vllm",
        model=PlannedModel("tiny-chat", served_name, str(snapshot)),
        cluster=PlannedCluster("here", "local"),
        resources=Resources("cpu", nodes=nodes),
        environment=Environment("venv", "venv"),
        limits=Limits(1.0, 60, 1800),
        network=Network("127.0.0.1"),
        places=Places(sessions="/nowhere", runtime="/nowhere", cache="/nowhere"),
        launcher="launcher",
        engine_args=engine_args,
    )
