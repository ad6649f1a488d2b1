"""A batch as OpenAI's API shows it, and what a request to make one may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from launcher.batch import first
from launcher.batch.batches import Asked, State
from launcher.batch.spec import URLS
from launcher.errors import RequestError

_WINDOW = re.compile(r"([1-9]\d{0,3})([hd])")
_WINDOW_MOST_H = 30 * 24
_METADATA_MOST, _KEY_MOST, _VALUE_MOST = 16, 64, 512
_LEAST_S, _MOST_S = 3600, 30 * 86400  # OpenAI's bounds of an expiry
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def batch(asked: Asked, state: State) -> dict[str, Any]:
    """OpenAI's Batch object; with FIRST's fields where it was asked for in FIRST's words."""
    return {
        "id": asked.id,
        "object": "batch",
        "endpoint": asked.endpoint,
        "model": asked.model,
        "errors": {"object": "list", "data": list(state.errors)} if state.errors else None,
        "input_file_id": asked.input_file_id,
        "completion_window": asked.window,
        "status": state.status,
        "output_file_id": state.output_file_id,
        "error_file_id": state.error_file_id,
        "created_at": int(asked.at),
        "expires_at": int(asked.expires_at),
        **{f"{name}_at": state.times.get(f"{name}_at") for name in _TIMES},
        "request_counts": {"total": state.total, "completed": state.completed, "failed": state.failed},
        "usage": {
            "input_tokens": state.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": state.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": state.prompt_tokens + state.completion_tokens,
        },
        "metadata": dict(asked.metadata) if asked.metadata is not None else None,
        **(first.said(asked) if asked.by_path else {}),
    }


def page(found: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """OpenAI's list."""
    ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {}
    return {"object": "list", "data": found, "has_more": more, "first_id": None, "last_id": None, **ends}


def endpoint_of(body: Mapping[str, Any]) -> str:
    """The one url that all lines of a batch have; raises RequestError."""
    given = body.get("endpoint")
    if given not in URLS:
        raise RequestError(
            f'endpoint cannot be "{str(given)[:80]}".' if given is not None else "endpoint is missing.",
            f"Choose one of: {', '.join(URLS)}.",
        )
    return str(given)


def window_of(body: Mapping[str, Any]) -> tuple[str, float]:
    """The completion window as it was said, and in seconds; raises RequestError."""
    given = body.get("completion_window", "24h")
    said = _WINDOW.fullmatch(given) if isinstance(given, str) else None
    hours = int(said[1]) * (24 if said[2] == "d" else 1) if said else 0
    if not said or hours > _WINDOW_MOST_H:
        raise RequestError(
            f'completion_window cannot be "{str(given)[:40]}".', "Say 24h, or another time up to 30d."
        )
    return said[0], hours * 3600.0


def output_lasts_s(body: Mapping[str, Any]) -> int | None:
    """For how many seconds answers and errors are kept; None: until they are deleted. Raises RequestError."""
    given = body.get("output_expires_after")
    return None if given is None else lasts_s(given, "output_expires_after")


def lasts_s(given: object, name: str) -> int:
    """The seconds of OpenAI's expiry, `{anchor, seconds}`; raises RequestError."""
    anchor, seconds = (given.get("anchor"), given.get("seconds")) if isinstance(given, dict) else (None, None)
    if anchor != "created_at" or type(seconds) is not int or not _LEAST_S <= seconds <= _MOST_S:
        raise RequestError(f"{name} cannot be kept.", f"Say created_at and {_LEAST_S} to {_MOST_S} seconds.")
    return seconds


def metadata_of(body: Mapping[str, Any]) -> dict[str, str] | None:
    """The metadata; raises RequestError for more than OpenAI takes."""
    given = body.get("metadata")
    if given is None:
        return None
    fits = (
        isinstance(given, dict)
        and len(given) <= _METADATA_MOST
        and all(len(name) <= _KEY_MOST for name in given)
        and all(isinstance(value, str) and len(value) <= _VALUE_MOST for value in given.values())
    )
    if not fits:
        raise RequestError(
            "metadata cannot be kept.",
            f"Give up to {_METADATA_MOST} texts of up to {_VALUE_MOST} characters,"
            f" with names of up to {_KEY_MOST}.",
        )
    return dict(given)
