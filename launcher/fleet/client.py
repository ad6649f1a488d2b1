"""The other side of the endpoint: what commands and scripts ask it over HTTP, and the words for troubles."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from launcher.errors import EngineError, LauncherError, RequestError, SessionError

if TYPE_CHECKING:
    from openai import OpenAI

    from launcher.settings.schema import Settings

_TIMEOUT_S, _ANSWER_TIMEOUT_S = 30.0, 3600.0
_HOLD_S = 60.0
_KEPT_S = 60.0  # so long a script uses its key without looking whether it was renewed
_LINE_BYTES = 16 * 2**20
_STARTING, _STARTABLE = "model_starting", "startable"
_LATER = "The endpoint tries it again from time to time; how it is: launcher ls-endpoints"


class Client:
    """Asks the endpoint whose base URL is `url` (it ends in /v1) with `key`. No proxy is used: it is on the site."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            self._port = parts.port
        except ValueError:
            parts, self._port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or not self.url.isprintable():
            raise RequestError(
                f'"{url[:200]}" is not the address of an endpoint.', "Write it as http://HOST:PORT/v1."
            )
        self._secure, self._host = parts.scheme == "https", parts.hostname
        self._base = parts.path.removesuffix("/v1")
        self._key = key

    def get(self, path: str) -> Any:
        """The JSON at `path`, such as /v1/models or /whoami."""
        with self._asked("GET", path, None, {}, _TIMEOUT_S) as answer:
            return _json(answer.read())

    def chat(
        self,
        body: Mapping[str, Any],
        *,
        wait: bool = True,
        tell: Callable[[str], object] = lambda text: None,
    ) -> Iterator[str]:
        """The pieces of a chat answer to `body`; with `stream` in it they come as they are made.

        A cold model is waited for unless `wait` is false; `tell` gets each new sentence about its start. SessionError
        where it cannot be started now.
        """
        headers: dict[str, str] = {}  # at first one wants to know whether it must be started
        while True:
            begun = time.monotonic()
            try:
                with self._asked("POST", "/v1/chat/completions", body, headers, _ANSWER_TIMEOUT_S) as answer:
                    yield from _streamed(answer) if body.get("stream") else _whole(answer)
                    return
            except _StartingError as error:
                if not wait:
                    raise SessionError(error.message, error.hint) from None
                soon = time.monotonic() - begun < _HOLD_S / 2
                if (
                    headers and soon and not error.begun
                ):  # its start failed, and is not tried again for a while
                    raise SessionError(error.message, _LATER) from None
                if error.begun:
                    tell(error.message)
                if headers and soon:  # it does not let us wait there
                    time.sleep(error.retry_s)
            headers = {"X-Launcher-Hold": f"{_HOLD_S:g}"}

    @contextlib.contextmanager
    def _asked(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        more: dict[str, Any] = {}
        if self._secure:
            kind, more = http.client.HTTPSConnection, {"context": ssl.create_default_context()}
        connection = kind(self._host, self._port, timeout=timeout_s, **more)
        sent = {"Authorization": f"Bearer {self._key}", **headers}
        data = None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            with contextlib.closing(connection):
                connection.request(method, self._base + path, data, sent)
                with connection.getresponse() as answer:
                    if answer.status >= 300:
                        raise _trouble(answer, self.url)
                    yield answer
        except ssl.SSLError as error:
            raise SessionError(
                f"{self.url} cannot be trusted: {error.reason}.", "Ask whoever runs the endpoint."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SessionError(
                f"{self.url} does not answer: {why}.", "See: launcher gateway status"
            ) from error


def openai_client(settings: Settings | None = None, **more: Any) -> OpenAI:
    """A ready `openai.OpenAI` for the endpoint: yours, or the one that `launcher auth login --url` was told.

    The key is looked up at each request, so that a long script goes on when it was renewed. `more` goes to OpenAI.
    Raises LauncherError where openai is not installed, SessionError where no gateway runs.
    """
    from launcher.fleet.ticket import address, token

    try:
        from openai import DefaultHttpxClient, OpenAI
    except ImportError as error:
        raise LauncherError(
            "The package openai is not installed.", "Install it: pip install openai"
        ) from error
    if settings is None:
        from launcher.settings.layers import load

        settings = load()
    known = settings
    kept = _Kept(lambda: token(known).key)
    # A cluster's http_proxy is for the world outside, and would be given the key.
    more.setdefault("http_client", DefaultHttpxClient(trust_env=False))
    return OpenAI(base_url=address(settings, token(settings)), api_key=kept.key, **more)


class _Kept:
    """A key that is asked for anew, though not at each request."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask, self._key, self._until = ask, "", 0.0

    def key(self) -> str:
        now = time.monotonic()
        if now >= self._until:
            self._key, self._until = self._ask(), now + _KEPT_S
        return self._key


class _StartingError(Exception):
    """The model is not there yet; come again after `retry_s`. `begun`: its start is under way."""

    def __init__(self, message: str, hint: str | None, retry_s: float, *, begun: bool) -> None:
        super().__init__(message)
        self.message, self.hint, self.retry_s, self.begun = message, hint, retry_s, begun


def _trouble(answer: http.client.HTTPResponse, url: str) -> Exception:
    error = _error(answer.read(65536))
    message = str(error.get("message") or f"HTTP {answer.status} {answer.reason}")[:500]
    again = answer.headers.get("Retry-After", "")
    retry_s = min(float(again), 60.0) if again.isdecimal() else 5.0
    match answer.status:
        case 401:
            return RequestError(
                f"{url} does not take this key.",
                "A new one of your own: launcher auth login --force; for somebody else's endpoint ask them.",
            )
        case 403 | 404 if error.get("code") in ("model_not_allowed", "model_not_found"):
            return RequestError(message, "See: launcher ls-endpoints")
        case 429:
            return RequestError(message, None, "rate-limit")
        case 503 if error.get("code") == _STARTING:
            begun = error.get("state") != _STARTABLE
            return _StartingError(message, f"Ask again in {retry_s:g} s.", retry_s, begun=begun)
        case 503 if again:
            return SessionError(message, f"Ask again in {retry_s:g} s.")
        case status if status >= 500:
            return EngineError(message)
        case _:
            return RequestError(message)


def _error(data: bytes) -> dict[str, Any]:
    found = _json(data, {})
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else {}


def _json(data: bytes, otherwise: Any = None) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        if otherwise is not None:
            return otherwise
        raise SessionError("The answer is no JSON.", "Is that the address of an endpoint?") from None


def _whole(answer: http.client.HTTPResponse) -> Iterator[str]:
    try:
        yield str(_json(answer.read())["choices"][0]["message"]["content"] or "")
    except (LookupError, TypeError):
        raise EngineError("The model's answer has no text.") from None


def _streamed(answer: http.client.HTTPResponse) -> Iterator[str]:
    while line := answer.readline(_LINE_BYTES):
        name, _, data = line.strip().partition(b":")
        if name != b"data":
            continue
        if data.strip() == b"[DONE]":
            return
        event = _json(data)
        if isinstance(event, dict) and "error" in event:
            raise EngineError(str(_error(data).get("message") or "The answer broke off.")[:500])
        for choice in event.get("choices", ()) if isinstance(event, dict) else ():
            if isinstance(text := (choice.get("delta") or {}).get("content"), str):
                yield text
    raise EngineError("The answer broke off.", "It is not complete.")
