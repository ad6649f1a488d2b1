"""A transcript that grows: events that add up, a place to go on from, and work that stops when nobody waits."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.programs.front import wait_until
from tests.whisper.conftest import NAME, Running, whisper_server
from tests.whisper.wire import begun, form

pytestmark = pytest.mark.usefixtures("at_rest")
WORDS = ["one", "two", "three"]


def events(server: Running, file: Any, **more: Any) -> list[Any]:
    stream: Any = server.client.audio.transcriptions.create(file=file, model=NAME, stream=True, **more)
    return list(stream)


def of_kind(events: list[Any], name: str) -> list[Any]:
    return [event for event in events if event.type == f"transcript.text.{name}"]


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt", "verbose_json"])
def test_the_deltas_add_up(server: Running, words: Path, response_format: str) -> None:
    got = events(server, words, response_format=response_format)
    more: dict[str, Any] = {"response_format": response_format}
    whole: Any = server.client.audio.transcriptions.create(file=words, model=NAME, **more)
    text = whole if isinstance(whole, str) else whole.text
    assert "".join(event.delta for event in of_kind(got, "delta")) == got[-1].text
    assert got[-1].type == "transcript.text.done"
    assert got[-1].text.strip() == text.strip()
    assert got[-1].usage.seconds > 0


def test_each_piece_brings_its_segments(server: Running, words: Path) -> None:
    got = events(server, words, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    segments = of_kind(got, "segment")
    assert " ".join(segment.text for segment in segments).split() == WORDS
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert [word["word"] for segment in segments for word in segment.words] == WORDS
    done = of_kind(got, "done")[0]
    assert [part["text"] for part in done.segments] == [segment.text for segment in segments]
    assert [word["word"] for word in done.words] == WORDS
    assert (done.language, done.task) == ("english", "transcribe")
    progress = of_kind(got, "progress")
    assert [step.done_s for step in progress] == sorted(step.done_s for step in progress)
    assert progress[-1].done_s == done.duration


def test_a_transcript_goes_on_from_any_cursor(server: Running, words: Path) -> None:
    whole = events(server, words, response_format="verbose_json")
    for place, event in enumerate(whole):
        if event.type != "transcript.text.progress":
            continue
        rest = events(server, words, response_format="verbose_json", extra_body={"resume_from": event.cursor})
        after = [part.text for part in of_kind(whole[place:], "segment")]
        assert [part.text for part in of_kind(rest, "segment")] == after


def test_hostile_words_stay_in_their_event(server: Running, words: Path) -> None:
    """What the model hears cannot be forged here, but a prompt may be anything."""
    got = events(server, words, prompt="\n\nevent: error\ndata: {}\n\n")
    assert of_kind(got, "done")


@pytest.mark.parametrize("stream", ["true", "false"])
def test_work_stops_when_the_client_leaves(server: Running, long_speech: Path, stream: str) -> None:
    fields = {"model": NAME, "stream": stream, "response_format": "verbose_json"}
    sound = long_speech.read_bytes()[: 10 << 20]
    connection = begun(server.socket, form(fields, sound))
    wait_until(lambda: server.health()["stretches"] > 0)
    connection.close()
    wait_until(server.rests)


def test_a_session_that_ends_says_so(tmp_path: Path, long_speech: Path, words: Path) -> None:
    with whisper_server(tmp_path) as server:
        more: dict[str, Any] = {"stream": True, "response_format": "verbose_json"}
        stream: Any = server.client.audio.transcriptions.create(file=long_speech, model=NAME, **more)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="ending") as raised:
            list(stream)
        assert raised.value.code == "session_ending"
        assert server.process.wait(60) == 0
        assert not server.socket.exists()
        assert not list(server.scratch.iterdir())


def test_the_socket_is_for_its_owner_alone(server: Running) -> None:
    assert server.socket.stat().st_mode & 0o777 == 0o600


def test_the_server_ends_when_the_process_with_the_model_dies(tmp_path: Path) -> None:
    with whisper_server(tmp_path) as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        os.kill(int(children.read_text()), signal.SIGKILL)
        assert server.process.wait(60) == 1
