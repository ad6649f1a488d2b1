"""Who was in an engine when it broke down: what gateways say of it, and what a run remembers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher.batch.losses import HEADER, Losses
from launcher.errors import StorageError
from tests.hostile import HOSTILE
from tests.programs.front import BEARER, chat, wait_until
from tests.programs.replicas import REPLICA_KEY, Replica, endpoint

CHAT = "/v1/chat/completions"
OWN = {"Authorization": f"Bearer {REPLICA_KEY}"}


def test_who_asked_an_engine_that_broke_down_is_told_so_and_nobody_else(sockets: Path) -> None:
    session = Replica(sockets, "--fail-on", "deadly")
    try:
        assert session.ask("POST", CHAT, OWN, chat("fine")).header(HEADER) is None
        lost = session.ask("POST", CHAT, OWN, chat("deadly"))
        assert (lost.status, lost.header(HEADER)) == (502, "1")
        session.engine.process.wait(60)  # until then its socket may still take a connection
        absent = session.ask("POST", CHAT, OWN, chat("deadly"))
        assert (absent.status, absent.header(HEADER)) == (502, None), "it never came there"
    finally:
        session.close()


def test_an_endpoint_passes_it_on(sockets: Path) -> None:
    session = Replica(sockets, "--fail-on", "deadly")
    try:
        with endpoint() as front:
            front.fleet.add("m", session.place)
            lost = front.ask("POST", CHAT, BEARER, chat("deadly", model="m"))
            assert (lost.status, lost.header(HEADER)) == (503, "1")
            again = front.ask("POST", CHAT, BEARER, chat("deadly", model="m"))
            assert (again.status, again.header(HEADER)) == (503, None), "there is no replica"
    finally:
        session.close()


def test_an_engine_whose_end_was_wanted_has_not_broken_down(sockets: Path) -> None:
    session = Replica(sockets, "--first-token-ms", "60000", quick=False)
    try:
        with ThreadPoolExecutor(1) as apart:
            going = apart.submit(session.ask, "POST", CHAT, OWN, chat())
            wait_until(lambda: session.usage.in_flight == 1)
            session.routes.ready = False  # so a session ends, and a job that is taken away
            session.engine.kill()
            answer = going.result(30)
        assert (answer.status, answer.header(HEADER)) == (502, None)
    finally:
        session.close()


def test_losses_are_of_their_line_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "losses"
    for text in HOSTILE:
        for number in range(5):
            assert Losses(path).add(text) == (number == 4), text  # another runner each time
            assert Losses(path).company(text, 256) == (256, 16, 1, 1, 1)[number]
        Losses(path).answered()
    assert Losses(path).company("another", 256) == 256
    assert not Losses(path).hopeless
    assert path.stat().st_mode & 0o77 == 0
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be kept"):
        Losses(path)
