"""`launcher details`: everything that is known of a session."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from launcher.api import Launcher
from launcher.cli.parser import SESSION
from launcher.cli.status import print_json
from launcher.cli.tables import table
from launcher.models.disk import size
from launcher.sessions.clock import moment

EXAMPLES = "example:\n  launcher details tiny-chat-3f9a --json"
# The plan's blocks, in the order of a reader's questions; what else is in it stands behind them.
_BLOCKS = ("model", "resources", "limits", "environment", "cluster", "network", "places")
_OTHERS = ("name", "engine", "engine_args", "page", "work_dir", "audio_folders", "user", "launcher")


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("session", metavar="ID", help=SESSION)


def run(arguments: argparse.Namespace) -> int:
    """Show all of it."""
    from launcher.api.details import details

    found = details(Launcher().session(arguments.session))
    if arguments.json:
        return print_json(found)
    print(table(list(_rows(found)), head=["Detail", "Value", "Origin"]))
    return 0


def _rows(found: dict[str, Any]) -> Iterator[list[str]]:
    status, plan, origins = found["status"], found["plan"], found["origins"]
    yield ["Session", found["id"], ""]
    yield ["State", f"{status['state']} {status['reason'] or ''}".strip(), status["message"]]
    yield ["Since", moment(status["since"]), ""]
    yield ["Created", moment(found["created_at"]), found["door"]]
    for phase in status["phases"]:
        yield [f"  phase {phase['name']}", f"{phase['elapsed_s']:.1f} s", ""]
    for block in ("job", "connection", "hardware", "usage"):
        yield from _block(block, found[block] or {}, {})
    yield ["engine_version", found["engine_version"] or "", ""]
    # The origin of a name is that of the session's; an environment and a cluster have names as well.
    of_fields = {field: origin for field, origin in origins.items() if field != "name"}
    for block in _BLOCKS:
        yield from _block(block, plan.get(block) or {}, of_fields)
    for name in _OTHERS:
        if plan.get(name) not in (None, "", [], ()):
            yield [name, _text(plan[name]), origins.get(name, "")]
    shown = {*(f for block in _BLOCKS for f in plan.get(block) or {}), *_OTHERS, *_BLOCKS}
    for name, origin in origins.items():
        if name not in shown:
            yield [f"  {name}", "", origin]
    for key in found["further_keys"]:
        yield ["further key", key["name"], f"until {moment(key['expires_at'])}" if key["expires_at"] else ""]
    yield ["directory", found["directory"], ""]
    for file in found["files"]:
        yield [f"  {file['name']}", f"{file['mode']} {size(file['bytes'])}", moment(file["modified_at"])]


def _block(name: str, block: dict[str, Any], origins: dict[str, str]) -> Iterator[list[str]]:
    filled = {key: value for key, value in block.items() if value not in (None, "", [], (), {})}
    if filled:
        yield [name, "", origins.get(name, "")]
    for key, value in filled.items():
        shown = moment(value) if key.endswith("_at") and isinstance(value, float) else _text(value)
        yield [f"  {key}", shown, origins.get(key, "")]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={of}" for key, of in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
