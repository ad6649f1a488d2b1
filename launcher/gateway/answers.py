"""The gateway's own JSON answers, in the shapes that OpenAI's clients understand."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

# Clients retry a 503 within Retry-After; the last phases are short. The openai client gives up above 120 s.
_RETRY_AFTER_S = {"warm-up": 2, "probe": 2}
ENDED = ("SHUTDOWN", "FAILED")


def error_body(message: str, kind: str, code: str) -> dict[str, object]:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def json_answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer that no cache keeps."""
    return web.Response(
        status=status,
        body=json.dumps(body).encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def refused(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """The request is wrong or not allowed."""
    return json_answer(status, error_body(message, "invalid_request_error", code), headers)


def unauthorized(presented: bool) -> web.Response:
    """No key, or a wrong one."""
    message = "This API key is not the session's." if presented else "This session needs its API key."
    hint = "Send it as 'Authorization: Bearer KEY'; the card shows it, `launcher status ID` says where it is."
    return refused(401, f"{message} {hint}", "invalid_api_key", {"WWW-Authenticate": "Bearer"})


def too_many_guesses() -> web.Response:
    """Too many wrong keys are already waiting for their answer."""
    return refused(
        429, "Too many wrong API keys. Try again soon.", "rate_limit_exceeded", {"Retry-After": "5"}
    )


def not_ready(report: Mapping[str, object]) -> web.Response:
    """The engine does not answer yet, or never will again."""
    state, phase, text = report.get("state"), report.get("phase"), report.get("message")
    if state in ENDED:
        message = f"The session has ended ({state}). {text or ''}".strip()
        headers = {"X-Should-Retry": "false"}  # the openai client's own header: do not try again
        return json_answer(503, error_body(message, "server_error", "session_ended"), headers)
    where = f"{state}, phase {phase}" if phase else f"{state}"
    message = f"The session is not ready yet ({where}). {text or ''}".strip()
    headers = {"Retry-After": str(_RETRY_AFTER_S.get(str(phase), 5))}
    return json_answer(503, error_body(message, "server_error", "not_ready"), headers)


def unreachable() -> web.Response:
    """The engine's socket refused, or it hung up before it answered."""
    message = "The engine did not answer. If it stopped, the session says why."
    return json_answer(502, error_body(message, "server_error", "engine_unreachable"))


def broken_stream_event() -> bytes:
    """The event that ends a stream whose engine died; the openai client raises APIError for it."""
    message = "The engine stopped in the middle of this answer. The answer is not complete."
    body = error_body(message, "server_error", "engine_died")
    return b"data: " + json.dumps(body).encode() + b"\n\n"
