"""Streams of requests and answers made from HTTP's grammar, then damaged: no crash, no hang, nobody in without the key.

Bounded to a minute together. Longer: `FUZZ_SECONDS=600 pytest tests/integration/test_gateway_fuzz.py`; a search that is
led by the code it reaches is tests/programs/fuzz.py.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.programs.front import KEY, RunningGateway, wait_until
from tests.programs.recorder import Recorder, Seen, echo
from tests.programs.wire import exchange, replies, request

SECONDS = float(os.environ.get("FUZZ_SECONDS", "45"))
pytestmark = pytest.mark.timeout(int(SECONDS) + 200)

END = request("/health", key=False, extra=b"Connection: close\r\n")
_OVER = (psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT)
# What broke other servers: put in anywhere.
TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b"\x00",
    b"\x0b",
    b":",
    b";",
    b",",
    b"/",
    b"\\",
    b"\xff",
]
TOKENS += [
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"chunked",
    b"0\r\n\r\n",
]
TOKENS += [
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
]
TOKENS += [
    b"GET /n9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"ffffffffffffffff",
    b"-1",
    b"0x5",
    b"a" * 300,
]


@dataclass(frozen=True)
class Part:
    """One request; its target begins with /k when it has the key, with /n when not."""

    target: str
    method: str
    raw: bytes
    body: bytes


class Front:
    """A gateway whose upstream is another one for each example: what comes late is not taken for the next one's."""

    def __init__(self, folder: Path) -> None:
        self.gateway = RunningGateway()
        self.until = time.monotonic() + SECONDS / 3
        self._folder = folder
        self._used: list[Recorder] = []

    def fresh(self) -> Recorder:
        """An upstream that has seen nothing."""
        if self._used:
            self._used[-1].close()
        # A damaged field may hold a key where nobody looks for one, so that it goes on.
        self._used.append(Recorder(self._folder, name=f"{len(self._used)}.sock", secret=None))
        self.gateway.routes.engine = self.gateway.routes.page = self._used[-1].socket
        return self._used[-1]

    def calm(self) -> None:
        """Nothing is left running, nothing odd was passed on, and others are served."""
        wait_until(lambda: self.gateway.usage.in_flight == 0 and not self._connected())
        assert self.gateway.ask("GET", "/health", key=False).status == 200
        assert [fault for upstream in self._used for fault in upstream.faults] == []

    def _connected(self) -> list[object]:
        """The gateway's ends of connections: it may still be reading what a client left behind."""
        found = psutil.Process().net_connections("tcp4")
        return [one for one in found if one.laddr[1] == self.gateway.port and one.status not in _OVER]

    def close(self) -> None:
        self.gateway.close()
        if self._used:
            self._used[-1].close()


def limits() -> settings:
    """As many examples as the time allows at some 15 ms each; the same ones every time where nobody watches."""
    examples = round(SECONDS * 7)
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize="CI" in os.environ,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
def front() -> Iterator[Front]:
    with tempfile.TemporaryDirectory(prefix="iod") as folder:
        front = Front(Path(folder))
        yield front
        front.close()


def over(front: Front) -> bool:
    """Whether the time is up; what follows is then passed without being looked at."""
    return time.monotonic() > front.until


@st.composite
def parts(draw: st.DrawFn, number: int) -> Part:
    """A correct request: any method, framing and fields."""
    key = draw(st.booleans())
    target = f"/{'k' if key else 'n'}{number}" + draw(st.sampled_from(["", "?a=b", "/x;y", "/%41%2f", "//z"]))
    body = draw(
        st.none()
        | st.binary(max_size=50)
        | st.sampled_from(
            [b"x" * 5000, request("/n-body", key=False), b"0\r\n\r\n", b"\r\n\r\n", b'{"a": 1}']
        )
    )
    method = draw(
        st.sampled_from(["GET", "HEAD", "DELETE"] if body is None else ["POST", "PUT", "PATCH", "GET"])
    )
    names = st.sampled_from(
        ["X-A", "x-b", "Accept", "Cookie", "Via", "X-Forwarded-For", "Referer", "TE", "!#$%"]
    )
    values = st.sampled_from(
        ["", "1", "a b", "text/html", "trailers", "http://x/node/a/1/", "é", '"q;w,e"', "a=b; c"]
    )
    fields = draw(st.lists(st.tuples(names, values), max_size=5))
    extra = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields)
    if body is not None and draw(st.booleans()):
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        cut = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in cut if piece) + b"0\r\n\r\n"
        head = request(target, key=key, method=method, extra=extra + b"Transfer-Encoding: chunked\r\n")
        return Part(target, method, head + chunks, body)
    return Part(target, method, request(target, key=key, method=method, body=body, extra=extra), body or b"")


