"""A mapping read from YAML becomes a frozen record, or one sentence says which key is wrong and how.

Own code instead of a validation library: the message must name file, line, key and value, and importing one costs
more than the command line may take (docs/decisions.md).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from launcher.errors import SettingsError, did_you_mean
from launcher.settings.pathnames import is_absolute, unset

T = TypeVar("T")
Where = Callable[[str], str]
Report = Callable[[SettingsError], None]
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLOCK = "Write its keys below it, each in a line of its own, with more spaces before it."
_PLAIN = "Use letters, digits and . _ - without spaces, with a letter or digit first."


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
        report(wrong(where(key), key, "must be a block of keys", data, _BLOCK))
        return None
    hints = _hints(type_)  # type: ignore[arg-type] # mypy: a class is hashable
    # mypy cannot be told that T is a dataclass.
    fields = {f.name: f for f in dataclasses.fields(type_) if f.name not in given}  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            report(unknown_key(where(f"{key}.{name}"), f"{key}.{name}", fields))
    values, whole = dict(given), True
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name in data:
            try:
                values[name] = _Reader(f"{key}.{name}", where, field).value(hints[name], data[name])
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


def wrong(where: str, key: str, must: str, value: object, hint: str) -> SettingsError:
    """The error for a value that is not what it must be; `hint` says what to write."""
    return SettingsError(f"{where}: {key} {must}, not {_shown(value)}.", hint)


def unknown_key(where: str, key: str, known: Iterable[str]) -> SettingsError:
    """The error for a key that does not exist, with the near one or all."""
    known = list(known)
    advice = did_you_mean(key.rpartition(".")[2], known, 1) or f"Known keys: {', '.join(known)}."
    return SettingsError(f"{where}: {_cut(key)} is not a known key.", advice)


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, float):
        return f"{value:g}"
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


class _Reader:
    """The value of one field: what it must be, and what to write where it is not."""

    def __init__(self, key: str, where: Where, field: dataclasses.Field[Any]) -> None:
        self._key = key
        self._where = where
        self._field = field
        self._metadata = field.metadata

    def value(self, hint: Any, value: object) -> object:
        """`value` as the type `hint`; raises SettingsError."""
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            if value is None:
                return None
            hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, list):
                raise self._wrong("must be a list of texts", value, "Write it as [one, two].")
            return tuple(self._item(item, place) for place, item in enumerate(value))
        if (
            typing.get_origin(hint) is not None
        ):  # Mapping[str, str], or of anything, which somebody else checks
            if not isinstance(value, Mapping):
                raise self._wrong("must be a block of texts", value, "Write it as {NAME: text}.")
            if typing.get_args(hint)[1] is object:
                return {str(name): thing for name, thing in value.items()}
            return {str(name): self._variable(str(name), text) for name, text in value.items()}
        accepted: tuple[type, ...] = (int, float) if hint is float else (hint,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise self._wrong(f"must be {_WORDS[hint]}", value, self._advice(hint, value))
        self._check(value, self._where(self._key))
        if hint is float and isinstance(value, int):
            if abs(value) > 10**30:  # Python's own call can pass what no float holds
                raise self._wrong("must be a smaller number", float("inf"), self._range())
            return float(value)
        return value

    def _item(self, value: object, place: int) -> str:
        at = self._where(f"{self._key}[{place}]")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise wrong(at, self._key, "must be a list of texts", value, self._advice(str, value))
        self._check(str(value), at)
        return str(value)

    def _variable(self, name: str, value: object) -> str:
        at = f"{self._key}.{name}"
        if not _VARIABLE.fullmatch(name):
            advice = "Use letters, digits and underscores, as in HF_HOME."
            raise wrong(self._where(at), self._key, "must hold names of variables", name, advice)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise wrong(self._where(at), at, "must be a text", value, self._advice(str, value))
        return str(value)

    def _check(self, value: object, at: str) -> None:
        def refused(must: str, advice: str) -> SettingsError:
            return wrong(at, self._key, must, value, advice)

        metadata = self._metadata
        if (choices := metadata.get("choices")) and value not in choices:
            advice = did_you_mean(str(value), choices, 1) or f"Write one of these, such as {choices[0]}."
            raise refused(f"must be one of {', '.join(choices)}", advice)
        if (minimum := metadata.get("minimum")) is not None and not (
            isinstance(value, int | float) and minimum <= value < float("inf")
        ):
            raise refused(f"must be at least {minimum}", self._range())
        if (maximum := metadata.get("maximum")) is not None and not (
            isinstance(value, int | float) and value <= maximum
        ):
            in_mb = self._field.name.endswith("memory_gb")
            raise refused(f"must be at most {maximum}", "Write it in GB, not MB." if in_mb else self._range())
        if (pattern := metadata.get("pattern")) and not re.fullmatch(pattern, str(value)):
            raise refused("must be one plain word", _PLAIN)
        if metadata.get("path"):
            self._check_path(str(value), at)

    def _check_path(self, path: str, at: str) -> None:
        if (variable := unset(path)) is not None:
            what = f"{at}: {_cut(self._key)} names {_cut(variable)}, which is not set."
            raise SettingsError(what, "Write the path out, or use what every user has, such as $USER.")
        if not is_absolute(path, self._metadata.get("also")):
            raise wrong(at, self._key, "must be an absolute path", path, "Begin it with /, ~ or $HOME.")

    def _wrong(self, must: str, value: object, advice: str) -> SettingsError:
        return wrong(self._where(self._key), self._key, must, value, advice)

    def _advice(self, hint: type, value: object) -> str:
        # YAML reads no, on and 8 as something else than text; people write 24:00:00 and 80GB where a number is wanted.
        if hint is bool:
            return "Write true or false, without quotes."
        if hint is str:
            return "Put it in quotes." if isinstance(value, bool | int | float) else "Write one text."
        if isinstance(value, str) and re.match(r"\s*\d", value):
            return "Write the number alone."
        return self._range()

    def _range(self) -> str:
        """What to write for a number."""
        least, default = self._metadata.get("minimum", 0), self._field.default
        usual = default if isinstance(default, int | float) and default else max(1, least)
        name, example = self._field.name, self._metadata.get("example") or usual
        return f"Write a number, such as {name}: {example}."
