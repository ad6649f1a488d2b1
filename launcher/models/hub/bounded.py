"""How much a hub may say: every answer that is kept in memory has a bound, in bytes and in time, and no compression.

A few bytes of a compressed answer can be a thousand times as many. The bytes of files are bounded where they are
written (launcher.models.hub.transfer), because their sizes are known.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx2

from launcher.errors import ModelError

_ANSWER_MAX = 8_000_000  # the listing of ten thousand files is 3 MB
HEADER_MAX = 32_000_000  # huggingface_hub/constants.py, SAFETENSORS_MAX_HEADER_LENGTH: 25 MB
_TIME_S = 300.0
_HINT = "Check HF_ENDPOINT; do not use what it offers."
# None: whoever reads the answer knows how long it should be.
_bound: ContextVar[int | None] = ContextVar("bound", default=_ANSWER_MAX)


@contextmanager
def at_most(count: int | None) -> Iterator[None]:
    """Let answers have so many bytes; None for any number."""
    token = _bound.set(count)
    try:
        yield
    finally:
        _bound.reset(token)


def bounded(client: httpx2.Client) -> httpx2.Client:
    """The same `client`, which raises ModelError at an answer that is too long, too slow or compressed."""
    client.headers["Accept-Encoding"] = "identity"
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [*hooks.get("response", []), _bind]}
    return client


def _bind(response: httpx2.Response) -> None:
    # The answers of redirects and errors are read whole by the client, whatever was asked.
    bound = _bound.get() if response.status_code < 300 else _ANSWER_MAX
    encodings = [
        e for e in response.headers.get("Content-Encoding", "identity").split(",") if e != "identity"
    ]
    if len(encodings) > (bound is None):
        raise ModelError(f"{response.request.url.host} sends compressed answers nobody asked for.", _HINT)
    if bound is not None and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Stream(response.stream, bound, response.request.url.host)


class InMemory(io.BytesIO):
    """A file that is wanted in memory, of at most `most` bytes; more of them raises `error`."""

    def __init__(self, error: ModelError, most: int) -> None:
        super().__init__()
        self._error, self._most = error, most

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise self._error
        return super().write(data)


class _Stream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, bound: int, host: str) -> None:
        self._stream, self._bound, self._host = stream, bound, host

    def __iter__(self) -> Iterator[bytes]:
        left, until = self._bound, time.monotonic() + _TIME_S
        for piece in self._stream:
            left -= len(piece)
            if left < 0 or time.monotonic() > until:
                raise ModelError(f"The answer of {self._host} is longer than any hub's.", _HINT)
            yield piece

    def close(self) -> None:
        self._stream.close()
