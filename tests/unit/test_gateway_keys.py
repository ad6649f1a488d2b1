"""Keys, further keys as their file changes, cookies and the price of guessing."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from launcher.gateway.keys import (
    Holder,
    Keys,
    Throttle,
    cookie_name,
    cookie_values,
    without_our_cookies,
)
from launcher.sessions import keys as files
from launcher.sessions.paths import SessionPaths
from tests.programs.front import wait_until

OWN = "sk-" + "5a" * 32


@pytest.mark.parametrize(
    "candidate", ["", "sk-", "sk-right ", "SK-RIGHT", "sk-righ", "sk-rightx", "ключ", "\udcff"]
)
def test_only_the_key_is_accepted(candidate: str) -> None:
    keys = Keys("sk-right")
    assert keys.holder("sk-right") is not None
    assert keys.holder(candidate) is None
    assert keys.login(candidate) is None


def test_cookies_are_random_and_can_be_forgotten() -> None:
    keys = Keys("sk-right")
    first, second = keys.login("sk-right"), keys.login("sk-right")
    assert first is not None
    assert second is not None
    assert first != second
    keys.forget(first)
    assert keys.cookie(first) is None
    assert keys.cookie(second) is not None
    assert keys.cookie("sk-right") is None


def test_the_number_of_cookies_is_bounded() -> None:
    keys = Keys("k")
    cookies = [keys.login("k") or "" for _ in range(5000)]
    assert keys.cookie(cookies[0]) is None
    assert keys.cookie(cookies[-1]) is not None


def test_guesses_get_slower_and_are_forgiven_with_time() -> None:
    now = 0.0
    throttle = Throttle(clock=lambda: now)
    assert [throttle.next_delay_s() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    now = 1000.0
    assert throttle.next_delay_s() == 0.5


def test_cookie_headers() -> None:
    assert cookie_name("tiny chat-é/3f") == "launcher_tiny_chat___3f"
    assert cookie_values("a=1; launcher_x=2;launcher_x=3==; launcher_xy=4", "launcher_x") == ["2", "3=="]
    assert without_our_cookies(' a="1;launcher_x=2; b ; launcher_y=3') == 'a="1; b'
    assert without_our_cookies("launcher_x=2") == ""


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    return SessionPaths(tmp_path)


@pytest.fixture
def keys(paths: SessionPaths) -> Keys:
    return Keys(OWN, paths.further_keys)


def made(keys: Keys, paths: SessionPaths, name: str, **limits: int) -> tuple[str, Holder]:
    """A new key's secret and holder, as the gateway knows it a second later."""
    _, secret = files.new(paths, name, **limits)
    keys.refresh()
    holder = keys.holder(secret)
    assert holder is not None
    return secret, holder


def test_the_sessions_own_key_has_neither_limits_nor_an_end(keys: Keys) -> None:
    holder = keys.holder(OWN)
    assert holder is not None
    assert (holder.name, holder.own, holder.budget, holder.expires_at) == ("session", True, None, None)
    assert holder.valid


def test_a_key_that_was_made_just_now_opens_before_the_next_look_at_the_file(
    paths: SessionPaths, keys: Keys
) -> None:
    """Who has made a key tries it at once; for wrong ones the file is opened twice a second at most."""
    _, secret = files.new(paths, "alice")
    wait_until(lambda: keys.holder(secret))
    files.revoke(paths, "alice")
    assert keys.holder(secret) is not None  # a known key costs no look at the file


def test_a_further_key_is_known_by_the_next_refresh_and_so_is_its_end(
    keys: Keys, paths: SessionPaths
) -> None:
    _, secret = files.new(paths, "alice")
    keys.refresh()
    alice = keys.holder(secret)
    assert alice is not None
    assert (alice.name, alice.own, alice.budget) == ("alice", False, None)
    other, bob = made(keys, paths, "bob")
    assert keys.holder(secret) is alice, "a change elsewhere in the file leaves a holder as it is"
    files.revoke(paths, "alice")
    keys.refresh()
    assert keys.holder(secret) is None
    assert alice.revoked
    assert not alice.valid
    assert keys.holder(other) is bob
    assert keys.holder(OWN) is not None


def test_a_key_of_the_same_name_made_again_is_another(keys: Keys, paths: SessionPaths) -> None:
    first, alice = made(keys, paths, "alice")
    files.revoke(paths, "alice")
    second, again = made(keys, paths, "alice")
    assert again is not alice
    assert not alice.valid
    assert keys.holder(first) is None
    assert keys.holder(second) is not None


def test_a_budget_outlives_changes_of_the_file(keys: Keys, paths: SessionPaths) -> None:
    secret, alice = made(keys, paths, "alice", requests_per_minute=1)
    assert alice.budget is not None
    assert alice.budget.admit() == 0.0
    made(keys, paths, "bob")
    again = keys.holder(secret)
    assert again is not None
    assert again.budget is alice.budget
    assert alice.budget.admit() > 0.0


