"""What is asked for, from all that may say so: the call, a file named with it, variables of the environment.

Owns which of them wins and where each value came from; the words that each may use are in `spellings`, and what the
settings say of the rest is `launcher.planning.plan`'s business.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError, ModelError, RequestError, SettingsError, did_you_mean
from launcher.models.typed import is_path
from launcher.planning.request import Request
from launcher.planning.spellings import (
    NOTES,
    OF_MODEL,
    PER_GPU,
    WEIGHTS,
    Fields,
    fields_of,
    known_words,
    per_gpu,
)
from launcher.sessions.plan import Plan
from launcher.settings.records import unknown_key
from launcher.settings.schema import NAME, CatalogModel, Settings

REQUEST = "request"
_YOURS = "your request"
# For what nobody wants to type each time, the launcher's name before vec-inf's.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "account": ("LAUNCHER_ACCOUNT", "VEC_INF_ACCOUNT"),
    "work_dir": ("LAUNCHER_WORK_DIR", "VEC_INF_WORK_DIR"),
    "log_dir": ("LAUNCHER_LOG_DIR",),
    "profile": ("LAUNCHER_PROFILE",),
    "partition": ("LAUNCHER_PARTITION",),
    "qos": ("LAUNCHER_QOS",),
    "environment": ("LAUNCHER_ENVIRONMENT",),
}
FILES = ("LAUNCHER_LAUNCH_CONFIG", "VEC_INF_MODEL_CONFIG", "VEC_INF_CONFIG")
_FOLDER = "VEC_INF_CONFIG_DIR"
_OF_SLURM = ("partition", "account", "qos", "constraint", "reservation", "exclude", "nodelist")
_JOINED = ("engine_args", "binds", "env")
# The word for a field in errors, where that is not its name's first.
_CALLED = {
    "work_dir": "working",
    "binds": "bind",
    "env": "variable",
    "cpus": "cores",
    "max_model_len": "context",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with the origin of each field that somebody named, and sentences about words without meaning here.

    `settings` hold the catalog's entries that a file brought for this call.
    """

    request: Request
    settings: Settings
    origins: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Layer:
    # One source: its words as they were written, and the place of each.
    given: Mapping[str, Any]
    at: Mapping[str, str]
    # The fields that these mean, and for each of them the word that said it and its place.
    found: Fields = dataclasses.field(default_factory=dict)
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    places: dict[str, str] = dataclasses.field(default_factory=dict)


def asked(
    model: str | None, wanted: Mapping[str, Any], settings: Settings, variables: Mapping[str, str]
) -> Asked:
    """The request for `model`: what `wanted` says, then the file `wanted["config"]`, then `variables`.

    None in `wanted` says nothing. Arguments of the engine, binds and variables for it are joined, and the stronger
    source stands last. Raises RequestError for a word or value that cannot be, SettingsError naming the file's line.
    """
    said = {word: value for word, value in wanted.items() if value is not None}
    named = said.pop("config", None)
    file, origin = _file(named, variables)
    layers = [_Layer(said, dict.fromkeys(said, REQUEST))]
    entries: Mapping[str, CatalogModel] = {}
    if file is not None:
        given, at = _read(file, origin)
        if "models" in given:
            entries, given, at = _of_models(given, at, model or str(said.get("model", "")), file)
        layers.append(_Layer(given, at))
    shell = from_variables(variables)
    layers.append(
        _Layer({w: value for w, (value, _) in shell.items()}, {w: n for w, (_, n) in shell.items()})
    )
    notes: list[str] = []
    for layer in layers:
        _understand(layer, notes)
    fields, origins = _joined(layers)
    weights = {word: fields.pop(word, None) for word in WEIGHTS}
    named_there = fields.pop("model", None)
    model = model or named_there or weights["hf_model"]
    if not isinstance(model, str) or not model:
        raise RequestError("There is no model.", "Name one: launcher launch MODEL.")
    if any(weights.values()) and (entry := _entry(model, weights)) is not None:
        entries = {**entries, entry.name: entry}
    elif weights["hf_model"]:
        model = str(weights["hf_model"])
    if (chosen := entries.get(model)) is not None and chosen.path and not os.path.isdir(chosen.path):
        raise ModelError(f"There is no folder {chosen.path}.", "Check where the weights are.")
    if entries:
        settings = _with(settings, entries, str(file) if file and model in entries else _YOURS)
    return Asked(Request(model=model, **fields), settings, origins, tuple(notes))


