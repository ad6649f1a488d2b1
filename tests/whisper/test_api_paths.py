"""A file on the cluster is read where it lies: by the session's own user, and only where the site lets it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hostile import HOSTILE
from tests.whisper.conftest import NAME, Running
from tests.whisper.wire import ask, form

pytestmark = pytest.mark.usefixtures("at_rest")


def transcribed(server: Running, path: str | Path) -> str:
    answer = server.post({"model": NAME, "path": str(path)})
    text: str = answer.json()["text"]
    return text


def refusal_of(server: Running, path: str | Path, *, own: bool = True) -> tuple[int, str]:
    answer = server.post({"model": NAME, "path": str(path)}, own=own)
    error = answer.json()["error"]
    assert error["param"] == "path"
    return answer.status_code, error["code"]


def place(server: Running, word: Path, name: str) -> Path:
    path = server.folder / name
    path.write_bytes(word.read_bytes())
    return path


def test_a_file_is_read_where_it_lies(server: Running, word: Path) -> None:
    assert transcribed(server, place(server, word, "yes.wav")) == "yes"


@pytest.mark.parametrize(
    "name",
    [name for name in HOSTILE if name.strip() and "/" not in name and "\0" not in name and len(name) < 200]
    + ["latin-1-\udcfc.wav"],
)
def test_any_name_is_a_name(server: Running, word: Path, name: str) -> None:
    path = place(server, word, name)
    assert transcribed(server, path) == "yes"
    path.unlink()


def test_only_the_sessions_own_key_may(server: Running, word: Path) -> None:
    path = place(server, word, "own.wav")
    assert refusal_of(server, path, own=False) == (403, "path_not_allowed")


def test_a_link_counts_as_what_it_leads_to(server: Running, word: Path, tmp_path: Path) -> None:
    (server.folder / "out.wav").symlink_to(word)
    assert refusal_of(server, server.folder / "out.wav") == (403, "path_not_allowed")
    (server.folder / "in.wav").symlink_to(place(server, word, "target.wav"))
    assert transcribed(server, server.folder / "in.wav") == "yes"
    (tmp_path / "door").symlink_to(server.folder)
    assert transcribed(server, tmp_path / "door" / "target.wav") == "yes"


def test_what_is_no_file_of_the_folder(server: Running, word: Path) -> None:
    pipe = server.folder / "pipe.wav"
    os.mkfifo(pipe)
    inside = str(server.folder)
    assert refusal_of(server, word) == (403, "path_not_allowed")
    assert refusal_of(server, f"{inside}/../{word.parent.name}/{word.name}") == (403, "path_not_allowed")
    assert refusal_of(server, f"{inside}-beside/a.wav") == (403, "path_not_allowed")
    assert refusal_of(server, "/dev/zero") == (403, "path_not_allowed")
    assert refusal_of(server, "relative.wav") == (400, "invalid_value")
    assert refusal_of(server, f"{inside}/a\0b") == (400, "invalid_value")
    assert refusal_of(server, inside) == (400, "not_a_file")
    assert refusal_of(server, pipe) == (400, "not_a_file")
    assert refusal_of(server, f"{inside}/missing.wav") == (404, "file_not_found")
    assert refusal_of(server, f"{inside}/{'x' * 5000}")[0] in (400, 404)


def test_a_file_that_is_another_one_on_the_node(server: Running, word: Path) -> None:
    """As /tmp is: the command that sends the path says which file it means."""
    path = place(server, word, "version.wav")
    found = path.stat()
    for version, status in ((f"{found.st_size}-{found.st_mtime_ns}", 200), (f"{found.st_size}-1", 409)):
        answered = server.post({"model": NAME, "path": str(path), "path_version": version})
        assert answered.status_code == status


def test_a_file_or_a_path_not_both(server: Running, word: Path) -> None:
    fields = {"model": NAME, "path": str(place(server, word, "both.wav"))}
    refused = ask(server.socket, form(fields, word.read_bytes()))
    assert (refused.status, refused.json()["error"]["param"]) == (400, "path")
