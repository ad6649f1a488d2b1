"""`launcher doctor`: one line for each thing looked at; or a proposed site.yml."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.tables import GREEN, RED, YELLOW, coloured, one_line
from launcher.errors import RequestError, SettingsError

if TYPE_CHECKING:
    from launcher.doctor.checks import Check

_EXAMPLES = """\
examples:
  launcher doctor                          look at settings, Slurm, folders, environments and the app
  launcher doctor --job --profile gpu      and run a session with the simulated engine, from submit to stop
  launcher doctor --portal https://ondemand.example.edu
  launcher doctor --write site.yml         propose a site.yml from what Slurm says; without a name print it

The exit code is 3 when something FAILs; a warning is for you to judge.
"""
_COLOURS = {"ok": GREEN, "warn": YELLOW, "FAIL": RED}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--job", action="store_true", help="run a whole session with the simulated engine as well"
    )
    parser.add_argument("--profile", metavar="NAME", help="the profile for --job; else the site's default")
    parser.add_argument("--portal", metavar="URL", help="try whether the portal's proxy reaches this machine")
    parser.add_argument("--certificate", metavar="FILE", help="the portal's own certificate authority")
    parser.add_argument(
        "--app", metavar="FOLDER", help="the installed app; else the one beside this launcher"
    )
    parser.add_argument(
        "--write",
        nargs="?",
        const="",
        metavar="FILE",
        help="propose a site.yml; a file that exists is left alone",
    )
    parser.add_argument("--ssh", metavar="HOST", help="with --write: ask the Slurm of that host")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    if arguments.write is not None:
        return _write(arguments)
    if arguments.ssh:
        raise RequestError("--ssh is for --write.", "Name the host of a cluster in site.yml.")
    said: list[Check] = []

    def say(check: Check) -> None:
        said.append(check)
        if not arguments.json:
            _print(check)

    _examine(arguments, say)
    failed = sum(check.verdict == "FAIL" for check in said)
    if arguments.json:
        print(json.dumps({"ok": not failed, "checks": [check.to_dict() for check in said]}))
    else:
        warned = sum(check.verdict == "warn" for check in said)
        print(f"\n{len(said)} looked at: {failed} FAIL, {warned} warn.")
    return SettingsError.exit_code if failed else 0


def _examine(arguments: argparse.Namespace, say: Callable[[Check], None]) -> None:
    from launcher.doctor import examine
    from launcher.doctor.job import check_job
    from launcher.doctor.portal import check_portal

    settings = examine(say, Path(arguments.app).absolute() if arguments.app else None)
    if settings is None:
        return
    if arguments.portal:
        if not arguments.portal.startswith(("http://", "https://")):
            raise RequestError(
                f'--portal must be an address, not "{arguments.portal[:80]}".', "Begin it with https://."
            )
        ask = None if arguments.json or not sys.stdin.isatty() else lambda text: print(text, flush=True)
        for check in check_portal(arguments.portal, settings, ask, certificate=arguments.certificate):
            say(check)
    if arguments.job:
        check_job(settings, arguments.profile, say)


def _print(check: Check) -> None:
    mark = coloured(f"{check.verdict:<4}", _COLOURS[check.verdict], sys.stdout)
    fix = f" {check.fix}" if check.fix else ""
    print(f"{mark}  {one_line(f'{check.about}: {check.says}{fix}')}", flush=True)


def _write(arguments: argparse.Namespace) -> int:
    from launcher.doctor.proposal import propose, write

    text = propose(arguments.ssh)
    file = Path(arguments.write).absolute() if arguments.write else None
    if file is not None:
        write(text, file)
    if arguments.json:
        print(json.dumps({"file": str(file) if file else None, "text": text}))
    elif file is not None:
        print(f"Wrote {file}. Read it, correct it, then: launcher config check {file}")
    else:
        print(text, end="")
    return 0
