"""`launcher environments`: where the engines' programs come from, and whether they are there."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from launcher.api import Launcher
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import SettingsError

if TYPE_CHECKING:
    from launcher.api.environments import Held

EXAMPLES = """\
examples:
  launcher environments
  launcher environments --check                 start each program too, as a job would; takes a while
"""
# What Blackfish's users type behind `image`.
_LIST = ("ls", "list")


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("list", nargs="?", choices=_LIST, metavar="ls", help="the same (as in Blackfish)")
    parser.add_argument("--check", action="store_true", help="start each program and ask for its version")


def run(arguments: argparse.Namespace) -> int:
    """Show them; an exit code of the settings where one of them is not there."""
    launcher = Launcher()
    found = launcher.environments()
    checks = []
    if arguments.check:
        from launcher.doctor.places import check_environments

        checks = check_environments(launcher.settings)
    if arguments.json:
        shown = {"environments": [dataclasses.asdict(one) for one in found]}
        print_json({**shown, "checks": [dataclasses.asdict(check) for check in checks]} if checks else shown)
    else:
        _print(found)
        for check in checks:
            print(one_line(f"{check.verdict}: {check.about} {check.says} {check.fix or ''}".rstrip()))
    return SettingsError.exit_code if any(one.trouble for one in found) else 0


def _print(found: list[Held]) -> None:
    rows = [[one.name, one.kind, one.place, _versions(one), _staged(one)] for one in found]
    print(table(rows, head=["Environment", "Kind", "Where", "Engines", "There"]))
    for one in found:
        if one.trouble is not None:
            print(one_line(one.trouble))


def _versions(one: Held) -> str:
    if one.image is not None and one.image.modified is not None:
        return f"image of {one.image.modified[:10]}"
    return ", ".join(f"{name} {version or ''}".strip() for name, version in one.versions.items())


def _staged(one: Held) -> str:
    return "a job will tell" if one.staged is None else "yes" if one.staged else "no"
