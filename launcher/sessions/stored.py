"""Records in the files of a session, which a launcher of another version may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def made(type_: type[T], data: Mapping[str, Any]) -> T:
    """The record `data` stands for; JSON's lists become tuples. Raises TypeError where a field is missing.

    Keys of a newer launcher are passed over, those of an older one have defaults: an upgrade must not hide sessions.
    """
    names = type_.__dataclass_fields__
    return type_(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in names})
