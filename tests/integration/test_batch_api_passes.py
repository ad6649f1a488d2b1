"""Keys of runs: worth what the key of whoever made the batch is worth now, and never more."""

from __future__ import annotations

from pathlib import Path

from launcher.batch.passes import Passes
from launcher.fleet import issued
from launcher.fleet.keys import StoredKeys
from launcher.fleet.store import Store
from tests.programs.front import wait_until


def test_a_runs_key_follows_the_key_of_its_batch(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'endpoint.db'}")
    try:
        _, own = issued.new(store, "night", owner="alice", lifetime_s=3600.0, requests_per_minute=7)
        keys = StoredKeys(store, {"few": ["alice"]})
        passes = Passes(keys)
        secret = passes.open("night", "alice")
        holder = passes.holder(secret)
        assert holder is not None
        assert holder is passes.holder(own)  # the limits are of both together
        assert (holder.owner, holder.groups) == ("alice", frozenset({"few"}))
        assert passes.login(secret) is None
        assert passes.holder(secret + "x") is None

        issued.revoke(store, "night", force=True)
        keys.refresh()
        wait_until(lambda: passes.whose("night", "alice") is None)
        waits = passes.holder(secret)
        assert waits is not None
        assert waits.groups == frozenset({"few"})  # no line is told that it may not
        assert waits.budget is not None
        assert waits.budget.admit() > 0  # but none goes on
        assert passes.holder(own) is None

        issued.new(store, "night", owner="bob", lifetime_s=3600.0)
        keys.refresh()
        wait_until(lambda: passes.named("night") is not None)
        assert passes.whose("night", "alice") is None  # the name is another's now
        still = passes.holder(secret)
        assert still is not None
        assert still.owner == "alice"
        passes.close(secret)
        assert passes.holder(secret) is None
    finally:
        keys.close()
        store.close()
