"""What is read in the head of a request: the key, who asks, whether a WebSocket is wanted."""

from __future__ import annotations

import pytest

from launcher.gateway.request import Headers, Request


def request(*fields: tuple[str, str], method: bytes = b"GET") -> Request:
    headers = Headers([(name.encode(), value.encode()) for name, value in fields])
    return Request(method, b"/v1?x", "1.1", headers, True)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ((), None),
        ((("Authorization", "Bearer a b"),), "a b"),
        ((("AUTHORIZATION", "bearer  a "),), "a"),
        ((("Authorization", "Basic a"),), None),
        ((("Authorization", "Bearer"),), None),
        ((("Authorization", "Bearer a"), ("X-Api-Key", "b")), "a"),
        ((("Authorization", "Bearer a"), ("Authorization", "Bearer b")), "a"),
        ((("X-Api-Key", "b"),), "b"),
        ((("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.c"),), "c"),
        ((("Sec-WebSocket-Protocol", "x"), ("Sec-WebSocket-Protocol", "openai-insecure-api-key.d")), "d"),
    ],
)
def test_where_a_key_is_looked_for(fields: tuple[tuple[str, str], ...], key: str | None) -> None:
    assert request(*fields).presented_key() == key


def test_headers_are_found_in_any_case_and_keep_their_order() -> None:
    headers = request(("B", "1"), ("a", "2"), ("b", "3, 4")).headers
    assert headers.text(b"b") == "1"
    assert headers.all(b"b") == ["1", "3, 4"]
    assert headers.words(b"b") == ["1", "3", "4"]
    assert headers.text(b"c") == ""
    assert [name for name, _, _ in headers.fields] == [b"B", b"a", b"b"]


@pytest.mark.parametrize(
    ("method", "connection", "upgrade", "wanted"),
    [
        (b"GET", "Upgrade", "websocket", True),
        (b"GET", "keep-alive, upgrade", "WebSocket", True),
        (b"POST", "Upgrade", "websocket", False),
        (b"GET", "close", "websocket", False),
        (b"GET", "Upgrade", "h2c", False),
    ],
)
def test_who_wants_a_websocket(method: bytes, connection: str, upgrade: str, wanted: bool) -> None:
    asked = request(("Connection", connection), ("Upgrade", upgrade), method=method)
    assert asked.wants_websocket is wanted
