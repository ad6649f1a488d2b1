"""Bad requests get a clear answer in OpenAI's shape; the server goes on and keeps nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.conftest import skip_loudly
from tests.hostile import HOSTILE
from tests.programs.front import wait_until
from tests.speech import convert, silence, spoken
from tests.whisper.conftest import DISK_BYTES, MOST_BYTES, MOST_REQUESTS, NAME, Running
from tests.whisper.wire import ask, begun, chunked, form, part

pytestmark = pytest.mark.usefixtures("at_rest")


def refusal_of(server: Running, file: Any, **more: Any) -> openai.APIStatusError:
    """What the client raises, and that every error has what OpenAI's have."""
    with pytest.raises(openai.APIStatusError) as raised:
        server.client.audio.transcriptions.create(**{"model": NAME, "file": file, **more})
    error = raised.value
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.body["message"].endswith((".", ". "))
    return error


@pytest.fixture
def truncated(word: Path, tmp_path: Path) -> bytes:
    """A video whose index, at its end, was cut off."""
    whole = convert(word, tmp_path / "a.mp4", "-f", "mp4").read_bytes()
    return whole[: whole.index(b"moov") - 4]


@pytest.fixture
def silent_film(tmp_path: Path, word: Path) -> bytes:
    options = ("-f", "lavfi", "-i", "color=black:s=64x64:r=5:d=1", "-map", "1:v")
    return convert(word, tmp_path / "film.mp4", *options).read_bytes()


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_is_no_audio(server: Running, stream: bool) -> None:
    error = refusal_of(server, ("talk.mp3", b"I am a text.\n" * 99), stream=stream)
    assert isinstance(error, openai.BadRequestError)
    assert error.param == "file"


def test_a_truncated_video(server: Running, truncated: bytes) -> None:
    assert isinstance(refusal_of(server, ("film.mp4", truncated)), openai.BadRequestError)


def test_a_film_without_sound(server: Running, silent_film: bytes) -> None:
    error = refusal_of(server, ("film.mp4", silent_film))
    assert isinstance(error, openai.BadRequestError)


def test_an_empty_file(server: Running) -> None:
    assert isinstance(refusal_of(server, ("talk.wav", b"")), openai.BadRequestError)


def test_audio_of_no_length(server: Running, tmp_path: Path) -> None:
    assert isinstance(refusal_of(server, silence(tmp_path / "none.wav", 0)), openai.BadRequestError)


def test_silence_is_no_mistake(server: Running, tmp_path: Path) -> None:
    quiet = silence(tmp_path / "quiet.wav", 2)
    assert server.client.audio.transcriptions.create(file=quiet, model=NAME).text == ""


def test_audio_that_is_longer_than_the_site_takes(server: Running) -> None:
    long = silence(server.folder / "too-long.wav", 800)
    refused = server.post({"model": NAME, "path": str(long)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "audio_too_long")
    long.unlink()


@pytest.mark.parametrize(
    ("more", "kind", "code", "param"),
    [
        ({"model": "gpt-4o-transcribe"}, openai.NotFoundError, "model_not_found", "model"),
        ({"language": "Klingon"}, openai.BadRequestError, "invalid_language_format", "language"),
        ({"response_format": "docx"}, openai.BadRequestError, "invalid_value", "response_format"),
        (
            {"response_format": "diarized_json"},
            openai.BadRequestError,
            "unsupported_value",
            "response_format",
        ),
        (
            {"known_speaker_names": ["Ann"]},
            openai.BadRequestError,
            "unsupported_value",
            "known_speaker_names",
        ),
        ({"include": ["logprobs"]}, openai.BadRequestError, "unsupported_value", "include"),
        ({"temperature": 7}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"timestamp_granularities": ["word"]}, openai.BadRequestError, "invalid_value", "response_format"),
        ({"extra_body": {"resume_from": "nonsense"}}, openai.BadRequestError, None, "resume_from"),
    ],
)
def test_what_is_wrong_is_named(
    server: Running, word: Path, more: dict[str, Any], kind: type[Exception], code: str | None, param: str
) -> None:
    error = refusal_of(server, word, **more)
    assert isinstance(error, kind)
    assert error.type == "invalid_request_error"
    assert code is None or error.code == code
    assert error.param == param


def test_no_file_and_two_files(server: Running, word: Path) -> None:
    sound = word.read_bytes()
    nothing = ask(server.socket, form({"model": NAME}, None))
    assert (nothing.status, nothing.json()["error"]["param"]) == (400, "file")
    two = ask(server.socket, part("file", sound, "a.wav") + form({"model": NAME}, sound))
    assert (two.status, two.json()["error"]["code"]) == (400, "too_many_files")


def test_fields_may_come_after_the_file(server: Running, word: Path) -> None:
    late = ask(server.socket, part("file", word.read_bytes(), "a.wav") + form({"model": NAME}, None))
    assert late.json()["text"] == "yes"