@st.composite
def conversations(draw: st.DrawFn) -> list[Part]:
    return [draw(parts(number)) for number in range(draw(st.integers(1, 6)))]


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces, as a network may deliver them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A few bytes taken out, put in, changed or said twice; the keys stay, since a wrong one would wait for seconds."""
    for _ in range(draw(st.integers(1, 4))):
        before = data
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0:
                data = data[:at] + data[at + draw(st.integers(1, 20)) :]
            case 1:
                data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
            case 2:
                data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at:]
            case 3:
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
            case _:
                data = data[:at] + data[max(0, at - draw(st.integers(1, 40))) :]
        if data.count(KEY.encode()) != before.count(KEY.encode()) or re.search(rb"sk-[^5]|[^ ]sk-", data):
            data = before
    return data


@given(data=st.data())
@limits()
def test_correct_requests_mean_the_same_however_they_are_cut(front: Front, data: st.DataObject) -> None:
    asked = data.draw(conversations())
    pieces = data.draw(split(b"".join(part.raw for part in asked) + END))
    if over(front):
        return
    upstream = front.fresh()
    received = exchange(front.gateway.port, pieces, silence_s=5.0)[0]
    found = replies(received, [*(part.method for part in asked), "GET"])
    answered = asked[: len(found)]
    # After a refusal the gateway may close, but an answer is never left out.
    assert len(found) == len(asked) + 1 or answered[-1].target.startswith("/n")
    for part, reply in zip(answered, found, strict=False):
        assert reply.whole
        assert reply.status == (200 if part.target.startswith("/k") else 401), part.target
    passed = [(part.method, part.target, part.body) for part in answered if part.target.startswith("/k")]
    assert [(seen.method, seen.target, seen.body) for seen in upstream.requests] == passed
    front.calm()


@given(data=st.data())
@limits()
def test_damaged_requests_let_nobody_in(front: Front, data: st.DataObject) -> None:
    asked = data.draw(conversations())
    sent = data.draw(damaged(b"".join(part.raw for part in asked)))
    pieces = data.draw(split(sent + END))
    if over(front):
        return
    upstream = front.fresh()
    received = exchange(front.gateway.port, pieces, silence_s=0.15)[0]
    if not any(
        method in sent for method in (b"HEAD", b"EAD ")
    ):  # else we cannot know which answer has no body
        replies(received)
    front.calm()
    for seen in upstream.requests:
        start = sent.find(b" " + seen.target.encode())
        head = sent[start:].partition(b"\r\n\r\n")[0] if start >= 0 else b""
        assert KEY.encode() in head, f"{seen.target} got in"


ANSWERS = [
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'e\r\ndata: {"a":1}\r\n2\r\n\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n',
    b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
]


@given(data=st.data())
@limits()
def test_damaged_answers_are_one_answer(front: Front, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(ANSWERS))
    pieces = data.draw(split(data.draw(damaged(whole)) + data.draw(st.sampled_from([b"", whole]))))
    keep = data.draw(st.booleans())
    if over(front):
        return
    upstream = front.fresh()
    speaking: list[Seen] = []

    def answer(seen: Seen) -> Iterator[bytes]:
        upstream.keep = keep or seen.target != "/k"
        speaking.append(seen)
        try:
            yield from pieces if seen.target == "/k" else echo(seen)
        finally:
            speaking.remove(seen)

    upstream.answer = answer
    received = exchange(front.gateway.port, [request("/k", extra=b"Connection: close\r\n")], silence_s=0.3)[0]
    assert len(replies(received)) <= 1
    # The rest of the damage must lie there before the next request: what comes after it is, to anybody, its answer.
    wait_until(lambda: not speaking and (keep or upstream.open == 0))
    for number in range(2):
        got = front.gateway.ask("POST", f"/next{number}", body=b"{}")
        assert got.status == 200
        assert got.json()["target"] == f"/next{number}"
    front.calm()
