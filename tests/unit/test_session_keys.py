"""Further keys on disk: names, limits, spans, what is not believed, and two commands at once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RequestError, StorageError
from launcher.sessions import keys
from launcher.sessions.clock import span_s
from launcher.sessions.paths import SessionPaths
from tests.hostile import HOSTILE

ROOT = Path(__file__).resolve().parents[2]
ENTRY = {"name": "alice", "digest": "5a" * 32, "created_at": 1000.0}


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    return SessionPaths(tmp_path)


def names(paths: SessionPaths) -> list[str]:
    return [key.name for key in keys.read(paths.further_keys)]


def written(paths: SessionPaths, content: object) -> None:
    paths.further_keys.write_text(content if isinstance(content, str) else json.dumps(content))
    paths.further_keys.chmod(0o600)


def test_a_key_is_kept_as_its_hash_for_its_owner_alone(paths: SessionPaths) -> None:
    key, secret = keys.new(paths, "alice", lifetime_s=3600, requests_per_minute=60, tokens_per_minute=1000)
    assert secret.startswith("sk-")
    assert len(bytes.fromhex(secret.removeprefix("sk-"))) == 32
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert keys.read(paths.further_keys) == (key,)
    assert paths.further_keys.stat().st_mode & 0o777 == 0o600
    for file in paths.root.iterdir():
        assert secret not in file.read_text(), file
        assert secret.removeprefix("sk-") not in file.read_text(), file
    assert keys.new(paths, "bob")[1] != secret
    assert names(paths) == ["alice", "bob"]


def test_no_file_is_no_further_keys(paths: SessionPaths) -> None:
    assert keys.read(paths.further_keys) == ()
    with pytest.raises(RequestError, match="has no further keys"):
        keys.revoke(paths, "alice")


@pytest.mark.parametrize("name", ["a", "Z9", "a.b-c_d", "0" * 64])
def test_names(name: str, paths: SessionPaths) -> None:
    keys.new(paths, name)
    assert names(paths) == [name]


@pytest.mark.parametrize("name", [*HOSTILE, "session", "Session", "a" * 65, ".a", "_a", "é", "a\n", "１"])
def test_hostile_names_are_refused_and_change_nothing(name: str, paths: SessionPaths) -> None:
    keys.new(paths, "alice")
    before = paths.further_keys.read_bytes()
    with pytest.raises(RequestError):
        keys.new(paths, name)
    with pytest.raises(RequestError):
        keys.revoke(paths, name)
    assert paths.further_keys.read_bytes() == before


def test_a_name_is_free_again_once_its_key_is_revoked_or_has_expired(paths: SessionPaths) -> None:
    first, _ = keys.new(paths, "alice")
    with pytest.raises(RequestError, match='There is a key "alice" already'):
        keys.new(paths, "alice")
    assert keys.revoke(paths, "alice") == first
    keys.new(paths, "alice", lifetime_s=-1.0)
    assert keys.read(paths.further_keys)[0].expired
    third, _ = keys.new(paths, "alice", lifetime_s=60)
    assert keys.read(paths.further_keys) == (third,)
    assert not third.expired


def test_a_key_is_renewed_from_now_on_also_when_it_has_expired(paths: SessionPaths) -> None:
    for lifetime_s in (3600.0, -1.0):
        made, _ = keys.new(paths, "alice", lifetime_s=lifetime_s, requests_per_minute=60)
        keys.renew(paths, "alice", 7200.0)
        (now,) = keys.read(paths.further_keys)
        assert (now.expires_at or 0) > time.time() + 7000
        assert (now.digest, now.requests_per_minute) == (made.digest, 60)
        keys.revoke(paths, "alice")
        with pytest.raises(RequestError, match="has no further keys"):
            keys.renew(paths, "alice", 7200.0)  # what was taken away stays so


def test_a_slip_in_a_name_is_told_what_is_near(paths: SessionPaths) -> None:
    for name in ("alice", "bob", "course-2026"):
        keys.new(paths, name)
    with pytest.raises(RequestError) as caught:
        keys.revoke(paths, "alcie")
    assert caught.value.hint == "Its keys: alice."
    with pytest.raises(RequestError, match="alice, bob, course-2026"):
        keys.revoke(paths, "zzz")


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "60", 10**10])
@pytest.mark.parametrize("what", ["requests_per_minute", "tokens_per_minute"])
def test_limits_are_whole_numbers_of_at_least_one(what: str, value: Any, paths: SessionPaths) -> None:
    option = what.replace("_", "-")
    with pytest.raises(RequestError, match=rf"{what} \(--{option}\) must be a whole number"):
        keys.new(paths, "alice", **{what: value})
    assert not paths.further_keys.exists()


def test_the_number_of_keys_is_bounded_and_expired_ones_make_room(paths: SessionPaths) -> None:
    entries = [{**ENTRY, "name": f"k{i}"} for i in range(keys.KEYS_MAX)]
    written(paths, {"schema": 1, "keys": entries})
    with pytest.raises(RequestError, match="can have 256 further keys"):
        keys.new(paths, "alice")
    entries[7]["expires_at"] = 2000.0
    written(paths, {"schema": 1, "keys": entries})
    keys.new(paths, "alice")
    assert len(names(paths)) == keys.KEYS_MAX
    assert "k7" not in names(paths)


def in_file(**changes: object) -> dict[str, object]:
    return {"schema": 1, "keys": [{**ENTRY, **changes}]}


def test_the_written_form_is_stable(paths: SessionPaths) -> None:
    written(paths, in_file(expires_at=4e9, tokens_per_minute=7))
    assert keys.read(paths.further_keys) == (
        keys.NamedKey("alice", "5a" * 32, 1000.0, 4e9, requests_per_minute=None, tokens_per_minute=7),
    )


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "7", '{"schema": 1}', '{"schema": 1, "keys": {}', "[" * 100_000, "\0", " " * (1 << 21),
        {"schema": 2, "keys": []}, {"schema": 1, "keys": [7]}, {"schema": 1, "keys": [ENTRY, ENTRY]},
        {"schema": 1, "keys": [{"name": "alice"}]}, in_file(name="session"), in_file(name="a b"), in_file(name=7),
        in_file(digest="5A" * 32), in_file(digest="5a"), in_file(digest=None), in_file(created_at="now"),
        in_file(created_at=None), in_file(expires_at=float("nan")), in_file(expires_at=float("inf")),
        in_file(expires_at=True), in_file(requests_per_minute=0), in_file(tokens_per_minute=2.5),
        in_file(models=["only-this-one"]),
    ],
)  # fmt: skip
def test_a_broken_file_is_not_believed_nor_written_over(content: object, paths: SessionPaths) -> None:
    written(paths, content)
    before = paths.further_keys.read_bytes()
    for attempt in (
        lambda: keys.read(paths.further_keys),
        lambda: keys.new(paths, "bob"),
        lambda: keys.revoke(paths, "alice"),
    ):
        with pytest.raises(StorageError, match=r"keys\.json is not believed"):
            attempt()
    assert paths.further_keys.read_bytes() == before


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_believed(mode: int, paths: SessionPaths) -> None:
    keys.new(paths, "alice")
    paths.further_keys.chmod(mode)
    with pytest.raises(StorageError, match="somebody else could have written it"):
        keys.read(paths.further_keys)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_believed(paths: SessionPaths) -> None:
    keys.new(paths, "alice")
    os.chown(paths.further_keys, 65534, 65534)
    with pytest.raises(StorageError, match="somebody else could have written it"):
        keys.read(paths.further_keys)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to(path.with_name("elsewhere")),
        lambda path: os.mkfifo(path, 0o600),
        lambda path: path.mkdir(0o700),
    ],
)
def test_what_is_no_plain_file_neither_opens_nor_hangs(
    make: Callable[[Path], None], paths: SessionPaths
) -> None:
    written(SessionPaths(paths.root), in_file())
    paths.further_keys.rename(paths.root / "elsewhere")
    make(paths.further_keys)
    with pytest.raises((StorageError, OSError)):
        keys.read(paths.further_keys)
    with pytest.raises(StorageError):
        keys.new(paths, "bob")


def test_a_folder_that_is_gone_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        keys.new(SessionPaths(tmp_path / "gone"), "alice")


def test_two_commands_at_once_lose_nothing(paths: SessionPaths) -> None:
    code = (
        "import sys; from pathlib import Path; from launcher.sessions import keys\n"
        "from launcher.sessions.paths import SessionPaths\n"
        "paths, who = SessionPaths(Path(sys.argv[1])), sys.argv[2]\n"
        "for i in range(25):\n"
        "    keys.new(paths, f'{who}{i}')\n"
        "    keys.new(paths, f'{who}-short')\n"
        "    keys.revoke(paths, f'{who}-short')\n"
    )
    argv = [sys.executable, "-c", code, str(paths.root)]
    running = [subprocess.Popen([*argv, who], cwd=ROOT) for who in ("a", "b")]
    seen: set[str] = set()
    while any(process.poll() is None for process in running):
        seen |= set(names(paths))  # a reader never meets a half-written file
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(names(paths)) == sorted(f"{who}{i}" for who in "ab" for i in range(25))
    assert seen


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("12h", 43200), ("3d", 259200), ("2w", 1209600), ("0.5h", 1800), ("1m", 60)],
)
def test_spans(text: str, seconds: float) -> None:
    assert span_s(text) == seconds


@pytest.mark.parametrize(
    "text",
    [*HOSTILE, "3", "d", "3 d", "3D", "-3d", "+3d", "0d", "0.0h", "1e3d", "3d ", "3dd", "1h30m", "٣d", "600w",
     "999999999w", "nan", "infd", "3d\n", ".5h"],
)  # fmt: skip
def test_what_is_no_span_is_refused_with_examples(text: str) -> None:
    with pytest.raises(RequestError, match="90m, 12h, 3d or 2w"):
        span_s(text)


def test_an_expiry_is_a_time_after_the_creation(paths: SessionPaths) -> None:
    before = time.time()
    key, _ = keys.new(paths, "alice", lifetime_s=span_s("3d"))
    assert key.created_at >= before
    assert key.expires_at == key.created_at + 3 * 86400
    assert keys.new(paths, "bob")[0].expires_at is None
