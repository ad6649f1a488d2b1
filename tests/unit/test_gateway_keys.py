"""Keys, cookies and the price of guessing."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from launcher.gateway.keys import (
    Keys,
    Throttle,
    cookie_name,
    cookie_values,
    presented_key,
    without_our_cookies,
)


@pytest.mark.parametrize(
    "candidate", ["", "sk-", "sk-right ", "SK-RIGHT", "sk-righ", "sk-rightx", "ключ", "\udcff"]
)
def test_only_the_key_is_accepted(candidate: str) -> None:
    keys = Keys("sk-right")
    assert keys.accepts("sk-right")
    assert not keys.accepts(candidate)
    assert keys.login(candidate) is None


def test_cookies_are_random_and_can_be_forgotten() -> None:
    keys = Keys("sk-right")
    first, second = keys.login("sk-right"), keys.login("sk-right")
    assert first is not None
    assert second is not None
    assert first != second
    keys.forget(first)
    assert not keys.knows(first)
    assert keys.knows(second)
    assert not keys.knows("sk-right")


def test_the_number_of_cookies_is_bounded() -> None:
    keys = Keys("k")
    cookies = [keys.login("k") or "" for _ in range(5000)]
    assert not keys.knows(cookies[0])
    assert keys.knows(cookies[-1])


def test_guesses_get_slower_and_are_forgiven_with_time() -> None:
    now = 0.0
    throttle = Throttle(clock=lambda: now)
    assert [throttle.next_delay_s() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    now = 1000.0
    assert throttle.next_delay_s() == 0.5


@pytest.mark.parametrize(
    ("headers", "protocols", "key"),
    [
        ({}, (), None),
        ({"Authorization": "Bearer a b"}, (), "a b"),
        ({"Authorization": "bearer  a "}, (), "a"),
        ({"Authorization": "Basic a"}, (), None),
        ({"Authorization": "Bearer"}, (), None),
        ({"Authorization": "Bearer a", "X-Api-Key": "b"}, (), "a"),
        ({"X-Api-Key": "b"}, (), "b"),
        ({}, ("realtime", "openai-insecure-api-key.c"), "c"),
    ],
)
def test_where_a_key_is_looked_for(
    headers: dict[str, str], protocols: tuple[str, ...], key: str | None
) -> None:
    assert presented_key(CIMultiDict(headers), protocols) == key


def test_cookie_headers() -> None:
    assert cookie_name("tiny chat-é/3f") == "launcher_tiny_chat___3f"
    assert cookie_values("a=1; launcher_x=2;launcher_x=3==; launcher_xy=4", "launcher_x") == ["2", "3=="]
    assert without_our_cookies(' a="1;launcher_x=2; b ; launcher_y=3') == 'a="1; b'
    assert without_our_cookies("launcher_x=2") == ""
