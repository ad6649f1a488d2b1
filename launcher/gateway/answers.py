"""What the gateway answers by itself: the plain data of an answer, and the shapes OpenAI's clients understand."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

ENDED = ("SHUTDOWN", "FAILED")
# Clients retry a 503 after Retry-After; the last phases are short. The openai client gives up above 120 s.
_RETRY_AFTER_S = {"warm-up": 2, "probe": 2}
_RETRY_S, _LONGEST_RETRY_S = 5, 60
# On an answer to a request that an engine had when it broke down: a batch looks for the line that does it.
ENGINE_LOST = b"x-launcher-engine-lost"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of our own; `close` ends the connection after it."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False

    def head(self, keep_alive: bool, length: int | None = None, *, lost: bool = False) -> bytes:
        """Status line and header fields; `length` is that of a body which comes later.

        `lost`: an engine had the request when it broke down.
        """
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {len(self.body) if length is None else length}")
        if lost and self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            lines.append(f"{ENGINE_LOST.decode()}: 1")
        if not keep_alive:
            lines.append("Connection: close")
        return "\r\n".join((*lines, "", "")).encode("latin-1", "replace")


def error_body(message: str, kind: str, code: str) -> dict[str, object]:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def json_answer(
    status: int, body: object, headers: Mapping[str, str] | None = None, *, close: bool = False
) -> Answer:
    """A JSON answer that no cache keeps."""
    given = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    return Answer(status, json.dumps(body).encode(), given, close)


def refused(
    status: int, message: str, code: str, headers: Mapping[str, str] | None = None, *, close: bool = False
) -> Answer:
    """The request is wrong or not allowed."""
    return json_answer(status, error_body(message, "invalid_request_error", code), headers, close=close)


@dataclass(frozen=True, slots=True)
class Door:
    """What those read who have no right key: programs the two messages and the hint, people the rest."""

    missing: str
    refused: str
    hint: str
    title: str
    says: str
    command: str
    wrong: str


SESSION = Door(
    "This session needs its API key.",
    "This API key is not the session's.",
    "Send it as 'Authorization: Bearer KEY'; the card shows it, `launcher status ID` says where it is.",
    "Open this session",
    "This session is private. Paste its API key: the session's card shows it, and it is told by:",
    "launcher status ID",
    "That key is not this session's. Copy it once more.",
)
ENDPOINT = Door(
    "This endpoint needs an API key.",
    "This API key does not open the endpoint: it is wrong, has ended or was revoked.",
    "Send it as 'Authorization: Bearer KEY'; `launcher keys get-access-token` prints yours, or ask for one.",
    "Open the endpoint",
    "This endpoint is private. Paste the API key that you were given, or your own, which is printed by:",
    "launcher keys get-access-token",
    "That key does not open the endpoint: it is wrong, has ended or was revoked.",
)


def unauthorized(presented: bool, door: Door = SESSION) -> Answer:
    """No key, or a wrong one."""
    message = door.refused if presented else door.missing
    return refused(401, f"{message} {door.hint}", "invalid_api_key", {"WWW-Authenticate": "Bearer"})


def too_many_guesses() -> Answer:
    """Too many wrong keys are already waiting for their answer."""
    return _too_many("Too many wrong API keys. Try again soon.", 5)


def keys_away() -> Answer:
    """Where the keys are kept nobody answers: whether the one that came is right cannot be told."""
    message = "This key is not known yet, and the database of keys does not answer. Try again in a minute."
    body = error_body(message, "server_error", "keys_unavailable")
    return json_answer(503, body, {"Retry-After": "30"})


def over_limit(wait_s: float) -> Answer:
    """A further key has used up its requests or tokens of this minute."""
    wait = max(1, round(wait_s + 0.5))
    return _too_many(f"This key's limit is reached. Try again in {wait} s.", min(wait, _LONGEST_RETRY_S))


def _too_many(message: str, retry_s: int) -> Answer:
    return refused(429, message, "rate_limit_exceeded", {"Retry-After": str(retry_s)})


def not_ready(report: Mapping[str, object]) -> Answer:
    """The engine does not answer yet, or never will again."""
    state, phase, text = report.get("state"), report.get("phase"), report.get("message")
    if state in ENDED:
        message = f"The session has ended ({state}). {text or ''}".strip()
        headers = {"X-Should-Retry": "false"}  # the openai client's own header: do not try again
        return json_answer(503, error_body(message, "server_error", "session_ended"), headers)
    where = f"{state}, phase {phase}" if phase else f"{state}"
    message = f"The session is not ready yet ({where}). {text or ''}".strip()
    left_s = seconds_left(report)
    if left_s is not None:
        message += f" About {left_s} s are left, by the time it took before."
    retry_s = (
        _RETRY_AFTER_S.get(str(phase), _RETRY_S) if left_s is None else max(2, min(left_s, _LONGEST_RETRY_S))
    )
    return json_answer(503, error_body(message, "server_error", "not_ready"), {"Retry-After": str(retry_s)})


def seconds_left(report: Mapping[str, object]) -> int | None:
    """How long the start will still take if it goes like the last one; None when that is not known or over."""
    expected, phases = report.get("expected_s"), report.get("phases")
    if not isinstance(expected, int | float) or not isinstance(phases, list | tuple):
        return None
    begun = phases[0].get("started_at") if phases else None
    left_s = round(expected - (time.time() - begun)) if isinstance(begun, int | float) else 0
    return left_s if left_s > 0 else None


def unreachable() -> Answer:
    """The engine's socket refused, or it hung up before it answered."""
    message = "The engine did not answer. If it stopped, the session says why."
    return json_answer(502, error_body(message, "server_error", "engine_unreachable"))


def internal() -> Answer:
    """A mistake of ours; the log has it."""
    return json_answer(500, error_body("The gateway failed.", "server_error", "internal"), close=True)


@functools.cache
def broken_stream_event() -> bytes:
    """The event that ends a stream whose engine died; the openai client raises APIError for it."""
    message = "The engine stopped in the middle of this answer. The answer is not complete."
    body = error_body(message, "server_error", "engine_died")
    return b"data: " + json.dumps(body).encode() + b"\n\n"
