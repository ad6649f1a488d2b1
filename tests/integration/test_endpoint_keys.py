"""Named keys of the endpoint: valid until, rotated, revoked, for whom and for what; on a file and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.errors import RequestError, StorageError
from launcher.fleet import issued, tables
from launcher.fleet.access import Access
from launcher.fleet.keys import StoredKeys
from launcher.fleet.seen import ModelSeen
from launcher.fleet.store import Store
from launcher.gateway.keys import Holder, KeyRing
from tests.hostile import HOSTILE
from tests.programs.front import wait_until
from tests.programs.postgres import Postgres

Ring = Callable[..., StoredKeys]


@pytest.fixture
def ring(url: str) -> Iterator[Ring]:
    """Makes what a gateway has of the keys; each has its own connection, as another process would."""
    with contextlib.ExitStack() as stack:

        def made(**more: object) -> StoredKeys:
            own = stack.enter_context(contextlib.closing(Store(url)))
            return stack.enter_context(contextlib.closing(StoredKeys(own, **more)))  # type: ignore[arg-type]

        yield made


def asked(keys: KeyRing, secret: str) -> Holder | None:
    """Whose key it is for a request that comes with it: one that is not known is looked up."""
    if keys.holder(secret) is None:
        asyncio.run(keys.anew())
    return keys.holder(secret)


def change(store: Store, **values: float) -> None:
    """What time does to all keys."""
    with store.writing() as connection:
        connection.execute(tables.keys.update().values(**values))


def new(store: Store, name: str = "alice", **more: object) -> str:
    wanted = {"owner": name, "lifetime_s": 3600.0, **more}
    return issued.new(store, name, **wanted)[1]  # type: ignore[arg-type]


def test_a_key_opens_from_its_making_until_its_end(store: Store, ring: Ring) -> None:
    """FIRST 10: a key has an end, and is refused from then on."""
    keys: KeyRing = ring()
    secret = new(store, owner="al@site.edu")
    holder = asked(keys, secret)
    assert holder is not None
    assert (holder.name, holder.owner, holder.own, holder.budget) == ("alice", "al@site.edu", False, None)
    assert asked(keys, secret[:-1]) is None
    assert asked(keys, secret + "0") is None
    assert keys.named("alice") is holder
    cookie = keys.login(secret)
    assert cookie is not None
    change(store, expires_at=time.time() + 0.1)
    asyncio.run(keys.anew())
    wait_until(lambda: keys.holder(secret) is None)
    assert keys.cookie(cookie) is None
    assert keys.named("alice") is None


def test_only_a_hash_is_kept(tmp_path: Path, store: Store) -> None:
    secret = new(store)
    store.close()
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert secret.encode() not in path.read_bytes()
        assert secret.removeprefix("sk-").encode() not in path.read_bytes()


def test_a_rotated_key_opens_with_its_new_secret_and_with_the_old_one_for_a_while(
    store: Store, ring: Ring
) -> None:
    """FIRST 10: rotate; scripts that still run have time to take the new key."""
    keys = ring()
    first = new(store, requests_per_minute=5)
    holder = asked(keys, first)
    cookie = keys.login(first) or ""
    assert holder is not None
    (known, second) = issued.rotate(store, "alice", grace_s=600.0)
    assert asked(keys, second) is holder  # the same, also for what is used of its limits
    assert keys.holder(first) is holder
    assert keys.cookie(cookie) is holder
    assert known.left_s is not None
    assert 3500 < known.left_s <= 3600
    change(store, former_until=time.time() + 0.1)
    asyncio.run(keys.anew())
    wait_until(lambda: keys.holder(first) is None)
    assert keys.cookie(cookie) is None
    assert keys.holder(second) is holder


def test_a_rotation_without_time_ends_the_old_secret_at_once(store: Store, ring: Ring) -> None:
    keys = ring()
    first = new(store)
    assert asked(keys, first) is not None
    cookie = keys.login(first) or ""
    (_, second) = issued.rotate(store, "alice")
    assert asked(keys, second) is not None
    assert keys.holder(first) is None
    assert keys.cookie(cookie) is None


def test_a_revoked_key_is_refused_and_its_logins_end(store: Store, ring: Ring) -> None:
    """FIRST 10: revoke."""
    keys = ring()
    secret = new(store)
    holder = asked(keys, secret)
    cookie = keys.login(secret) or ""
    issued.revoke(store, "alice")
    keys.refresh()
    wait_until(lambda: keys.holder(secret) is None)
    assert keys.cookie(cookie) is None
    assert holder is not None
    assert not holder.valid  # also for what still runs on its behalf
    again = new(store)
    assert asked(keys, again) not in (None, holder)
    assert keys.holder(secret) is None


def test_a_key_in_use_is_taken_away_only_with_force(store: Store) -> None:
    """FIRST 10: revoke asks before it breaks a running script, --force does not."""
    new(store)
    with store.writing() as connection:
        connection.execute(tables.keys.update().values(used_at=time.time() - 180))
    with pytest.raises(RequestError, match=r"used 3 min ago\.") as caught:
        issued.revoke(store, "alice")
    assert "--force" in str(caught.value.hint)
    assert issued.find(store, "alice") is not None
    issued.revoke(store, "alice", force=True)
    assert issued.find(store, "alice") is None


def test_a_name_is_given_once_and_an_expired_one_again(store: Store) -> None:
    new(store, lifetime_s=0.01)
    wait_until(lambda: (issued.find(store, "alice") or pytest.fail("gone")).key.expired)
    new(store)
    with pytest.raises(RequestError, match="already"):
        new(store)
    with pytest.raises(RequestError, match="no key") as caught:
        issued.revoke(store, "alise")
    assert "alice" in str(caught.value.hint)


@pytest.mark.parametrize("field", ["name", "owner", "groups", "models"])
def test_what_a_key_says_of_itself_is_checked(store: Store, field: str) -> None:
    for text in HOSTILE:
        if field == "models" and text.strip() and text.isprintable() and len(text) < 300:
            continue  # a model may be called what it wants
        wanted: dict[str, object] = {field: [text] if field in ("groups", "models") else text}
        with pytest.raises(RequestError):
            new(store, **{"name": "k", "owner": "k", **wanted})  # type: ignore[arg-type]
    assert issued.listed(store) == []


def test_many_keys_open_and_the_logins_of_one_are_bounded(store: Store, ring: Ring) -> None:
    secrets = [new(store, f"k{n}") for n in range(40)]
    keys = ring()
    assert all(keys.holder(secret) for secret in secrets)
    cookies = [keys.login(secrets[0]) or "" for _ in range(70)]
    assert [keys.cookie(cookie) is not None for cookie in cookies] == [False] * 6 + [True] * 64


def test_groups_come_from_the_key_and_from_the_settings(store: Store, ring: Ring) -> None:
    secret = new(store, groups=["course"])
    holder = ring(groups={"physics": ["alice", "bob"], "other": ["bob"]}).holder(secret)
    assert holder is not None
    assert holder.groups == {"course", "physics"}


def test_the_own_key_is_only_that_of_who_runs_the_gateway(store: Store, ring: Ring) -> None:
    """People may share a database: nobody's own key opens more at another's gateway than any other key."""
    mine, theirs = new(store, "mine", own=True, owner=issued.myself()), new(store, "theirs", own=True)
    keys = ring()
    assert [(holder := keys.holder(secret)) is not None and holder.own for secret in (mine, theirs)] == [
        True,
        False,
    ]


def test_keys_that_are_known_hold_while_the_database_is_gone(postgres: Postgres) -> None:
    with contextlib.closing(Store(postgres.database())) as store:
        secret = new(store)
        with contextlib.closing(StoredKeys(store)) as keys:
            postgres.kill()
            try:
                keys.refresh()
                with pytest.raises(StorageError, match="does not answer"):
                    asked(keys, "sk-wrong")
                assert keys.holder(secret) is not None
            finally:
                postgres.start()

            def known_again() -> bool:
                keys.refresh()
                return keys.named("bob") is not None

            new(store, "bob")
            wait_until(known_again)


KILLED = """
import sys
from launcher.fleet import issued, tables
from launcher.fleet.store import Store
store = Store(sys.argv[1])
for n in range(10**6):
    print(issued.new(store, f"k{n}", owner="me", lifetime_s=3600.0)[1], flush=True)
