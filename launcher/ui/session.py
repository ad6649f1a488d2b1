"""What the page says about its session: model, hardware, time left, idle countdown.

Reads `session.json`, `status.json` and `connection.json` of one session; writes nothing and never touches the key.
Times are sent as seconds left, so a browser with a wrong clock counts down rightly.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from launcher.models.vision import images_refused, read_config, takes_images
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan


def panel(plan: Plan, status: dict[str, Any], now: float) -> dict[str, object]:
    """The panel's facts; `ends_in_s` and `idle_limit_s` are None where there is no such limit.

    `idle_in_s` is also None while the countdown is not known: at the beginning and while the engine is restarted.
    """
    idle = status.get("idle") or {}
    return {
        "id": plan.id,
        "state": status.get("state"),
        "message": status.get("message"),
        "hint": status.get("hint"),
        "model": plan.model.id,
        "commit": plan.model.revision,
        "hardware": hardware(plan),
        "job": status.get("job_id"),
        "host": status.get("host"),
        "ends_in_s": _left_s(status.get("ends_at"), now),
        "ends_soon": bool(status.get("ends_soon")),
        "idle_in_s": _left_s(idle.get("stops_at"), now),
        "idle_limit_s": plan.limits.idle_minutes * 60 or None,
    }


def title(plan: Plan) -> str:
    """What a browser's tab is called: the model, after the session's own name if it was given one."""
    model = plan.model.id
    return model if plan.name in (model, model.rpartition("/")[2]) else f"{plan.name} – {model}"


def hardware(plan: Plan) -> str:
    """The hardware in a few words, e.g. `gpu-large: 2 × a100, 16 CPUs, 128 GB`."""
    asked = plan.resources
    facts = []
    if asked.nodes > 1:
        facts.append(f"{asked.nodes} nodes")
    if asked.gpus:
        facts.append(f"{asked.gpus} × {asked.gpu_type or 'GPU'}")
    if asked.cpus:
        facts.append(f"{asked.cpus} CPU" + ("s" if asked.cpus > 1 else ""))
    if asked.memory_gb:
        facts.append(f"{asked.memory_gb:g} GB")
    return f"{asked.profile}: {', '.join(facts)}" if facts else asked.profile


class SessionFiles:
    """The files of the session whose page this is; everything but the plan is read anew each time."""

    def __init__(self, root: Path) -> None:
        self.paths = SessionPaths(root)
        self.plan = Plan.read(self.paths.plan)

    def panel(self) -> dict[str, object]:
        """The panel as it is now."""
        return panel(self.plan, _read(self.paths.status), time.time())

    @property
    def takes_images(self) -> bool:
        """Whether the model reads images, as far as its files and the engine's arguments say."""
        if images_refused(self.plan.engine_args):
            return False
        snapshot = self.plan.model.snapshot
        # Only the simulated engine has no snapshot; it counts images.
        return snapshot is None or takes_images(read_config(Path(snapshot)))

    def base_url(self, otherwise: str) -> str:
        """Where clients outside the browser reach the session, once it is ready; until then `otherwise`."""
        return str(_read(self.paths.connection).get("base_url") or otherwise)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not written yet, or removed at the end
        return {}
    return data if isinstance(data, dict) else {}


def _left_s(until: object, now: float) -> float | None:
    return max(0.0, until - now) if isinstance(until, int | float) else None
