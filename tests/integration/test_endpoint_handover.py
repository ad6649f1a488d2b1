"""What the endpoint asks of the sessions themselves: whether they are empty, and that they stay awake."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.errors import SchedulerError
from launcher.fleet import handover
from launcher.fleet.handover import Handover
from launcher.fleet.replicas import Member
from launcher.fleet.sight import Sighted
from launcher.fleet.store import Replica
from launcher.gateway.proof import CHALLENGE, PROOF, proof
from launcher.gateway.upstream import Upstreams
from launcher.sessions.connection import Connection
from launcher.sessions.status import READY, Idle, Status


class Far:
    """A session as its gateway tells of it; `asked` are the requests that came with its key."""

    id = "sim-1"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.in_flight = 0
        self.stops = 0
        self.refuses = False
        told = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                shown = proof(hashlib.sha256(b"key").digest(), self.headers.get(CHALLENGE, ""))
                if shown is None:
                    assert self.headers["Authorization"] == "Bearer key"
                    told.asked.append(f"{self.command} {self.path}")
                said = json.dumps({"usage": {"in_flight": told.in_flight, "websockets": 0}}).encode()
                self.send_response(200)
                if shown is not None:
                    self.send_header(PROOF, shown)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self, *, wait: bool, reason: str, words: str) -> None:
        assert not wait
        self.told = (reason, words)
        if self.refuses:
            raise SchedulerError("The controller is away.")
        self.stops += 1

    def member(self, state: str, idle: Idle | None = None) -> Member:
        row = Replica("sim", 0, "here", 0.0, 0.0, state, "", self.id, "local", "cpu", None)
        place = ("127.0.0.1", int(self.server.server_address[1]))
        connection = Connection(self.id, *place, "", None, "sim", "key", proves=True)
        session: Any = SimpleNamespace(id=self.id, stop=self.stop)
        return Member(row, Sighted(session, Status(self.id, READY, 0.0, "", idle=idle), connection, place))


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


def test_what_has_left_is_ended_when_it_is_empty_and_again_where_that_failed(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_HEARD_S", 0.0)
    monkeypatch.setattr(handover, "_TROUBLE_S", 0.0)

    async def told() -> None:
        one = Handover(Upstreams())
        leaving = far.member("LEAVING")
        one.known([leaving])
        far.in_flight = 1
        await one.stop(leaving, "over")
        assert far.stops == 0
        far.in_flight, far.refuses = 0, True
        await one.stop(leaving, "over")
        far.refuses = False
        await one.stop(leaving, "over")
        assert far.stops == 1
        await one.stop(leaving, "over")
        assert far.stops == 1, "it is ending"
        monkeypatch.setattr(handover, "_AGAIN_S", 0.0)
        await one.stop(leaving, "over")
        assert far.stops == 2, "the scheduler may have lost the word"
        assert far.told == ("endpoint", "Its endpoint has ended it: over.")
        await one.stop(leaving, "over", "sim-2")
        assert far.told == ("handed-over", "It was handed over to session sim-2.")
        one.close()

    asyncio.run(told())


def test_what_shall_stay_is_told_so_when_half_of_its_idle_time_is_over(far: Far) -> None:
    async def told() -> None:
        one, now = Handover(Upstreams()), time.time()
        await one.keep_awake(far.member("PLANNED"))
        await one.keep_awake(far.member("PLANNED", Idle(1000.0, now - 100, now + 900)))
        assert far.asked == []
        tired = far.member("PLANNED", Idle(1000.0, now - 600, now + 400))
        await one.keep_awake(tired)
        await one.keep_awake(tired)
        assert far.asked == ["POST /keep-alive"]
        one.close()

    asyncio.run(told())