def unheeded(found: Asked, plan: Plan) -> str | None:
    """The note about what was asked of Slurm, where `plan` does without it; a variable is meant for other launches."""
    if plan.cluster.scheduler == "slurm":
        return None
    meant = [field for field in _OF_SLURM if getattr(found.request, field) is not None]
    told = [field for field in meant if found.origins[field] not in chain.from_iterable(VARIABLES.values())]
    if not told:
        return None
    verb = "means" if len(told) == 1 else "mean"
    profile = plan.resources.profile
    return f'{", ".join(told)} {verb} nothing here: profile "{profile}" runs on this machine, without Slurm.'


def from_variables(variables: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What `variables` ask of every launch: each field's value, and the name of the variable that says it."""
    said = {field: next(filter(variables.get, names), None) for field, names in VARIABLES.items()}
    return {field: (variables[name], name) for field, name in said.items() if name is not None}


def traced(error: RequestError, origins: Mapping[str, str]) -> RequestError:
    """`error`, which also says where a value that it speaks of came from, if not from the call itself."""
    words = re.findall(r"\w+", error.message.lower())
    told = [
        f"{field} comes from {origin}."
        for field, origin in origins.items()
        if origin != REQUEST and _CALLED.get(field, field.partition("_")[0]) in words
    ]
    if not told:
        return error
    return RequestError(error.message, " ".join([*([error.hint] if error.hint else []), *told]))


def _file(named: Any, variables: Mapping[str, str]) -> tuple[Path | None, str]:
    if named is not None:
        return _path(str(named), "--config"), ""
    for name in FILES:
        if variables.get(name):
            return _path(variables[name], name), name
    if variables.get(_FOLDER):
        path = _path(variables[_FOLDER], _FOLDER) / "models.yaml"
        return (path, _FOLDER) if path.is_file() else (None, "")
    return None, ""


def _path(text: str, origin: str) -> Path:
    if not text.isprintable() or len(text) > 4000:
        raise RequestError(f"{origin} is no path: {text[:40]!r}.", "Give the path of a YAML file.")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _read(file: Path, origin: str) -> tuple[dict[str, Any], dict[str, str]]:
    from launcher.settings.files import read_checked

    try:
        written = read_checked(file)
    except SettingsError as error:
        if origin:  # nobody would think of a variable that was set long ago
            raise SettingsError(f"{error.message} {origin} names it.", error.hint) from None
        raise
    data = {} if written.data is None else written.data
    if not isinstance(data, dict):
        raise SettingsError(f"{file}: the file must be a block of keys.", "Write, for example, hours: 8.")
    return data, {key: f"{file}, line {line}" for key, line in written.lines.items()}


def _of_models(
    given: Mapping[str, Any], at: Mapping[str, str], model: str, file: Path
) -> tuple[dict[str, CatalogModel], dict[str, Any], dict[str, str]]:
    """vec-inf's file of models: entries for the catalog, and what it says of `model`."""
    models = given["models"] or {}
    if not isinstance(models, dict) or not all(isinstance(entry, dict | None) for entry in models.values()):
        raise SettingsError(f"{file}: models must be a block of names, and below each its keys.")
    for key in given:
        if key != "models":
            raise unknown_key(at.get(key, str(file)), key, ("models",))
    entries = {n: e for n, of in models.items() if (e := _entry(n, of or {})) is not None}
    prefix = f"models.{model}."
    # It names the arguments of both engines, of which one is offered here.
    passed_over = {*WEIGHTS, *OF_MODEL, "sglang_args"}
    chosen = {word: value for word, value in (models.get(model) or {}).items() if word not in passed_over}
    return entries, chosen, {k.removeprefix(prefix): v for k, v in at.items() if k.startswith(prefix)}


def _entry(name: str, weights: Mapping[str, Any]) -> CatalogModel | None:
    """The entry for weights below a folder or under another id; None where neither is said, or `name` is no name."""
    if not re.fullmatch(NAME, name):
        return None
    parent, other = weights.get("model_weights_parent_dir"), weights.get("hf_model")
    folder = Path(os.path.expanduser(str(parent)), name) if parent else None
    if other and is_path(str(other)) and not (folder and folder.is_dir()):
        folder, other = Path(os.path.expanduser(str(other))), None
    if folder is not None and (folder.is_dir() or not other):
        return CatalogModel(name, path=str(folder))
    return CatalogModel(name, id=str(other)) if other else None


def _weights(value: Any, option: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.strip()) <= 1000:
        raise RequestError(
            f"{option} cannot be {str(value)[:60]!r}.", "Give an id such as org/name, or a path."
        )
    return value


def _with(settings: Settings, entries: Mapping[str, CatalogModel], origin: str) -> Settings:
    kept = dict(settings.origins)
    for name in entries:
        kept = {k: v for k, v in kept.items() if not f"{k}.".startswith(f"catalog.{name}.")}
        kept[f"catalog.{name}"] = origin
    return dataclasses.replace(settings, catalog={**settings.catalog, **entries}, origins=kept)


def _understand(layer: _Layer, notes: list[str]) -> None:
    """Give `layer` the fields that its words mean, and the notes of those that mean nothing."""
    of_each: list[tuple[str, Any, str, str]] = []  # GPU; how many there are may be said later
    for written, value in layer.given.items():
        if value is None:
            continue
        # vec-inf's own file has mem-per-node in some places.
        place, word = layer.at.get(written, ""), written.replace("-", "_")
        option = f"--{word.replace('_', '-')}" if place == REQUEST else f"{place}: {word}"
        if word in NOTES:
            notes.append(f"{option} means nothing here. {NOTES[word]}")
            continue
        if word == "time" and re.fullmatch(r"[1-9]\d?", str(value)):
            notes.append(f"{option} {value} is {value} minutes, as for Slurm. Hours are: --hours {value}")
        if word in PER_GPU:
            of_each.append((word, value, option, place))
            continue
        fields = {word: _weights(value, option)} if word in WEIGHTS else fields_of(word, value, option)
        if fields is None:
            raise _unknown(word, place)
        _add(layer, fields, option, place)
    for word, value, option, place in of_each:
        _add(layer, per_gpu(word, value, option, layer.found.get("gpus")), option, place)


def _add(layer: _Layer, fields: Fields, option: str, place: str) -> None:
    for field, value in fields.items():
        if field in _JOINED and field in layer.found:
            layer.found[field] = _sum(layer.found[field], value)
        elif field in layer.found:
            other = layer.words[field]
            raise RequestError(
                f"{option} and {other} say the same, and both are given.", "Leave one of them out."
            )
        else:
            layer.found[field] = value
        layer.words[field], layer.places[field] = option, place


def _sum(weaker: Any, stronger: Any) -> Any:
    if isinstance(weaker, Mapping) and isinstance(stronger, Mapping):
        return {**weaker, **stronger}
    if isinstance(weaker, tuple) and isinstance(stronger, tuple):
        return (*weaker, *stronger)
    return stronger  # of a wrong type, which the request's check says


def _joined(layers: Iterable[_Layer]) -> tuple[Fields, dict[str, str]]:
    fields: Fields = {}
    origins: dict[str, str] = {}
    for layer in reversed([*layers]):
        for field, value in layer.found.items():
            place = layer.places[field]
            if field in _JOINED and field in fields:
                fields[field] = _sum(fields[field], value)
                origins[field] = f"{place}, after {origins[field]}"
            else:
                fields[field], origins[field] = value, place
    return fields, origins


def _unknown(word: str, place: str) -> LauncherError:
    # All the words there are would fill a screen.
    hint = did_you_mean(word, known_words()) or "See: launcher launch --help"
    if place == REQUEST:
        return RequestError(f'Unknown option "{word[:80]}".', hint)
    return SettingsError(f"{place}: {word[:80]} is not a known key.", hint)
