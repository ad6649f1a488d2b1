"""`launcher list`: the models that the site offers, or what a session of one of them gets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table

if TYPE_CHECKING:
    from launcher.api.catalog import Offered, Setup

EXAMPLES = """\
examples:
  launcher list                                 the models that this site offers
  launcher list tiny-chat                       what a session of this one gets, and why
  launcher models ls                            all models that are here
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a name from the list, an id such as org/name, or a path"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show all models, or the one that was named."""
    launcher = Launcher()
    if arguments.model is not None:
        found = launcher.setup(arguments.model)
        return print_json(_described(found)) if arguments.json else _print_setup(found, arguments.model)
    models = launcher.catalog()
    if arguments.json:
        return print_json({"models": [_row(model) for model in models]})
    _print(models)
    if launcher.settings.allow.models == "any":
        print("Other models can be started too. Those that are here: launcher models ls")
    return 0


def _print(models: list[Offered]) -> None:
    if not models:
        print("This site's catalog is empty.")
        return
    rows, last = [], ""
    for model in models:
        state = "ready to start" if model.available else "not now"
        rows.append([model.model_type if model.model_type != last else "", model.name, model.title, state])
        last = model.model_type
    print(table(rows, head=["Type", "Model", "What it is", "State"]))
    for model in models:
        if model.trouble is not None:
            print(f"{one_line(model.name)}: {one_line(model.trouble)}")


def _row(model: Offered) -> dict[str, Any]:
    return {
        "name": model.name, "id": model.id, "title": model.title, "model_type": model.model_type, "task": model.task,
        "engine": model.engine, "available": model.available, "trouble": model.trouble, "revision": model.revision,
        "path": model.path, "origin": model.origin,
    }  # fmt: skip


def _described(found: Setup) -> dict[str, Any]:
    return {
        **found.values, "engine_args": list(found.engine_args), "origins": dict(found.origins),
        "trouble": found.trouble,
    }  # fmt: skip


def _print_setup(found: Setup, model: str) -> int:
    rows = [
        [name, str(value), found.origins.get(name, "")]
        for name, value in found.values.items()
        if value not in (None, "")
    ]
    if found.engine_args:
        rows.append(["Engine arguments:", "", ""])
        rows += [[f"  {option}", value, ""] for option, value in _pairs(found.engine_args)]
    print(table(rows, head=["Model Config", "Value", "Origin"]))
    if found.trouble is not None:
        print(f"It cannot be started now. {one_line(found.trouble)}")
    else:
        print(f"Start it:  launcher launch {one_line(model)}")
    return 0


def _pairs(arguments: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each option with its values in one line."""
    pairs: list[tuple[str, str]] = []
    for argument in arguments:
        if argument.startswith("--") or not pairs:
            option, equals, value = argument.partition("=")
            pairs.append((option, value) if equals else (argument, ""))
        else:
            option, value = pairs[-1]
            pairs[-1] = (option, f"{value} {argument}".strip())
    return pairs
