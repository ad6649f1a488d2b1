"""A mapping read from YAML becomes a frozen record, or one sentence says which key is wrong and how.

Own code instead of a validation library: the message must name file, line, key and value, and importing one costs
more than the command line may take (docs/decisions.md).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from launcher.errors import SettingsError

T = TypeVar("T")
Where = Callable[[str], str]
Report = Callable[[SettingsError], None]
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def record(type_: type[T], data: object, key: str, where: Where, **given: object) -> T:
    """`data` (the value of the dotted `key`) as a `type_`; `given` are fields that do not come from the file.

    Raises SettingsError that names the place (`where(key)`), the key and the value.
    """

    def fail(error: SettingsError) -> NoReturn:
        raise error

    made = collect(type_, data, key, where, fail, **given)
    assert made is not None
    return made


def collect(
    type_: type[T], data: object, key: str, where: Where, report: Report, **given: object
) -> T | None:
    """`record`, with every mistake given to `report`; None where one leaves no record to speak of."""
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        report(wrong(where(key), key, "must be a block of keys", data))
        return None
    hints = _hints(type_)  # type: ignore[arg-type] # mypy: a class is hashable
    fields = {f.name: f for f in dataclasses.fields(type_) if f.name not in given}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            report(unknown_key(where(f"{key}.{name}"), f"{key}.{name}", fields))
    values, whole = dict(given), True
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name in data:
            try:
                values[name] = _value(hints[name], data[name], f"{key}.{name}", where, field.metadata)
            except SettingsError as error:
                report(error)
                whole = whole and not needed
        elif needed:
            report(SettingsError(f"{where(key)}: {key}.{name} is missing.", f"Add {name} to {key}."))
            whole = False
    return type_(**values) if whole else None


@functools.cache
def _hints(type_: type) -> dict[str, Any]:
    # A catalog of 1000 models asks 1000 times, and each answer evaluates every annotation anew.
    return typing.get_type_hints(type_)


def wrong(where: str, key: str, must: str, value: object, hint: str | None = None) -> SettingsError:
    """The error for a value that is not what it must be."""
    return SettingsError(f"{where}: {key} {must}, not {_shown(value)}.", hint or f"Correct {key} there.")


def unknown_key(where: str, key: str, known: Iterable[str]) -> SettingsError:
    """The error for a key that does not exist, with the near one or all."""
    known = list(known)
    near = difflib.get_close_matches(key.rpartition(".")[2], known, 1)
    advice = f'Did you mean "{near[0]}"?' if near else f"Known keys: {', '.join(known)}."
    return SettingsError(f"{where}: {_cut(key)} is not a known key.", advice)


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, float):
        return f"{value:g}"
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def _value(hint: Any, value: object, key: str, where: Where, metadata: Mapping[str, Any]) -> object:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise wrong(where(key), key, "must be a list of texts", value, "Write it as [one, two].")
        return tuple(_item(item, key, place, where, metadata) for place, item in enumerate(value))
    if typing.get_origin(hint) is not None:  # Mapping[str, str]
        if not isinstance(value, Mapping):
            raise wrong(where(key), key, "must be a block of texts", value)
        return {str(name): _variable(str(name), v, key, where) for name, v in value.items()}
    accepted: tuple[type, ...] = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise wrong(where(key), key, f"must be {_WORDS[hint]}", value, _advice(hint, value))
    _check(value, key, where, metadata)
    if hint is float and isinstance(value, int):
        if abs(value) > 10**30:  # Python's own call can pass what no float holds
            raise wrong(where(key), key, "must be a smaller number", float("inf"))
        return float(value)
    return value


def _item(value: object, key: str, place: int, where: Where, metadata: Mapping[str, Any]) -> str:
    def at(_: str) -> str:
        return where(f"{key}[{place}]")

    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong(at(key), key, "must be a list of texts", value, _advice(str, value))
    _check(str(value), key, at, metadata)
    return str(value)


def _variable(name: str, value: object, key: str, where: Where) -> str:
    at = f"{key}.{name}"
    if not _VARIABLE.fullmatch(name):
        raise wrong(where(at), key, "must hold names of variables", name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong(where(at), at, "must be a text", value, _advice(str, value))
    return str(value)


def _check(value: object, key: str, where: Where, metadata: Mapping[str, Any]) -> None:
    if (choices := metadata.get("choices")) and value not in choices:
        raise wrong(where(key), key, f"must be one of {', '.join(choices)}", value)
    if (minimum := metadata.get("minimum")) is not None and not (
        isinstance(value, int | float) and minimum <= value < float("inf")
    ):
        raise wrong(where(key), key, f"must be at least {minimum}", value)
    if (maximum := metadata.get("maximum")) is not None and not (
        isinstance(value, int | float) and value <= maximum
    ):
        raise wrong(where(key), key, f"must be at most {maximum}", value)
    if (pattern := metadata.get("pattern")) and not re.fullmatch(pattern, str(value)):
        raise wrong(where(key), key, "must be one plain word", value)


def _advice(hint: type, value: object) -> str | None:
    # YAML reads no, on and 8 as something else than text; people write 24:00:00 and 80GB where a number is wanted.
    if hint is str and isinstance(value, bool | int | float):
        return "Put it in quotes."
    if hint in (int, float) and isinstance(value, str) and re.match(r"\s*\d", value):
        return "Write the number alone."
    return None