"""


def test_every_key_that_was_shown_opens_after_a_kill(url: str, ring: Ring) -> None:
    """FIRST 10: kill -9 at any moment loses no key."""
    argv = [sys.executable, "-c", KILLED, url]
    shown: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown += [process.stdout.readline().strip() for _ in range(15)]
        process.kill()
        shown += process.stdout.read().split()
    keys = ring()
    assert [secret for secret in shown if keys.holder(secret) is None] == []


def holder_of(**more: object) -> Holder:
    return Holder(**{"name": "k", "own": False, "budget": None, "expires_at": None, **more})  # type: ignore[arg-type]


OPEN, COURSE = ModelSeen("open", "ready"), ModelSeen("course", "ready", groups=frozenset({"course", "staff"}))


@pytest.mark.parametrize(
    ("holder", "sees"),
    [
        (holder_of(), ["open"]),
        (holder_of(groups=frozenset({"course"})), ["open", "course"]),
        (holder_of(groups=frozenset({"other"})), ["open"]),
        (holder_of(models=frozenset({"open"}), groups=frozenset({"staff"})), ["open"]),
        (holder_of(models=frozenset({"course"})), []),  # a list of models opens no group's
        (holder_of(models=frozenset({"course"}), groups=frozenset({"staff"})), ["course"]),
        (holder_of(models=frozenset()), []),
        (holder_of(own=True), ["open", "course"]),
    ],
)
def test_a_model_is_there_for_whom_it_is_meant(holder: Holder, sees: list[str]) -> None:
    """FIRST 13: a model that a key may not use is refused with 403."""
    access = Access({})
    assert [model.name for model in (OPEN, COURSE) if access.allowed(holder, model)] == sees
    for model in (OPEN, COURSE):
        refusal = access.refusal(holder, model)
        assert (refusal is None) is (model.name in sees)
        if refusal is not None:
            assert refusal.status == 403
            assert b"model_not_allowed" in refusal.body


def test_a_models_limit_is_of_all_keys_together(store: Store, ring: Ring) -> None:
    """FIRST 11: a model's tokens a minute; 429 says when to come again."""
    access = Access({"open": (None, 100)})
    alice, bob = holder_of(name="alice"), holder_of(name="bob")
    assert access.refusal(alice, OPEN) is None
    access.spend(alice, "open", 200)
    refusal = access.refusal(bob, OPEN)
    assert refusal is not None
    assert (refusal.status, refusal.headers["Retry-After"]) == (429, "60")
    assert b"open" in refusal.body
    assert access.refusal(bob, COURSE) is not None  # not allowed
    assert access.refusal(holder_of(own=True), COURSE) is None  # no limit of its own


