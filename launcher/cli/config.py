"""`launcher config`: what holds and where it came from, what is wrong with a file, and the schema for an editor."""

from __future__ import annotations

import dataclasses
import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.cli.parser import add_command
from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError, RequestError, did_you_mean
from launcher.settings.cautions import cautions
from launcher.settings.layers import load, load_alone, mistakes, mistakes_in
from launcher.settings.origins import DEFAULTS
from launcher.settings.schema import BLOCKS, NAMED, Settings
from launcher.settings.sources import site_file, user_file

_EXAMPLES = """\
examples:
  launcher config show                              every value and where it came from
  launcher config show profiles.gpu-small
  launcher config check /apps/inference/site.yml    all mistakes of a file at once
  launcher config schema                            for an editor that checks YAML
"""
_SHOW = "example:\n  launcher config show session"
_CHECK = "example:\n  launcher config check site.yml"
_SCHEMA = "example:\n  launcher config schema"


def options(parser: ArgumentParser) -> None:
    """Give `parser` the commands `show`, `check` and `schema`."""
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="config_command", metavar="COMMAND", required=True)
    show = add_command(commands, "show", "show the settings, each with its origin", _SHOW)
    show.add_argument("key", nargs="?", metavar="KEY", help="a block, an entry or one key, as a.b.c")
    check = add_command(commands, "check", "name every mistake of the settings, or of one file", _CHECK)
    check.add_argument("file", nargs="?", metavar="FILE", help="a site's file, before it is installed")
    add_command(commands, "schema", "print the JSON Schema of a site's file", _SCHEMA)


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
    asked = _asked(arguments.key or "")
    if not shown and not asked and arguments.key != "request":
        raise _unknown(arguments.key, settings)
    if arguments.json:
        found = {key: _described(settings, key, value) for key, value in shown.items()}
        plain = {"line": None, "locked": False}
        said = {key: {"value": value, "origin": name, **plain} for key, (value, name) in asked.items()}
        print(json.dumps({**found, **said}))
        return 0
    rows = [[key, _short(value), _origin(settings, key)] for key, value in shown.items()]
    rows += [[key, value, name] for key, (value, name) in asked.items()]
    print(table(rows, head=["Key", "Value", "Origin"]))
    return 0


def _asked(wanted: str) -> dict[str, tuple[str, str]]:
    """What variables say that each launch asks for, by `request.FIELD`, with the variable's name."""
    from launcher.planning import from_variables

    found = {f"request.{field}": said for field, said in from_variables(os.environ).items()}
    return {key: said for key, said in found.items() if wanted in ("", "request", key)}


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
    keys = [found for found, _ in _all(settings)]
    known = {*keys, *(found.rpartition(".")[0] for found in keys), *NAMED} - {""}
    advice = did_you_mean(key, sorted(known)) or "See: launcher config show"
    return RequestError(f'There is no setting "{key[:80]}".', advice)


def _check(arguments: Namespace) -> int:
    if arguments.file is not None:
        file = Path(arguments.file)
        files, found = [arguments.file], mistakes_in(file)
        settings = None if found else load_alone(file)
    else:
        files = [str(path) for path in (site_file(os.environ), user_file(os.environ)) if path is not None]
        found = mistakes()
        settings = None if found else load()
    if settings is not None:
        found = _offers(settings)
    odd = [] if settings is None or found else _odd(settings)
    if arguments.json:
        listed = [{"kind": error.kind, "message": error.message, "hint": error.hint} for error in found]
        print(json.dumps({"files": files, "mistakes": listed, "warnings": odd}))
    else:
        for error in found:
            print(one_line(str(error)))
        for warning in odd:
            print(one_line(f"warning: {warning['message']} {warning['hint']}"))
        if not found:
            print(f"No mistakes in {one_line(' and '.join(files) or 'the packaged defaults')}.")
    return found[0].exit_code if found else 0


def _offers(settings: Settings) -> list[LauncherError]:
    # Which fields a launch has is not known where the settings are read.
    from launcher.fleet.offers import offers_of

    try:
        offers_of(settings)
    except LauncherError as error:
        return [error]
    return []


def _odd(settings: Settings) -> list[dict[str, str]]:
    return [
        {"message": f"{settings.where(odd.key)}: {odd.key} {odd.says}", "hint": odd.advice}
        for odd in cautions(settings)
    ]


def _schema() -> int:
    from launcher.settings.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return 0
