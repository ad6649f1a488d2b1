"""A constant number of requests in flight: each is tried until it has its answer, for good or for bad.

Owns the attempts of one request and the pauses between them. What is worth waiting for is waited for; a refusal is an
answer. Keeps as many requests in memory as are in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from launcher.batch.input import Request
from launcher.batch.losses import HEADER, Losses, Turns

_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.25, 30.0
_RETRY_AFTER_MOST_S = 120.0
_CONNECT_S = 30.0
# What stands between us and the engine says these while the engine is away, and 429 passes too. Anything else from 500
# on is said of this one request: one that always takes too long (504) must not keep the run from its end.
_AWAY = frozenset({502, 503})
_BUSY = 429
_ONCE_MORE = frozenset({408, 409, 425})
_HELD_MOST_BYTES = 256 * 2**20  # of bodies in flight: lines may be long, and the job's memory is the engine's
_ANSWER_MOST_BYTES = 256 * 2**20
_QUOTE = 300
_ENDS_IT = (
    "The engine broke down each time it was asked this, at last twice with nothing else of this run in it."
)
_TOKENS_MOST = 1 << 40
# All that some reader of lines takes for the end of one.
_LINE_ENDS = (b"\n", b"\r", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)


@dataclass(frozen=True, slots=True)
class Answer:
    """The last word on a request: `body` is JSON in one line. `good` ones go into the output."""

    request: Request
    status: int
    request_id: str
    body: bytes
    good: bool
    code: str = ""
    message: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class DeniedError(Exception):
    """The key is not, or no longer, a key there: nothing is wrong with any request. The text says what was answered."""


class BrokenError(Exception):
    """The engine breaks down whatever it is asked."""


class Window:
    """Sends to `base_url` (which ends in /v1) with `key`, `size` requests at a time; `retries` as in Spec.

    `stop` set: no further request is taken, and none is tried again.
    """

    def __init__(
        self, base_url: str, key: str | None, *, size: int, retries: int, stop: asyncio.Event, losses: Losses
    ) -> None:
        self._root = base_url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._size = size
        self._retries = retries
        self._stop = stop
        self._losses, self._turns = losses, Turns()
        self._lives = asyncio.Event()
        self._room = asyncio.Event()
        self._held = 0
        self._waiting = 0
        self._http: aiohttp.ClientSession | None = None
        self.in_flight = 0
        self.slowest_s = 0.0
        self.heard = time.monotonic()  # when anything came from there, a refusal too
        self.trouble = ""  # why nothing is answered, while that is so

    async def run(self, requests: Iterator[Request], take: Callable[[Answer], None]) -> None:
        """Send all of `requests`, and give each answer to `take` as it comes; returns when all in flight are done.

        Raises DeniedError, BrokenError, and whatever `requests` and `take` raise: the others are dropped then.
        """
        async with self._client() as self._http:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._size):
                        group.create_task(self._slot(requests, take))
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None

    async def _slot(self, requests: Iterator[Request], take: Callable[[Answer], None]) -> None:
        while True:
            while self._held >= _HELD_MOST_BYTES:
                self._room.clear()
                await self._room.wait()
            if self._stop.is_set() or (request := next(requests, None)) is None:
                return
            self.in_flight += 1
            self._held += len(request.body)
            try:
                answer = await self._answer(request)
            finally:
                self.in_flight -= 1
                self._held -= len(request.body)
                self._room.set()
            if answer is None:
                return
            take(answer)

    async def _answer(self, request: Request) -> Answer | None:
        """Attempt after attempt; None when the run is being stopped."""
        broken, pauses = 0, 0
        while True:
            began = time.monotonic()
            try:
                reply = await self._in_turn(request)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self.trouble = _said(error)
                pauses += 1
                if await self._pause(_backoff(pauses), of_all=True):
                    return None
                continue
            if reply is None:
                return None
            status, headers, text = reply
            self.heard = time.monotonic()
            if status == 401:
                raise DeniedError(_message(text) or "HTTP 401")
            if 300 <= status < 400:  # a portal's login: the prompts are not for whoever it names
                raise DeniedError(f"the address sends elsewhere (HTTP {status}).")
            lost = status in _AWAY and HEADER in headers and self._losses.add(request.custom_id)
            if lost:
                return self._given_up(request, status, headers, text)
            if status == _BUSY or status in _AWAY:
                self.trouble = f"HTTP {status}: {_message(text)}"
                pauses += 1
                wait_s = _retry_after(headers) if "Retry-After" in headers else _backoff(pauses)
                if await self._pause(wait_s, of_all=status in _AWAY):
                    return None
                continue
            answer = _judged(request, status, headers, text)
            if answer is None or status >= 500 or status in _ONCE_MORE:
                broken += 1
                if broken <= self._retries:
                    if await self._pause(_backoff(broken), of_all=False):
                        return None
                    continue
            self._losses.answered()
            self.trouble, self.slowest_s = "", max(self.slowest_s, time.monotonic() - began)
            if self._waiting:  # whoever waits for the engine to come back need wait no longer
                self._lives.set()
                self._lives.clear()
            return answer or _unreadable(request, status, headers, text)

    async def _in_turn(self, request: Request) -> tuple[int, Mapping[str, str], bytes] | None:
        """One attempt, in the company that is good for it; None when the run is being stopped before."""
        company = self._losses.company(request.custom_id, self._size)
        await self._turns.enter(company)
        try:
            return None if self._stop.is_set() else await self._attempt(request)
        finally:
            self._turns.leave(company)

    def _given_up(self, request: Request, status: int, headers: Mapping[str, str], text: bytes) -> Answer:
        if self._losses.hopeless:
            raise BrokenError("The engine has broken down with each request that it was asked alone.")
        answer = _judged(request, status, headers, text) or _unreadable(request, status, headers, text)
        return dataclasses.replace(answer, code="engine_lost", message=_ENDS_IT)

    async def _attempt(self, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        assert self._http is not None
        url, text = self._root + request.url, bytearray()
        async with self._http.post(url, data=request.body, allow_redirects=False) as response:
            async for piece in response.content.iter_any():
                text += piece
                if len(text) > _ANSWER_MOST_BYTES:
                    return response.status, response.headers, b"It is too long."
            return response.status, response.headers, bytes(text)

    async def _pause(self, seconds: float, *, of_all: bool) -> bool:
        """Wait, or until another request of all that wait was answered; whether the run is being stopped."""
        waits = [asyncio.ensure_future(self._stop.wait())]
        if of_all:
            waits.append(asyncio.ensure_future(self._lives.wait()))
            self._waiting += 1
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if of_all:
                self._waiting -= 1
            for wait in waits:
                wait.cancel()
        return self._stop.is_set()

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[aiohttp.ClientSession]:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_kept_alive, ttl_dns_cache=60)
        # No limit on an answer's time: a long one is not a lost one. A lost node is noticed by the sockets' own probes.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=headers, auto_decompress=True, trust_env=False
        ) as http:
            yield http


def _judged(request: Request, status: int, headers: Mapping[str, str], text: bytes) -> Answer | None:
    """The answer that came; None where it is none that can be read."""
    line = text.strip()
    try:
        body = _JSON.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    if any(end in line for end in _LINE_ENDS):
        line = json.dumps(body).encode()
    request_id = headers.get("X-Request-Id", "")[:200]
    if 200 <= status < 300:
        prompt, completion = usage(body)
        return Answer(
            request, status, request_id, line, True, prompt_tokens=prompt, completion_tokens=completion
        )
    code, message = _error(body)
    return Answer(
        request, status, request_id, line, False, code or f"http_{status}", message or f"HTTP {status}"
    )


def _unreadable(request: Request, status: int, headers: Mapping[str, str], text: bytes) -> Answer:
    message = f"The answer (HTTP {status}) is not JSON."
    body = json.dumps(text[:_QUOTE].decode("utf-8", "replace")).encode()
    return Answer(
        request, status, headers.get("X-Request-Id", "")[:200], body, False, "unreadable_answer", message
    )


def usage(body: object) -> tuple[int, int]:
    """The tokens of prompt and answer that an answer names."""
    used = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(used, dict):
        return 0, 0

    def count(*names: str) -> int:
        found: Any = next((used[name] for name in names if name in used), 0)
        return found if type(found) is int and 0 <= found < _TOKENS_MOST else 0

    return count("prompt_tokens", "input_tokens"), count("completion_tokens", "output_tokens")


def _error(body: object) -> tuple[str, str]:
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", str(error)[:_QUOTE]
    # vLLM repeats the status there.
    code = next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), "")
    return str(code)[:80], str(error.get("message") or error.get("detail") or "")[:_QUOTE]


def _message(text: bytes) -> str:
    try:
        return _error(json.loads(text))[1]
    except (ValueError, RecursionError):
        return text[:_QUOTE].decode("utf-8", "replace")


def _said(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        known = (
            error.os_error.errno
        )  # of asyncio, whose own words name the address again; below 0 a resolver's
        why = os.strerror(known) if known is not None and known > 0 else error.os_error.strerror
        return f"{error.host}:{error.port} does not answer: {why or error}."
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _backoff(times: int) -> float:
    longest: float = min(_MOST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(times - 1, 10))
    return longest * random.uniform(0.5, 1.0)


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        seconds = float(headers["Retry-After"])
    except ValueError:  # a date
        return _FIRST_PAUSE_S * 4
    # All that were refused together would come back together.
    return (
        min(max(seconds, 0.1), _RETRY_AFTER_MOST_S) * random.uniform(1.0, 1.25) if seconds == seconds else 1.0
    )


def _kept_alive(address: Any) -> socket.socket:
    """A socket whose peer is asked now and then whether it is still there."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