def test_what_a_keys_limit_refuses_is_not_taken_from_the_models(store: Store, ring: Ring) -> None:
    """FIRST 11: a key's requests a minute."""
    access = Access({"open": (3, None)})
    secret = new(store, requests_per_minute=1)
    holder = ring().holder(secret)
    assert holder is not None
    assert access.refusal(holder, OPEN) is None
    for _ in range(5):
        refusal = access.refusal(holder, OPEN)
        assert refusal is not None
        assert b'key \\"alice\\"' in refusal.body
    assert [access.refusal(holder_of(), OPEN) is None for _ in range(3)] == [True, True, False]


def test_two_gateways_share_the_limits(store: Store, ring: Ring) -> None:
    """FIRST 11: a limit holds over all gateways of a state together."""
    secret = new(store, requests_per_minute=4)
    for name in ("a", "b"):
        store.present(name, f"http://{name}", 60.0)
    keys = ring()
    keys.refresh()
    wait_until(lambda: keys.share.gateways == 2)
    holder = keys.holder(secret)
    assert holder is not None
    access = Access({"open": (2, None)}, keys.share)
    assert [access.refusal(holder, OPEN) is None for _ in range(2)] == [True, False]
    other = ModelSeen("other", "ready")
    assert [access.refusal(holder, other) is None for _ in range(2)] == [True, False]


def test_the_file_is_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.db"
    with contextlib.closing(Store(f"sqlite:///{path}")) as store:
        new(store)
    assert path.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("select count(*) from keys").fetchone() == (1,)
    assert os.listdir(tmp_path) == ["endpoint.db"]  # nothing is left beside it once nobody has it open
