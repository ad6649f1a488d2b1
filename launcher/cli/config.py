"""`launcher config`: what holds and where it came from, what is wrong with a file, and the schema for an editor."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError, RequestError
from launcher.settings.layers import load, mistakes, mistakes_in, site_file, user_file
from launcher.settings.origins import DEFAULTS
from launcher.settings.schema import BLOCKS, NAMED, Settings

_EXAMPLES = """\
examples:
  launcher config show                              every value and where it came from
  launcher config show profiles.gpu-small
  launcher config check /apps/inference/site.yml    all mistakes of a file at once
  launcher config schema                            for an editor that checks YAML
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the commands `show`, `check` and `schema`."""
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="config_command", metavar="COMMAND", required=True)

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  {example}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # SUPPRESS: `launcher config --json show` says it before the command, and that must hold too.
        found.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print one JSON object and nothing else",
        )
        found.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        return found

    show = command("show", "show the settings, each with its origin", "launcher config show session")
    show.add_argument("key", nargs="?", metavar="KEY", help="a block, an entry or one key, as a.b.c")
    check = command(
        "check", "name every mistake of the settings, or of one file", "launcher config check site.yml"
    )
    check.add_argument("file", nargs="?", metavar="FILE", help="a site's file, before it is installed")
    command("schema", "print the JSON Schema of a site's file", "launcher config schema")


def run(arguments: Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    if arguments.config_command == "show":
        return _show(arguments)
    if arguments.config_command == "check":
        return _check(arguments)
    return _schema()


def _show(arguments: Namespace) -> int:
    settings = load()
    shown = dict(_values(settings, arguments.key or ""))
    if not shown:
        raise _unknown(arguments.key, settings)
    if arguments.json:
        print(json.dumps({key: _described(settings, key, value) for key, value in shown.items()}))
        return 0
    rows = [[key, _short(value), _origin(settings, key)] for key, value in shown.items()]
    print(table(rows, head=["Key", "Value", "Origin"]))
    return 0


def _values(settings: Settings, wanted: str) -> Iterator[tuple[str, Any]]:
    """Every dotted key at or below `wanted`, with its value."""
    for key, value in _all(settings):
        if not wanted or key == wanted or key.startswith((f"{wanted}.", f"{wanted}[")):
            yield key, value


def _all(settings: Settings) -> Iterator[tuple[str, Any]]:
    for block in BLOCKS:
        yield from _fields(block, getattr(settings, block))
    for block in NAMED:
        for name, entry in getattr(settings, block).items():
            yield from _fields(f"{block}.{name}", entry)
    yield "locks", list(settings.locks)


def _fields(at: str, entry: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if at.partition(".")[0] in NAMED and field.name == "name":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{at}.{field.name}.{name}", of) for name, of in value.items())
        else:
            yield f"{at}.{field.name}", list(value) if isinstance(value, tuple) else value


def _described(settings: Settings, key: str, value: Any) -> dict[str, Any]:
    origin = _said(settings, key)
    line = settings.lines.get(origin, {}).get(key)
    return {"value": value, "origin": origin, "line": line, "locked": settings.locked(key)}


def _origin(settings: Settings, key: str) -> str:
    described = _described(settings, key, None)
    line = f", line {described['line']}" if described["line"] else ""
    return f"{described['origin']}{line}{' (locked)' if described['locked'] else ''}"


def _said(settings: Settings, key: str) -> str:
    # Not the parent's origin: what an entry leaves out is the packaged default.
    if key == "locks":
        return settings.site or DEFAULTS
    return settings.origins.get(key, DEFAULTS)


def _short(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _unknown(key: str, settings: Settings) -> LauncherError:
    import difflib

    keys = [found for found, _ in _all(settings)]
    known = {*keys, *(found.rpartition(".")[0] for found in keys), *NAMED} - {""}
    near = difflib.get_close_matches(key, sorted(known), 3)
    advice = f"Did you mean {' or '.join(near)}?" if near else "See: launcher config show"
    return RequestError(f'There is no setting "{key[:80]}".', advice)


def _check(arguments: Namespace) -> int:
    if arguments.file is not None:
        files = [arguments.file]
        found = mistakes_in(Path(arguments.file))
    else:
        files = [str(path) for path in (site_file(os.environ), user_file(os.environ)) if path is not None]
        found = mistakes()
    if arguments.json:
        listed = [{"kind": error.kind, "message": error.message, "hint": error.hint} for error in found]
        print(json.dumps({"files": files, "mistakes": listed}))
    else:
        for error in found:
            print(one_line(str(error)))
        if not found:
            print(f"No mistakes in {one_line(' and '.join(files) or 'the packaged defaults')}.")
    return found[0].exit_code if found else 0


def _schema() -> int:
    from launcher.settings.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return 0
