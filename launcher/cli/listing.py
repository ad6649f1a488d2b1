"""`launcher models ls`: which models are here, how large, and on which hardware they fit."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.cli.tables import one_line, table
from launcher.errors import ModelError
from launcher.models.disk import size
from launcher.models.fit.verdict import DOES_NOT_FIT
from launcher.models.index import Kept, is_offered, kept
from launcher.models.links import model_root
from launcher.models.near import parts_like
from launcher.models.resolve import ResolvedModel, catalog_entry
from launcher.planning.choice import reach
from launcher.planning.limits import within
from launcher.settings.schema import Settings


def ls(arguments: Namespace, settings: Settings) -> int:
    """Print the models that the arguments ask for."""
    if arguments.fits is not None and arguments.fits not in settings.profiles:
        from launcher.planning import unknown

        raise unknown("profile", arguments.fits, settings.profiles)
    here = kept(settings, refresh=arguments.refresh)
    mine = [model for model in here if is_offered(model, settings)]
    found = mine
    if arguments.word is not None:
        found = [model for model in found if arguments.word.strip().lower() in model.id.lower()]
    if arguments.task is not None:
        found = [model for model in found if _task(model) == arguments.task]
    verdicts = [_verdicts(model, settings) for model in found]
    if arguments.fits is not None:
        pairs = [(m, v) for m, v in zip(found, verdicts, strict=True) if v.get(arguments.fits) == "fits"]
        found, verdicts = [m for m, _ in pairs], [v for _, v in pairs]
    if arguments.json:
        described = [_described(m, v) for m, v in zip(found, verdicts, strict=True)]
        print(json.dumps({"models": described, "not_offered": len(here) - len(mine)}))
        return 0
    if found:
        _print(found, verdicts)
    else:
        print(_nothing(arguments, mine, settings))
    if len(mine) < len(here):
        where = settings.where("allow.models")
        print(f"{_count(len(here) - len(mine), 'more model')} here, but not in the site's catalog ({where}).")
    return 0


def _print(found: list[Kept], verdicts: list[dict[str, str]]) -> None:
    head = ["Task", "Model", "Revision", "On disk", "Last used", "Fits", "In", "Trouble"]
    rows = sorted(
        [
            _task(model), model.id, _revision(model), size(model.bytes), _ago(model.used_at),
            "" if model.trouble else _fits(fits), _shown_folder(model.folder), model.trouble or "",
        ]
        for model, fits in zip(found, verdicts, strict=True)
    )  # fmt: skip
    for number in range(len(rows) - 1, 0, -1):
        if rows[number][0] == rows[number - 1][0]:
            rows[number][0] = ""
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    print(table(rows, head=head))
    print(f"{_count(len(found), 'model')}, {size(_on_disk(found))}")
    if any("(" in row[5] for row in rows):
        print("(profile): fits with a change; launcher fit MODEL --profile PROFILE says which.")


def _nothing(arguments: Namespace, mine: list[Kept], settings: Settings) -> str:
    """Why the list is empty, and what to ask for instead."""
    if not mine:
        if settings.allow.downloads and settings.allow.models == "any":
            return "No models. Download one with: launcher models add org/name"
        return "No models."
    if arguments.task is not None:
        tasks = sorted({_task(model) for model in mine})
        if arguments.task not in tasks:
            return f'No model here is for the task "{one_line(arguments.task)}". The tasks are: {", ".join(tasks)}.'
    if arguments.word is not None and not any(arguments.word.strip().lower() in m.id.lower() for m in mine):
        near = parts_like(arguments.word.strip(), (model.id for model in mine))
        hint = f" Did you mean {' or '.join(map(one_line, near))}?" if near else ""
        return f'No model here has "{one_line(arguments.word)}" in its name.{hint}'
    return "No model here is all of that. Ask for less."


def _verdicts(model: Kept, settings: Settings) -> dict[str, str]:
    facts = model.facts
    if facts is None or model.trouble is not None:
        return {}
    entry = catalog_entry(model.id, settings)
    resolved = ResolvedModel(model.id, model.path, model.revision, "", entry)
    verdicts: dict[str, str] = {}
    for name, profile in settings.planned_here.items():
        allowed = (
            within(profile, settings) if not (entry and entry.profiles) or name in entry.profiles else None
        )
        try:
            found = reach(resolved, facts, allowed, settings) if allowed is not None else None
        except ModelError:
            return {}  # one broken model is only its own trouble
        verdicts[name] = found.verdict if found is not None else DOES_NOT_FIT
    return verdicts


def _fits(verdicts: dict[str, str]) -> str:
    fits = [name for name, verdict in verdicts.items() if verdict == "fits"]
    perhaps = [f"({name})" for name, verdict in verdicts.items() if verdict == "fits-if"]
    return " ".join([*fits, *perhaps]) or ("none" if "does-not-fit" in verdicts.values() else "?")


def _on_disk(found: Iterable[Kept]) -> int:
    """The bytes of all together; what revisions of one model share is there once."""
    several = Counter(model_root(model.path) for model in found)
    total, seen = 0, set()
    for model in found:
        if several[model_root(model.path)] == 1:
            total += model.bytes
            continue
        for folder, _, names in os.walk(model.path):
            for name in names:
                try:
                    status = os.stat(os.path.join(folder, name))
                except OSError:
                    continue
                if (key := (status.st_dev, status.st_ino)) not in seen:
                    seen.add(key)
                    total += status.st_size
    return total


def _described(model: Kept, verdicts: dict[str, str]) -> dict[str, Any]:
    facts = model.facts
    return {
        "id": model.id, "revision": model.revision, "refs": list(model.refs), "path": str(model.path),
        "folder": str(model.folder), "layout": model.layout, "bytes": model.bytes, "task": _task(model),
        "parameters": facts.parameters if facts else None, "context": facts.context if facts else None,
        "quantization": facts.quantization if facts else None, "trouble": model.trouble, "used_at": model.used_at,
        "modified_at": model.modified_at, "fits": verdicts,
    }  # fmt: skip


def _task(model: Kept) -> str:
    facts = model.facts
    return facts.task if facts else "unknown"


def _revision(model: Kept) -> str:
    return ", ".join(model.refs) or (model.revision or "")[:8]


def _shown_folder(folder: Path) -> str:
    home = os.path.expanduser("~")
    text = str(folder)
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


def _ago(when: float | None) -> str:
    return "" if when is None else time.strftime("%Y-%m-%d", time.localtime(when))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
