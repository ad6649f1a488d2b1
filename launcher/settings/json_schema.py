"""The JSON Schema of a site's file, made from the records, so that editors complete and check it.

Owns the translation alone. What a schema cannot say (names that lead somewhere, hours within hours_max) is said by
`launcher config check`. The copy in site.schema.json is what installs ship; a test fails when it is old.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from launcher.settings.explained import BLOCK_SAYS, LOCKS_SAY, SAYS
from launcher.settings.schema import BLOCKS, NAME, NAMED, PATH

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
# YAML gives a number where somebody writes one; the launcher takes it for the text it is.
_TEXT = ["string", "number"]
# What defaults.yml describes already: a site may change a key of it without saying the rest.
_PACKAGED = {"environments": ("launcher",), "catalog": ("tiny-chat", "tiny-whisper", "simulated")}
_ANY_OF: Mapping[str, list[Any]] = {
    "catalog": [
        {"required": ["id"]},
        {"required": ["path"]},
        {"required": ["engine"], "properties": {"engine": {"const": "simulated"}}},
    ],
    "environments": [
        {"properties": {"kind": {"const": "venv"}}},
        {"required": ["kind", "modules"], "properties": {"kind": {"const": "module"}}},
        {"required": ["kind", "image"], "properties": {"kind": {"const": "container"}}},
    ],
}


def json_schema() -> dict[str, Any]:
    """The schema of a site's file, in draft 7, which every YAML editor knows."""
    blocks: dict[str, Any] = {name: _block(name, type_) for name, type_ in BLOCKS.items()}
    named: dict[str, Any] = {name: _named(name, type_) for name, type_ in NAMED.items()}
    locks = {"type": ["array", "null"], "items": {"type": "string"}, "description": LOCKS_SAY}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "The settings of a site for Inference OnDemand",
        "type": ["object", "null"],
        "properties": {**blocks, **named, "locks": locks},
        "additionalProperties": False,
    }


def _block(name: str, type_: type) -> dict[str, Any]:
    return {**_record(name, type_), "description": BLOCK_SAYS[name]}


def _named(name: str, type_: type) -> dict[str, Any]:
    part = _record(name, type_)
    needed = [field.name for field in dataclasses.fields(type_) if _is_needed(field)]
    whole = {**part, "required": needed} if needed else part
    if name in _ANY_OF:
        whole = {**whole, "anyOf": [{"type": "null"}, *_ANY_OF[name]]}
    return {
        "type": ["object", "null"],
        "description": BLOCK_SAYS[name],
        "propertyNames": {"pattern": f"^{NAME}$"},
        "properties": dict.fromkeys(_PACKAGED.get(name, ()), part),
        "additionalProperties": whole,
    }


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.name != "name" and field.default is missing and field.default_factory is missing


def _record(block: str, type_: type) -> dict[str, Any]:
    hints = typing.get_type_hints(type_)
    properties = {
        field.name: {
            **_value(hints[field.name], field.metadata),
            "description": SAYS[f"{block}.{field.name}"],
        }
        for field in dataclasses.fields(type_)
        if not (block in NAMED and field.name == "name")
    }
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _value(hint: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    empty = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if empty:
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": {"type": _TEXT, **_bounds(metadata)}}
    if typing.get_origin(hint) is not None:
        names = {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}
        if typing.get_args(hint)[1] is object:
            return {"type": "object", "propertyNames": names}
        return {"type": "object", "propertyNames": names, "additionalProperties": {"type": _TEXT}}
    kind: Any = [_TYPES[hint], "null"] if empty else _TYPES[hint]
    return {"type": kind, **_bounds(metadata)}


def _bounds(metadata: Mapping[str, Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    if "choices" in metadata:
        bounds["enum"] = list(metadata["choices"])
    if "pattern" in metadata:
        bounds["pattern"] = f"^(?:{metadata['pattern']})$"
    if "path" in metadata:
        bounds["pattern"] = f"^(?:{'|'.join(filter(None, (PATH, metadata['also'])))})$"
    for bound in ("minimum", "maximum"):
        if bound in metadata:
            bounds[bound] = metadata[bound]
    return bounds
