"""A cluster that lies: what it answers over ssh may hurt nothing on this machine.

The ssh of these tests is a program that says what the cluster is told to say; all else is the launcher as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from launcher.api.remote import far as conversations
from launcher.api.remote import files
from launcher.api.remote.everywhere import said_there
from launcher.api.remote.far import PROTOCOL, Far, LostError
from launcher.api.remote.files import fetched, sent
from launcher.api.remote.values import unpacked, unpacked_error
from launcher.api.tunnel.whereabouts import Far as FarAway
from launcher.cli import main
from launcher.cli.cluster import forwarded
from launcher.errors import EngineError, SchedulerError, SettingsError, StorageError
from launcher.schedulers import ssh
from launcher.sessions.connection import Connection

HELLO = json.dumps({"launcher": "1", "protocol": PROTOCOL})
FILE: dict[str, Any] = {
    "name": "out.txt",
    "path": "/far/out.txt",
    "kind": "file",
    "size": 4,
    "changed_at": 1.0,
    "version": "4-1",
    "mode": 0o644,
}
CONNECTION: dict[str, Any] = {
    "id": "a-1",
    "host": "node1",
    "port": 80,
    "base_url": "http://node1:80/v1",
    "page_url": None,
    "model": "m",
    "key": "k",
}
LOOK = {"answer": 1, "state": "READY", "message": "It answers."}
Say = Callable[..., None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Say]:
    """Decides what the cluster says in the next conversations, one after the other."""
    programs, told = tmp_path / "bin", tmp_path / "told"
    programs.mkdir()
    told.mkdir()
    program = programs / "ssh"
    program.write_text(
        "#!/bin/bash\n"
        'case " $* " in *" -G "*|*" -O "*) exit 0;; esac\n'
        "read -r request\n"
        f'next=$(ls "{told}" | head -n 1)\n'
        f'cat "{told}/$next"; rm "{told}/$next"\n'
        f'[ ! -e "{tmp_path}/broken" ] || exit 255\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    ssh._configured.cache_clear()

    def next_answers(*conversations: bytes | str | dict[str, Any]) -> None:
        for number, said in enumerate(conversations):
            text = json.dumps(said) + "\n" if isinstance(said, dict) else said
            (told / str(number)).write_bytes(text if isinstance(text, bytes) else text.encode())

    yield next_answers
    ssh._configured.cache_clear()


def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.yml").write_text("clusters:\n  della: {ssh: della, launcher: launcher}\n")
    monkeypatch.setenv("LAUNCHER_CONFIG", str(folder / "config.yml"))
    monkeypatch.setenv("LAUNCHER_SITE", os.devnull)
    monkeypatch.setenv("LAUNCHER_PLACES__SESSIONS", str(folder / "sessions"))


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")


def result(value: Any) -> str:
    return f"{HELLO}\n{json.dumps({'result': value})}\n"


def content(data: bytes) -> bytes:
    head = json.dumps({"bytes": len(data)}).encode()
    return HELLO.encode() + b"\n" + head + b"\n" + data + b'{"result": {"version": "4-1"}}\n'


CLUSTER = Far("della", "della", "launcher")


@pytest.mark.parametrize("said", [{}, {"at": -1}, {"at": 4}, {"at": 5}, {"at": 1.5}, 7], ids=str)
@pytest.mark.parametrize("as_result", [False, True])
def test_a_file_is_sent_from_a_place_that_it_has(
    say: Say, tmp_path: Path, said: object, as_result: bool
) -> None:
    (tmp_path / "four").write_bytes(b"four")
    say(f"{HELLO}\n{json.dumps({'result' if as_result else 'told': said})}\n" + result({"path": 7}))
    with pytest.raises(SchedulerError, match="not understood"):
        sent(CLUSTER, tmp_path / "four", "there")


@pytest.mark.parametrize(
    "said",
    [
        7,
        None,
        ["x"],
        {"entries": 7},
        {**FILE, "entries": [7]},
        {**FILE, "entries": [{}]},
        {**FILE, "changed_at": 1e300},
    ],
    ids=str,
)
def test_a_listing_that_is_none_is_an_error_with_a_sentence(
    say: Say,
    said: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings(tmp_path, monkeypatch)
    say(result(said))
    assert main(["files", "ls", "della:"]) in (SchedulerError.exit_code, StorageError.exit_code)
    assert "launcher: " in capsys.readouterr().err


@pytest.mark.parametrize("part", [7, "text", {"bytes": 4}])
def test_the_content_of_a_file_is_bytes(say: Say, part: object) -> None:
    say(f"{HELLO}\n{json.dumps({'told': part})}\n")
    with pytest.raises(SchedulerError, match="not understood"):
        list(files.content(CLUSTER, "out.txt"))


@pytest.mark.parametrize("cut", ['{"sessions": [', '{"sessions": []'])
def test_an_answer_that_the_connection_cut_is_the_connections_trouble(
    say: Say, tmp_path: Path, cut: str
) -> None:
    say(cut)
    (tmp_path / "broken").touch()
    with pytest.raises(LostError, match="The connection to della was lost"):
        said_there(CLUSTER, "status", "--json")


@pytest.mark.parametrize("clusters", [7, [7], [{}], [{"supply": 7}], [{"supply": [{}]}], None], ids=str)
def test_hardware_that_is_none_is_named_with_its_cluster(
    say: Say,
    clusters: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings(tmp_path, monkeypatch)
    say({"clusters": clusters})
    main(["clusters"])
    assert (
        "della: The launcher on della (della) gave an answer that is not understood"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["../victim", "{above}/victim", "..", ".", "a/../../victim", "a\0b", 7])
def test_a_file_is_fetched_into_the_folder_that_was_named_and_nowhere_else(
    say: Say, tmp_path: Path, name: Any
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    name = name.format(above=tmp_path) if isinstance(name, str) else name
    say(result({**FILE, "name": name}), content(b"evil"))
    with pytest.raises(StorageError, match="named a file"):
        fetched(CLUSTER, "out.txt", here)
    assert not (tmp_path / "victim").exists()
    assert list(here.iterdir()) == []


def test_a_file_that_is_fetched_never_runs_as_its_owner(say: Say, tmp_path: Path) -> None:
    say(result({**FILE, "mode": 0o6755}), content(b"evil"))
    (moved,) = fetched(CLUSTER, "out.txt", tmp_path / "out")
    assert Path(moved.path).stat().st_mode & 0o7022 == 0
    assert Path(moved.path).read_bytes() == b"evil"


def test_a_file_without_end_does_not_fill_the_disk(say: Say, tmp_path: Path) -> None:
    say(result(FILE), content(b"evil and more"))
    with pytest.raises(StorageError, match="was changed"):
        fetched(CLUSTER, "out.txt", tmp_path / "out")
    assert all(path.stat().st_size <= 4 for path in tmp_path.iterdir() if path.is_file())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"port": port} for port in ("../victim", "/victim", "80:other:22", 0, 65536, True, None, 1.5)),
        *({"host": host} for host in ("-oProxyCommand=id", "a b", "$(id)", None, 7, "")),
        *({name: "\x1b]0;evil\x07"} for name in ("id", "model", "key", "base_url", "page_url")),
        *({name: "a\0b"} for name in ("key", "model")),
        {"base_url": "file:///etc/passwd"},
        {"page_url": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_an_address_elsewhere_becomes_no_file_no_option_and_no_colour_here(
    say: Say, wrong: dict[str, Any]
) -> None:
    say({**LOOK, "connection": {**CONNECTION, **wrong}})
    with (
        contextlib.closing(FarAway("della", ["launcher"], "a-1")) as far,
        pytest.raises(SchedulerError, match="not understood"),
    ):
        far.look()


@pytest.mark.parametrize(
    "rest", ['"error": 7}', '"a": ' + "[" * 100_000, '"state": "READY"}'], ids=lambda rest: rest[:20]
)
def test_a_look_that_is_none_is_an_error_with_a_sentence(say: Say, rest: str) -> None:
    say(f'{{"answer": 1, {rest}\n')
    with (
        contextlib.closing(FarAway("della", ["launcher"], "a-1")) as far,
        pytest.raises(SchedulerError, match="not understood"),
    ):
        far.look()


def test_an_error_elsewhere_keeps_its_class_and_all_it_says(say: Say) -> None:
    say({"answer": 1, "error": {"kind": "engine", "message": "It died.", "hint": "Look.", "quote": "CUDA"}})
    with (
        contextlib.closing(FarAway("della", ["launcher"], "a-1")) as far,
        pytest.raises(EngineError, match=r"It died\. Look\.") as caught,
    ):
        far.look()
    assert caught.value.quote == "CUDA"


def test_an_address_elsewhere_is_believed_where_it_is_one(say: Say) -> None:
    say({**LOOK, "connection": CONNECTION})
    with contextlib.closing(FarAway("della", ["launcher"], "a-1")) as far:
        assert far.look().connection == Connection(**CONNECTION)


@pytest.mark.parametrize("secret", [None, "", "a\0b", "a\nb", "\x1b[2J", 7])
def test_a_key_elsewhere_is_one_word(say: Say, secret: object) -> None:
    say({"answer": 1, "secret": secret})
    with (
        contextlib.closing(FarAway("della", ["launcher"], "a-1")) as far,
        pytest.raises(SchedulerError, match="not understood"),
    ):
        far.new_key("mine")


@pytest.mark.parametrize(
    "said",
    [
        "[" * 100_000,
        "7",
        "null",
        "[]",
        "{}",
        '{"bytes": -1}',
        '{"bytes": 1e99}',
        '{"bytes": 99999999999}',
        '{"error": 7}',
    ],
    ids=lambda said: said[:20],
)
def test_an_answer_that_is_none_is_an_error_with_a_sentence(say: Say, said: str) -> None:
    say(f"{HELLO}\n{said}\n")
    with pytest.raises(SchedulerError, match="not understood"):
        CLUSTER.ask("hello")


def test_an_answer_without_end_is_not_kept(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "_LINE_MAX_BYTES", 1000)
    say(f"{HELLO}\n" + " " * 5000)
    with pytest.raises(SchedulerError, match="not understood"):
        CLUSTER.ask("hello")


def test_no_program_of_ours_is_run_by_the_name_of_a_record() -> None:
    # launcher.whisper's would end this process.
    with pytest.raises(SettingsError, match="Make both of one version"):
        unpacked(
            {"$record": "launcher.whisper.__main__:A", "fields": {}}, lambda _: pytest.fail("no session")
        )
    assert "launcher.whisper.__main__" not in sys.modules


def test_an_error_from_elsewhere_keeps_what_its_class_says() -> None:
    more = {"exit_code": 0, "__class__": "x", "args": 1, "with_traceback": "y", "quote": 7, "code": "new"}
    error = unpacked_error({"kind": "session", "message": ["a"], "hint": 3, **more})
    assert (error.exit_code, error.kind, error.quote) == (6, "session", "7")
    assert str(error) == "['a'] 3"
    assert vars(error)["code"] == "new"


@pytest.mark.parametrize(
    "sessions",
    [7, None, ["x"], {"a": 1}, [{"ends_at": "x"}], [{"ends_at": 1e300}], [{"state": ["a"], "id": {"a": 1}}]],
    ids=str,
)
def test_one_cluster_that_lies_does_not_hide_the_others(
    say: Say,
    sessions: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings(tmp_path, monkeypatch)
    say({"sessions": sessions})
    assert main(["status", "--everywhere"]) == 0
    shown = capsys.readouterr()
    assert "della" in shown.out + shown.err


@pytest.mark.parametrize("session", ["--close", "--export", "a b", "\x1b[2J", "", None, 7.5e300], ids=str)
def test_the_id_of_a_session_elsewhere_is_no_option_of_a_command_here(say: Say, session: object) -> None:
    say({"id": session, "job_id": "\x1b[2J"})
    with pytest.raises(SchedulerError, match="no id"):
        forwarded(CLUSTER, ["launch", "simulated", "--connect"], lambda words: pytest.fail(str(words)))


def test_what_is_fetched_is_not_put_into_a_file_that_somebody_else_left(say: Say, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"")
    part = tmp_path / ".out.txt.4-1.part"
    ways: list[Callable[[], object]] = [
        lambda: os.link(theirs, part), lambda: part.symlink_to(theirs), lambda: os.mkfifo(part),
    ]  # fmt: skip
    for lay in ways:
        lay()
        say(result(FILE), content(b"mine"))
        with pytest.raises((StorageError, OSError)):
            fetched(CLUSTER, "out.txt", tmp_path / "out.txt")
        part.unlink()
    assert theirs.read_bytes() == b""


def test_an_install_looks_whose_folder_it_is(tmp_path: Path) -> None:
    needs_root()
    script = resources.files("launcher.api.remote").joinpath("install.sh").read_text("utf-8")

    def looked(folder: Path) -> str:
        words = ["sh", "-s", "look", "none", "", str(folder)]
        return subprocess.run(words, input=script, capture_output=True, text=True, check=True).stdout

    assert "::foreign" not in looked(tmp_path)
    assert "::foreign" not in looked(tmp_path / "not there")
    os.chown(tmp_path, 12345, 12345)
    assert f"::foreign={tmp_path}\n" in looked(tmp_path)
