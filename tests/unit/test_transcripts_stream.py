"""What the answers of a session mean: a small real server answers as told, also in the ways that ours never should."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest

from launcher.errors import LauncherError, RequestError
from launcher.sessions.connection import Connection
from launcher.transcripts.asked import Asked
from launcher.transcripts.carrier import Carrier
from launcher.transcripts.journal import Piece, Source
from launcher.transcripts.recordings import find
from launcher.transcripts.report import Report
from launcher.transcripts.standing import standings
from launcher.transcripts.stream import Broken, Refused, Stopped, Stream
from launcher.transcripts.work import Work
from launcher.whisper.segments import Segment

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
END = b'event: transcript.text.done\ndata: {"type":"transcript.text.done","text":""}\n\n'
Answer: TypeAlias = "bytes | Callable[[], bytes]"


def piece(number: int, text: str = "one") -> bytes:
    segment = {
        "type": "transcript.text.segment",
        "id": number,
        "start": 1.0 * number,
        "end": number + 0.5,
        "text": text,
    }
    progress = {
        "type": "transcript.text.progress", "cursor": str(number), "done_s": number + 1.0, "duration_s": 3.0,
        "language": "en", "language_probability": 1.0,
    }  # fmt: skip
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in (segment, progress)
    )


def refusal(status: int, message: str = "No.", headers: str = "", **error: Any) -> bytes:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", **error}})
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Server:
    """Answers the n-th request with the n-th of `answers`, the last one for ever; keeps what it was asked."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def connection(self) -> Connection:
        return Connection(
            "s", "127.0.0.1", self.port, f"http://127.0.0.1:{self.port}/v1", None, "m", "sk-secret"
        )

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
            with client, contextlib.suppress(OSError):
                self.asked.append(_request(client))
                answer = answer() if callable(answer) else answer
                client.sendall(answer)
                if answer.endswith(b": silent\n\n"):
                    client.recv(1)  # until the client leaves