def test_a_hostile_file_name_is_only_a_name(server: Running, word: Path) -> None:
    names = [*filter(None, HOSTILE), "a\r\nX-Forged: 1", "../../up.wav"]
    for name in names:
        assert refusal_of(server, (name, b"no audio")).param == "file"
    sound = word.read_bytes()
    for name in ('";\0\r\n--5a5a.wav', "x" * 5000, "../☃.mp3"):
        assert server.client.audio.transcriptions.create(file=(name, sound), model=NAME).text == "yes"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (form({"prompt": "x" * 70_000, "model": NAME}, b""), None, 413),
        (b"".join(part(f"field{i}", "x") for i in range(200)) + form({"model": NAME}, b""), None, 413),
        (b"--5a5a\r\n" + b"X-Head: " + b"x" * 600_000, None, 413),
        (b"path=" + b"x" * 300_000, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a=1" for _ in range(999)), "application/x-www-form-urlencoded", 413),
        (form({"model": NAME}, b"RIFF")[:-20], None, 400),
        (b"--5a5a\r\n\r\nno head\r\n--5a5a--\r\n", None, 400),
        (b'--5a5a\r\nContent-Disposition: form-data; name="a"\n\nb\r\n--5a5a--', None, 400),
        (b"\xff" * 999, None, 400),
        (b"", None, 400),
        (b"{}", "application/json", 400),
        (b"", "multipart/form-data", 400),
        (b"", "multipart/form-data; boundary=\xfc", 400),
    ],
)
def test_a_form_that_is_none(server: Running, body: bytes, kind: str | None, status: int) -> None:
    refused = ask(server.socket, body, content_type=kind)
    assert refused.status == status
    assert refused.json()["error"]["message"]


def test_an_upload_that_is_too_large_is_refused_before_it_comes(server: Running) -> None:
    for said, code in ((10**13, "file_too_large"), (DISK_BYTES + 2**20, "storage_full")):
        refused = ask(server.socket, form({"model": NAME}, b""), length=said)
        assert refused.json()["error"]["code"] == code
        if not server.small_disk:
            return


def test_an_upload_that_grows_too_large(server: Running) -> None:
    """Without a length, it is seen on the way."""
    if not server.small_disk:
        refused = chunked(server.socket, growing(MOST_BYTES + 2**20))
        assert refused.json()["error"]["code"] == "file_too_large"


def test_the_disk_is_full_in_the_middle_of_an_upload(server: Running, word: Path) -> None:
    if not server.small_disk:
        skip_loudly("a small disk: only root may mount one")
    refused = chunked(server.socket, growing(DISK_BYTES + 2**20))
    assert (refused.status, refused.json()["error"]["code"]) == (507, "storage_full")
    wait_until(lambda: not server.disk_used())
    assert server.client.audio.transcriptions.create(file=word, model=NAME).text == "yes"


def growing(size: int) -> Iterator[bytes]:
    """An upload in pieces of a megabyte."""
    yield part("model", NAME)
    yield part("file", b"", "a.wav")[:-2]
    for _ in range(size >> 20):
        yield bytes(1 << 20)
    yield b"\r\n--5a5a--\r\n"


def test_a_client_that_leaves_in_the_middle_of_its_upload(server: Running, word: Path) -> None:
    sound = word.read_bytes() * 50
    connection = begun(server.socket, form({"model": NAME}, sound)[:500_000], length=len(sound))
    wait_until(lambda: server.health()["requests"] == 1)
    wait_until(lambda: server.disk_used() or not server.small_disk)
    connection.close()
    wait_until(server.rests)


def test_the_server_takes_so_many_requests_at_once(server: Running, word: Path) -> None:
    waiting = [begun(server.socket, part("model", NAME), length=10**6) for _ in range(MOST_REQUESTS)]
    wait_until(lambda: server.health()["requests"] == MOST_REQUESTS)
    error = refusal_of(server, word)
    assert isinstance(error, openai.RateLimitError)
    assert (error.type, error.code) == ("rate_limit_error", "too_many_requests")
    assert 0 < int(error.response.headers["Retry-After"]) <= 120  # beyond that the client does not try again
    for connection in waiting:
        connection.close()
    wait_until(server.rests)
    assert server.client.audio.transcriptions.create(file=word, model=NAME).text == "yes"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/audio/transcriptions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/models/gpt-4o", 404),
        ("GET", "/v1/models/%3Cimg%20src=x%3E", 404),
    ],
)
def test_ways_that_lead_nowhere(server: Running, method: str, path: str, status: int) -> None:
    client = server.client
    with pytest.raises(openai.APIStatusError) as raised:
        client.request(
            object, openai._models.FinalRequestOptions(method=method, url=path.removeprefix("/v1"))
        )
    assert raised.value.status_code == status
    assert raised.value.type == "invalid_request_error"


def test_no_word_of_a_request_is_logged(server: Running) -> None:
    sound = ("secret-name.wav", spoken("yes")[:3000])
    refusal_of(server, sound, prompt="secret-prompt", extra_body={"hotwords": "secret-hotwords"})
    assert "secret" not in server.log.read_text()
