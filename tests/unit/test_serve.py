"""What a session in use outlives: weights that vanish while they are hashed, a page that cannot be started."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from launcher.gateway.routes import Routes
from launcher.serve.page import keep_page
from launcher.serve.readiness import is_sign_of_life
from launcher.serve.record import weights


def test_a_file_that_vanishes_while_others_are_hashed_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a", "b", "below/c"):
        (tmp_path / name).write_text(name)

    class Clearing(threading.Event):  # asked while "a" is read
        def is_set(self) -> bool:
            (tmp_path / "b").unlink(missing_ok=True)
            return super().is_set()

    found = weights(tmp_path, Clearing())
    assert [entry["name"] for entry in found] == ["a", "below/c"]
    assert all(entry["sha256"] for entry in found)


def test_the_hubs_name_for_a_file_is_believed_and_the_shared_stores_is_not(tmp_path: Path) -> None:
    """Models may share a store of files, which are named there by another hash of the same length."""
    store, blobs, snapshot = tmp_path / "store", tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    for folder in (store, blobs, snapshot):
        folder.mkdir(parents=True)
    (store / ("b" * 64)).write_text("weights")
    (blobs / ("a" * 64)).symlink_to(store / ("b" * 64))
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs") / ("a" * 64))
    (found,) = weights(snapshot, threading.Event())
    assert found == {"name": "model.safetensors", "bytes": 7, "sha256": "a" * 64}


def test_a_page_that_cannot_be_started_is_logged_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    routes = Routes(probe_nonce="")
    gone = tmp_path / "gone"  # the page is to run in there
    asyncio.run(keep_page(tmp_path, "http://127.0.0.1:9", gone, tmp_path / "page.log", routes))
    assert (routes.page, routes.page_starting) == (None, False)
    assert "the page cannot be started" in caplog.text


def test_an_engine_with_too_much_to_do_is_not_ill() -> None:
    assert is_sign_of_life(None)
    assert is_sign_of_life("HTTP 429")
    for why in ("HTTP 503", "HTTP 500", "HTTP 401", "no answer within 60 s", "the answer is empty"):
        assert not is_sign_of_life(why)
