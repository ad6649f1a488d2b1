"""Hearing files of the cluster on the page: which ones, by whom, in which pieces."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.ui.sounds import Sounds, kind
from tests.hostile import HOSTILE

OWN = {"x-launcher-own": "1"}
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(range(200))


def ask(
    sounds: Sounds, method: str, path: str, headers: Mapping[str, str] = OWN, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """One request, as uvicorn would hand it on."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("localhost", 80),
        "scheme": "http",
    }
    sent: list[Any] = []
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        if (part := next(parts, None)) is None:
            await asyncio.Event().wait()  # somebody who stays
        return part or {}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(sounds(scope, receive, send))
    answered = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:])


def name(sounds: Sounds, path: object, headers: Mapping[str, str] = OWN) -> tuple[int, dict[str, Any]]:
    status, _, body = ask(sounds, "POST", "/sounds", headers, json.dumps({"path": path}).encode())
    return status, json.loads(body)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "a'b $(id).wav"
    path.write_bytes(WAV)
    return path


def test_a_file_is_heard_by_its_random_name_whole_or_in_part(wav: Path) -> None:
    sounds = Sounds([])
    status, said = name(sounds, str(wav))
    assert status == 200
    assert str(wav) not in json.dumps(said)
    status, headers, body = ask(sounds, "GET", f"/sounds/{said['id']}")
    assert (status, body, headers["content-type"]) == (200, WAV, "audio/wav")
    assert headers["cache-control"] == "no-store"
    status, headers, body = ask(sounds, "GET", f"/sounds/{said['id']}", {**OWN, "range": "bytes=10-19"})
    assert (status, body) == (206, WAV[10:20])
    assert headers["content-range"] == f"bytes 10-19/{len(WAV)}"


def test_only_the_sessions_own_key(wav: Path) -> None:
    sounds = Sounds([])
    assert name(sounds, str(wav), {})[0] == 403
    assert name(sounds, str(wav), {"x-launcher-own": "0"})[0] == 403
    known = name(sounds, str(wav))[1]["id"]
    assert ask(sounds, "GET", f"/sounds/{known}", {})[0] == 403


@pytest.mark.parametrize("content", [b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"WAVE but only later"])
def test_what_does_not_begin_as_audio_is_not_read_to_anybody(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(content)
    status, said = name(Sounds([]), str(secret))
    assert status == 400
    assert said["error"]["code"] == "not_audio"


def test_a_file_that_is_another_by_now_is_looked_at_again(wav: Path) -> None:
    sounds = Sounds([])
    known = name(sounds, str(wav))[1]["id"]
    wav.unlink()
    wav.symlink_to("/etc/passwd")
    assert ask(sounds, "GET", f"/sounds/{known}")[0] == 400


def test_only_in_the_allowed_folders(tmp_path: Path, wav: Path) -> None:
    (allowed := tmp_path / "allowed").mkdir()
    (allowed / "link.wav").symlink_to(wav)
    sounds = Sounds([allowed])
    for path in (wav, allowed / "link.wav", f"{allowed}/../{wav.name}"):
        assert name(sounds, str(path))[0] == 403
    wav.rename(allowed / wav.name)
    assert name(sounds, str(allowed / wav.name))[0] == 200


def test_nothing_that_would_wait_or_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", tmp_path, "/dev/zero", "/dev/stdin", "relative.wav"):
        assert name(Sounds([]), str(path))[0] == 400
    assert name(Sounds([]), str(tmp_path / "none.wav"))[0] == 404


@pytest.mark.parametrize("path", HOSTILE)
def test_any_text_gets_an_answer(path: str) -> None:
    assert name(Sounds([]), path)[0] in (400, 404)
    assert name(Sounds([]), f"/nowhere/{path}")[0] in (400, 404)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"path": 1}', b"\xff", b"[" * 10_000, b"x" * 20_000])
def test_a_broken_body(body: bytes) -> None:
    assert ask(Sounds([]), "POST", "/sounds", OWN, body)[0] in (400, 413)


def test_unknown_names_and_methods() -> None:
    sounds = Sounds([])
    for method, path in (
        ("GET", "/sounds"),
        ("GET", "/sounds/x"),
        ("DELETE", "/sounds/x"),
        ("PUT", "/sounds"),
    ):
        assert ask(sounds, method, path)[0] == 404


def test_what_files_begin_with() -> None:
    assert kind(WAV[:16]) == "audio/wav"
    assert kind(b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00") == "video/mp4"
    assert kind(b"\x1a\x45\xdf\xa3" + bytes(12)) == "video/webm"
    assert kind(b"ID3\x04" + bytes(12)) == "audio/mpeg"
    assert kind(b"#!/bin/bash\necho") is None
