"""A mapping read from YAML becomes a frozen record, or one sentence says which key is wrong and how.

Own code instead of a validation library: the message must name file, key and value, and importing one costs
more than the command line may take (docs/decisions.md).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from launcher.errors import SettingsError

T = TypeVar("T")
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def record(type_: type[T], data: object, key: str, origin: Callable[[str], str], **given: object) -> T:
    """`data` (the value of the dotted `key`) as a `type_`; `given` are fields that do not come from the file.

    Raises SettingsError that names the file (`origin(key)`), the key and the value.
    """
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise wrong(origin(key), key, "must be a block of keys", data)
    hints = typing.get_type_hints(type_)
    fields = {f.name: f for f in dataclasses.fields(type_) if f.name not in given}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, 1)
            advice = f'Did you mean "{near[0]}"?' if near else f"Known keys: {', '.join(sorted(fields))}."
            raise SettingsError(f"{origin(f'{key}.{name}')}: {key}.{name} is not a known key.", advice)
    values = dict(given)
    for name, field in fields.items():
        if name in data:
            at = f"{key}.{name}"
            values[name] = _value(hints[name], data[name], at, origin(at), field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{origin(key)}: {key}.{name} is missing.", f"Add {name} to {key}.")
    return type_(**values)


def wrong(origin: str, key: str, must: str, value: object) -> SettingsError:
    """The error for a value that is not what it must be."""
    shown = f'"{value}"' if isinstance(value, str) else repr(value) if value is not None else "empty"
    return SettingsError(f"{origin}: {key} {must}, not {shown[:80]}.", f"Correct {key} there.")


def _value(hint: Any, value: object, key: str, origin: str, metadata: Mapping[str, Any]) -> object:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(a for a in arguments if a is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
            raise wrong(origin, key, "must be a list of texts", value)
        return tuple(str(item) for item in value)
    if typing.get_origin(hint) is not None:  # Mapping[str, str]
        if not isinstance(value, Mapping) or not all(
            isinstance(v, str | int | float) for v in value.values()
        ):
            raise wrong(origin, key, "must be a block of texts", value)
        return {str(k): str(v) for k, v in value.items()}
    accepted: tuple[type, ...] = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise wrong(origin, key, f"must be {_WORDS[hint]}", value)
    if (choices := metadata.get("choices")) and value not in choices:
        raise wrong(origin, key, f"must be one of {', '.join(choices)}", value)
    if (minimum := metadata.get("minimum")) is not None and not (
        isinstance(value, int | float) and minimum <= value < float("inf")
    ):
        raise wrong(origin, key, f"must be at least {minimum}", value)
    if (maximum := metadata.get("maximum")) is not None and not (
        isinstance(value, int | float) and value <= maximum
    ):
        raise wrong(origin, key, f"must be at most {maximum}", value)
    if (pattern := metadata.get("pattern")) and not re.fullmatch(pattern, str(value)):
        raise wrong(origin, key, "must be one plain word", value)
    return float(value) if hint is float and isinstance(value, int) else value
