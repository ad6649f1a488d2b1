"""How values cross from one launcher to another: plain JSON, with a mark for records, sessions, tuples and paths.

Owns the form alone. Both launchers may be of different versions: a record's new fields are passed over, missing ones
have their defaults.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher import errors
from launcher.api.session import Session
from launcher.errors import LauncherError, SettingsError
from launcher.sessions.stored import made

# Marks of a value's kind; a plain dictionary with such a key travels as pairs.
_RECORD, _SESSION, _TUPLE, _PATH, _PAIRS = "$record", "$session", "$tuple", "$path", "$pairs"


def packed(value: Any) -> Any:
    """`value` as JSON can hold it; raises TypeError for what has no form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Session):
        return {
            _SESSION: {"plan": value.plan.to_json(), "root": str(value.paths.root), "job_id": value.job_id}
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: packed(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {_RECORD: f"{kind.__module__}:{kind.__qualname__}", "fields": fields}
    if isinstance(value, tuple):
        return {_TUPLE: [packed(item) for item in value]}
    if isinstance(value, list):
        return [packed(item) for item in value]
    if isinstance(value, Path):
        return {_PATH: str(value)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: packed(item) for key, item in value.items()}
        return {_PAIRS: [[packed(key), packed(item)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__} cannot cross")


def unpacked(value: Any, session: Callable[[dict[str, Any]], Session]) -> Any:
    """What `packed` was given; `session` makes one from its plan's text, its directory there and its job's id."""

    def inner(item: Any) -> Any:
        return unpacked(item, session)

    if isinstance(value, list):
        return [inner(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _SESSION in value:
        return session(value[_SESSION])
    if _RECORD in value:
        fields = {name: inner(item) for name, item in value["fields"].items()}
        try:
            return made(_record(value[_RECORD]), fields)
        except TypeError as error:
            raise _other_version(str(value[_RECORD])) from error
    if _TUPLE in value:
        return tuple(inner(item) for item in value[_TUPLE])
    if _PATH in value:
        return Path(value[_PATH])
    if _PAIRS in value:
        return {inner(key): inner(item) for key, item in value[_PAIRS]}
    return {key: inner(item) for key, item in value.items()}


def _record(name: str) -> Any:
    # Only our own records: what comes from another host must not name a class of its choice.
    module, _, kind = name.partition(":")
    found: Any = None
    # One that is a program would run.
    if module.startswith("launcher.") and "__main__" not in module:
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module)
    for part in kind.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise _other_version(name)
    return found


def _other_version(name: str) -> SettingsError:
    return SettingsError(
        f"The launcher there answers with something that this one does not know ({name[:80]}).",
        "Make both of one version: launcher clusters setup NAME",
    )


def packed_error(error: LauncherError) -> dict[str, Any]:
    """An exception for the other side, with whatever its class adds to the message."""
    more = {k: v for k, v in vars(error).items() if v is None or isinstance(v, bool | int | float | str)}
    return {"kind": error.kind, **more}


def unpacked_error(data: Mapping[str, Any]) -> LauncherError:
    """The exception that was raised there."""
    kinds: dict[str, type[LauncherError]] = {
        kind.kind: kind for kind in vars(errors).values() if _is_error(kind)
    }
    made_of = kinds.get(str(data.get("kind")), LauncherError)
    hint = data.get("hint")
    error = made_of(str(data.get("message")), None if hint is None else str(hint))
    for name, value in data.items():
        # What the class itself says, its exit code among it, is not for another host to change.
        own = name in ("message", "hint") or name.startswith("_") or hasattr(made_of, name)
        if name.isidentifier() and not own:
            setattr(error, name, value if name not in vars(error) or value is None else str(value))
    return error


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, LauncherError)