def test_a_key_that_expires_is_refused_without_any_change_of_the_file(
    keys: Keys, paths: SessionPaths
) -> None:
    secret, alice = made(keys, paths, "alice", lifetime_s=3600)
    cookie = keys.login(secret)
    assert cookie is not None
    assert keys.cookie(cookie) is alice
    alice.expires_at = 1.0  # an hour has passed
    assert keys.holder(secret) is None
    assert keys.cookie(cookie) is None
    assert keys.cookie(cookie) is None
    assert keys.login(secret) is None


def test_a_key_that_is_renewed_is_whose_it_was(keys: Keys, paths: SessionPaths) -> None:
    """A running answer and a login go on; one that had expired opens again."""
    secret, alice = made(keys, paths, "alice", lifetime_s=60)
    cookie = keys.login(secret)
    assert cookie is not None
    files.renew(paths, "alice", 3600)
    keys.refresh()
    assert alice.valid
    assert keys.cookie(cookie) is keys.holder(secret) is alice
    assert alice.expires_at == files.read(paths.further_keys)[0].expires_at
    alice.expires_at = 1.0  # an hour has passed
    assert keys.holder(secret) is None
    files.renew(paths, "alice", 3600)
    keys.refresh()
    assert keys.holder(secret) is alice


def test_what_has_expired_before_the_session_starts_opens_nothing(paths: SessionPaths) -> None:
    _, secret = files.new(paths, "alice", lifetime_s=-1)
    assert Keys(OWN, paths.further_keys).holder(secret) is None


def test_a_login_dies_with_its_key(keys: Keys, paths: SessionPaths) -> None:
    secret, alice = made(keys, paths, "alice")
    cookie, own = keys.login(secret), keys.login(OWN)
    assert cookie is not None
    assert own is not None
    assert keys.cookie(cookie) is alice
    files.revoke(paths, "alice")
    keys.refresh()
    assert keys.cookie(cookie) is None
    assert keys.cookie(own) is not None


@pytest.mark.parametrize("limits", [{"requests_per_minute": 60}, {"tokens_per_minute": 1000}])
def test_a_key_with_limits_opens_the_api_and_no_page(
    limits: dict[str, int], keys: Keys, paths: SessionPaths
) -> None:
    secret, holder = made(keys, paths, "course", **limits)
    assert holder.budget is not None
    assert keys.holder(secret) is not None
    assert keys.login(secret) is None


def test_logins_with_a_further_key_do_not_end_those_of_the_sessions_own(
    keys: Keys, paths: SessionPaths
) -> None:
    own = keys.login(OWN)
    secret, _ = made(keys, paths, "alice")
    cookies = [keys.login(secret) for _ in range(5000)]
    assert own is not None
    assert keys.cookie(own) is not None
    assert keys.cookie(cookies[-65] or "") is None
    assert keys.cookie(cookies[-64] or "") is not None


@pytest.mark.parametrize("spoil", ["broken", "writable", "gone"])
def test_a_file_that_cannot_be_believed_opens_nothing_and_is_told_once(
    spoil: str, keys: Keys, paths: SessionPaths, caplog: pytest.LogCaptureFixture
) -> None:
    secret, alice = made(keys, paths, "alice")
    before = paths.further_keys.read_bytes()
    if spoil == "broken":
        paths.further_keys.write_text("{")
    elif spoil == "writable":
        paths.further_keys.chmod(0o666)
    else:
        paths.further_keys.unlink()
    for _ in range(3):
        keys.refresh()
    assert keys.holder(secret) is None
    assert alice.revoked
    assert keys.holder(OWN) is not None
    assert len(caplog.records) == (0 if spoil == "gone" else 1)
    paths.further_keys.write_bytes(before)
    paths.further_keys.chmod(0o600)
    keys.refresh()
    assert keys.holder(secret) is not None
    assert alice.revoked, "who was turned away comes in as a new holder"


def test_an_entry_cannot_pass_for_the_sessions_own_key(keys: Keys, paths: SessionPaths) -> None:
    entry = {"name": "me", "digest": files.digest(OWN), "created_at": 1.0, "requests_per_minute": 1}
    paths.further_keys.write_text(json.dumps({"schema": 1, "keys": [entry]}))
    paths.further_keys.chmod(0o600)
    keys.refresh()
    holder = keys.holder(OWN)
    assert holder is not None
    assert holder.own


def test_too_many_open_files_do_not_revoke_anybody(
    keys: Keys, paths: SessionPaths, caplog: pytest.LogCaptureFixture
) -> None:
    secret, alice = made(keys, paths, "alice")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        keys.refresh()
        keys.refresh()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert keys.holder(secret) is alice
    assert len(caplog.records) == 1
    files.revoke(paths, "alice")
    keys.refresh()
    assert keys.holder(secret) is None


@pytest.mark.parametrize("candidate", ["", "sk-", "session", "alice", "\udcff", "5a" * 32, files.digest(OWN)])
def test_neither_names_nor_hashes_open_anything(candidate: str, keys: Keys, paths: SessionPaths) -> None:
    made(keys, paths, "alice")
    assert keys.holder(candidate) is None
    assert keys.holder(files.read(paths.further_keys)[0].digest) is None