def _request(client: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        got += _piece(client)
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(
        (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += _piece(client)
    return head + b"\r\n\r\n" + body


def _piece(client: socket.socket) -> bytes:
    piece = client.recv(65536)
    if not piece:
        raise ConnectionError("the client left")
    return piece


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[Server] = []

    def start(*answers: Answer) -> Server:
        made.append(Server(answers))
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    file = tmp_path / "a b\n.wav"
    file.write_bytes(b"sound" * 1000)
    return Source.of(file)


def pieces(server: Server, source: Source, **options: Any) -> list[Piece]:
    return list(Stream(server.connection).pieces(source, Asked("en", prompt="a & b\n"), None, **options))


def test_the_pieces_of_an_answer(serve: Serve, source: Source) -> None:
    server = serve(OK + b": working\n\n" + piece(0) + piece(1, "-->\u2028") + END)
    first, second = pieces(server, source)
    assert first == Piece("0", 1.0, 3.0, "en", (Segment(0.0, 0.5, "one"),))
    assert second.segments[0].text == "-->\u2028"
    (asked,) = server.asked
    assert asked.startswith(b"POST /v1/audio/transcriptions HTTP/1.1\r\n")
    assert b"Authorization: Bearer sk-secret\r\n" in asked
    assert b"a+%26+b%0A" in asked
    assert b"a+b%0A.wav" in asked
    assert f"path_version={source.size}-{source.modified_ns}".encode() in asked


def test_an_upload_sends_the_bytes_and_not_the_name(serve: Serve, source: Source) -> None:
    server, sent = serve(OK + piece(0) + END), list[int]()
    assert len(pieces(server, source, upload=True, sent=sent.append)) == 1
    assert b"sound" * 1000 in server.asked[0]
    assert b"a b" not in server.asked[0]
    assert sent[-1] == 5000


def test_translation_has_its_own_route_and_a_cursor_goes_back(serve: Serve, source: Source) -> None:
    server = serve(OK + END)
    assert list(Stream(server.connection).pieces(source, Asked(translate=True), "1.2&3")) == []
    assert server.asked[0].startswith(b"POST /v1/audio/translations ")
    assert b"resume_from=1.2%263" in server.asked[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"not http\r\n\r\n",
        OK,
        OK + piece(0),
        OK + piece(0)[:-40],
        OK + b"data: {broken\n\n",
        OK + b"data: []\n\n",
        OK + b'data: {"type": "transcript.text.progress"}\n\n',
        OK + b'data: {"type": "transcript.text.segment"}\n\n',
        OK + b'event: error\ndata: {"error": {"message": "CUDA", "type": "server_error"}}\n\n',
        OK + b'data: {"error": "engine_died"}\n\n',
        refusal(500, type="server_error"),
    ],
)
def test_what_ends_in_the_middle_may_be_tried_again(serve: Serve, source: Source, answer: bytes) -> None:
    with pytest.raises(Broken):
        pieces(serve(answer), source)


def test_what_was_refused_is_not_tried_again(serve: Serve, source: Source) -> None:
    with pytest.raises(Refused) as caught:
        pieces(serve(refusal(400, "Not audio.", param="file", code="invalid_audio")), source)
    assert (caught.value.status, caught.value.message, caught.value.param) == (400, "Not audio.", "file")
    with pytest.raises(Refused):
        pieces(
            serve(OK + piece(0) + b'data: {"error": {"message": "x", "type": "invalid_request_error"}}\n\n'),
            source,
        )


def test_busy_says_when_to_come_again(serve: Serve, source: Source) -> None:
    for status in (429, 503):
        with pytest.raises(Broken) as caught:
            pieces(serve(refusal(status, headers="Retry-After: 7\r\n", type="rate_limit_error")), source)
        assert (caught.value.wait_s, caught.value.gone, caught.value.mine) == (7.0, False, False)


def test_nobody_there_and_another_key(serve: Serve, source: Source) -> None:
    server = serve(b"")
    server.close()
    with pytest.raises(Broken) as caught:
        pieces(server, source)
    assert caught.value.gone
    with pytest.raises(Broken) as caught:
        pieces(serve(refusal(401)), source)
    assert caught.value.gone


def test_a_request_is_ended_from_another_thread(serve: Serve, source: Source) -> None:
    stream = Stream(serve(OK + piece(0) + b": silent\n\n").connection)
    coming = stream.pieces(source, Asked(), None)
    assert next(coming).cursor == "0"
    threading.Timer(0.1, stream.stop).start()
    with pytest.raises(Stopped):
        next(coming)


class OneServer:
    """What Work needs of a carrier, with a server that is no session."""

    session = None
    goes_on = True
    made_by: dict[str, Any] = {"model": "m"}  # noqa: RUF012 - never changed

    def __init__(self, server: Server) -> None:
        self._server = server

    def ready(self) -> Connection:
        return self._server.connection

    def at_once(self) -> int:
        return 4

    def works(self) -> None:
        pass


def work(folder: Path, server: Server, said: list[str] | None = None) -> Report:
    found, asked = find([str(folder)]), Asked()
    there = standings(found.recordings, asked, None, ("txt",))
    tell = (said if said is not None else []).append
    carrier = cast(Carrier, OneServer(server))
    return Work(
        found, there, asked, model=None, overwrite=False, carrier=lambda: carrier, tell=tell, show=None
    ).run()  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("launcher.transcripts.stream._RETRY_S", 0.01)
    (tmp_path / "a.wav").write_bytes(b"sound")
    return tmp_path


def states(report: Report) -> list[str]:
    return [result.state for result in report.results]


def test_an_answer_that_breaks_goes_on_where_it_was(folder: Path, serve: Serve) -> None:
    server = serve(OK + piece(0), OK + piece(1), OK + END)
    assert states(work(folder, server)) == ["done"]
    assert (folder / "a.txt").read_text() == "one\none\n"
    assert [b"resume_from=0" in asked for asked in server.asked] == [False, True, False]
    assert b"resume_from=1" in server.asked[2]


def test_what_breaks_the_session_three_times_is_given_up(folder: Path, serve: Serve) -> None:
    """Blackfish 10: the state `exhausted`."""
    server = serve(OK + piece(0), OK)
    report = work(folder, server)
    assert states(report) == ["exhausted"]
    assert "Given up after 3 attempts at 0:01." in report.results[0].message
    assert len(server.asked) == 4
    assert not report.complete
    server.answers = [OK + piece(1) + END]  # the piece that came is kept, should the cause go away
    assert states(work(folder, server)) == ["done"]
    assert (folder / "a.txt").read_text() == "one\none\n"


def test_a_session_that_cannot_see_the_file_gets_it_sent(folder: Path, serve: Serve) -> None:
    server = serve(refusal(404, param="path", code="file_not_found"), OK + piece(0) + END)
    assert states(work(folder, server)) == ["done"]
    assert b"multipart/form-data" in server.asked[1]


def test_a_place_that_is_no_more_begins_anew(folder: Path, serve: Serve) -> None:
    said: list[str] = []
    server = serve(OK + piece(0), refusal(400, param="resume_from"), OK + piece(0, "two") + END)
    assert states(work(folder, server, said)) == ["done"]
    assert (folder / "a.txt").read_text() == "two\n"
    assert "It is begun anew." in said[0]


def test_a_wrong_option_ends_the_work_for_all(folder: Path, serve: Serve) -> None:
    (folder / "b.wav").write_bytes(b"sound")
    report = work(folder, serve(refusal(400, "No such language.", param="language")))
    assert isinstance(report.trouble, RequestError)
    assert states(report) == ["stalled", "stalled"]
    assert isinstance(report.trouble, LauncherError)


def test_a_file_that_changes_meanwhile_is_begun_anew(folder: Path, serve: Serve) -> None:
    def change() -> bytes:
        (folder / "a.wav").write_bytes(b"another sound")
        return OK + piece(0, "old") + END

    said: list[str] = []
    assert states(work(folder, serve(change, OK + piece(0, "new") + END), said)) == ["done"]
    assert (folder / "a.txt").read_text() == "new\n"
    assert "the file changed meanwhile" in said[0]


def test_a_file_that_never_rests_is_given_up(folder: Path, serve: Serve) -> None:
    def grow() -> bytes:
        with (folder / "a.wav").open("ab") as file:
            file.write(b"more")
        return OK + piece(0) + END

    report = work(folder, serve(grow))
    assert states(report) == ["failed"]
    assert "changes while it is transcribed" in report.results[0].message


def test_a_file_that_vanishes_meanwhile_is_said(folder: Path, serve: Serve) -> None:
    def vanish() -> bytes:
        (folder / "a.wav").unlink()
        return OK + piece(0) + END

    report = work(folder, serve(vanish))
    assert states(report) == ["failed"]
    assert report.results[0].message == "It cannot be read: No such file or directory."
