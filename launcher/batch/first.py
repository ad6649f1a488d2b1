"""Batches in the words of FIRST, the gateway of Argonne's ALCF: its request body, statuses, list and result.

Its requests name files on the cluster by their paths. Owns what such a path may be; who may name one is for who asks.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.batch.batches import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    STATUSES,
    VALIDATING,
    Asked,
    State,
    errors_of,
)
from launcher.errors import RequestError

# FIRST's status for each of OpenAI's.
OF_STATUS = {
    VALIDATING: "pending",
    IN_PROGRESS: "running",
    FINALIZING: "running",
    CANCELLING: "running",
    COMPLETED: "completed",
    FAILED: "failed",
    EXPIRED: "failed",
    CANCELLED: "failed",
}
_INPUT, _FOLDER = ("input_file", "input_file_path"), ("output_folder_path", "output_file_path")
_PATH_CHARACTERS = 4096
_HARMLESS = re.compile(r"[^\0\ud800-\udfff]*")  # no file is called by half a character


@dataclass(frozen=True, slots=True)
class Wish:
    """What FIRST's body says: the input, the model, and where the answers go (None: they stay with the batch)."""

    input: Path
    model: str
    output: Path | None


def is_wish(body: Mapping[str, Any]) -> bool:
    """Whether a request's body is FIRST's rather than OpenAI's."""
    return "input_file_id" not in body and any(name in body for name in _INPUT)


def wish(body: Mapping[str, Any], most_bytes: int) -> Wish:
    """Read FIRST's body; raises RequestError for a value that cannot be, such as a longer input."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError("model is missing.", "Name one of /v1/models.")
    given = _path(body, _INPUT)
    if given is None:
        raise RequestError("input_file is missing.", "Name a file of requests, one JSON object a line.")
    try:
        found = os.stat(given)
    except OSError as error:
        raise RequestError(
            f"{_shown(given)} cannot be read: {error.strerror}.", "Name another file."
        ) from error
    if not stat.S_ISREG(found.st_mode) or not os.access(given, os.R_OK):
        raise RequestError(f"{_shown(given)} is no file that can be read.", "Name another file.")
    if not 0 < found.st_size <= most_bytes:  # what is no file of a disk says 0, and may have no end
        raise RequestError(
            f"{_shown(given)} has {found.st_size} bytes; from 1 to {most_bytes} are taken.",
            "Name another file.",
        )
    return Wish(given, model, _path(body, _FOLDER))


def output_of(asked: Wish, batch_id: str) -> Path | None:
    """Where the answers go; makes the folder as FIRST does. Raises RequestError where that cannot be."""
    place = asked.output
    if place is None:
        return None
    try:
        if place.parent.is_dir() and not place.is_dir() and place.suffix:
            # Made now, and with no errors beside it: a batch would take another's for its own.
            if errors_of(place).exists():
                raise FileExistsError
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return place
        base = asked.input.stem
        folder = place / f"{base}_{asked.model.rpartition('/')[2]}_{batch_id}"
        folder.mkdir(mode=0o700, parents=True)
        return folder / f"{base}_{time.strftime('%Y%m%d_%H%M%S')}.results.jsonl"
    except FileExistsError as error:
        raise RequestError(f"{_shown(place)} exists.", "Name a file that does not, or a folder.") from error
    except OSError as error:
        raise RequestError(
            f"{_shown(place)} cannot be used: {error.strerror}.", "Name a folder that you may write."
        ) from error


def submitted(asked: Asked, state: State) -> dict[str, Any]:
    """The answer to a batch that was made."""
    return {**said(asked), "task_ids": None, "status": OF_STATUS[state.status]}


def said(asked: Asked) -> dict[str, Any]:
    """What the request named, in FIRST's fields."""
    return {"batch_id": asked.id, "input_file": asked.input, "output_folder_path": asked.folder}


def listed(asked: Asked, state: State) -> dict[str, Any]:
    """One batch in the list."""
    times = {name: _iso(state.times.get(name)) for name in ("in_progress_at", "completed_at")}
    ends = [state.times.get(f"{status}_at") for status in (FAILED, EXPIRED, CANCELLED)]
    return {
        "id": asked.id,
        "cluster": asked.cluster,
        "framework": asked.framework,
        "input_file": asked.input or asked.input_file_id,
        **times,
        "failed_at": _iso(next((at for at in ends if at is not None), None)),
        "status": OF_STATUS[state.status],
        "batch_id": asked.id,
    }


def result(asked: Asked, content: Path | None, state: State) -> dict[str, Any]:
    """What came of a batch, whose answers are `content` where no output was named.

    `response_time` are the seconds its runs took, `throughput` tokens a second.
    """
    tokens = state.prompt_tokens + state.completion_tokens
    rate = round(tokens / state.running_s, 3) if state.running_s > 0 else 0.0
    metrics = {
        "response_time": state.running_s,
        "throughput": rate,
        "throughput_tokens_per_second": rate,
        "total_tokens": tokens,
        "num_responses": state.completed,
        "lines_processed": state.completed + state.failed,
    }
    results = asked.output or (None if content is None else str(content))
    of_paths = {"results_file": results} if asked.by_path else {}
    files = {"output_file_id": state.output_file_id, "error_file_id": state.error_file_id}
    return {**of_paths, **files, "metrics": metrics}


def statuses(status: str, *, theirs: bool) -> frozenset[str]:
    """OpenAI's statuses that a filter means: FIRST's word (where `theirs`) or OpenAI's own; raises RequestError."""
    meant = {ours for ours, word in OF_STATUS.items() if word == status}
    if status in OF_STATUS and not (theirs and meant):
        meant = {status}
    if not meant:
        known = ", ".join(dict.fromkeys((*OF_STATUS.values(), *STATUSES)))
        raise RequestError(f'"{status[:40]}" is no status of a batch.', f"Choose one of: {known}.")
    return frozenset(meant)


def _path(body: Mapping[str, Any], names: tuple[str, ...]) -> Path | None:
    for name in names:
        if (given := body.get(name)) is None:
            continue
        if not isinstance(given, str) or not given.startswith("/") or not _HARMLESS.fullmatch(given):
            shown = given[:80] if isinstance(given, str) else type(given).__name__
            raise RequestError(f'{name} must be an absolute path, not "{shown}".', "Begin it with /.")
        if len(given) > _PATH_CHARACTERS:
            raise RequestError(f"{name} is too long.")
        return Path(given)
    return None


def _shown(path: Path) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(path))[:200]


def _iso(at: int | None) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z") if at is not None else None
