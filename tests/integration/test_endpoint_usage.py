"""What is used at the endpoint: each answered request is counted once, whoever is killed when; sums of a month."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from launcher.cli import usage as command
from launcher.errors import RequestError
from launcher.fleet import issued, tables
from launcher.fleet.months import prune
from launcher.fleet.spool import Spool
from launcher.fleet.store import Store
from launcher.fleet.usage import BY, Use, Uses, month, recent, sums
from tests.programs.front import wait_until
from tests.programs.postgres import Postgres


def use(id_: str = "1", **more: object) -> Use:
    wanted: dict[str, object] = {
        "id": id_, "at": time.time(), "key": "alice", "owner": "al", "model": "big", "cluster": "here",
        "session": "big-1", "path": "/v1/chat/completions", "status": 200, "prompt_tokens": 10,
        "completion_tokens": 5, "audio_s": 0.0, "first_byte_s": 0.25, "seconds": 2.0, **more,
    }  # fmt: skip
    return Use(**wanted)  # type: ignore[arg-type]


def ids(store: Store) -> list[str]:
    with store.reading() as connection:
        return sorted(connection.execute(select(tables.uses.c.id)).scalars())


# Two of these run at once. Each says an id only after the line is written: as a gateway its answer's last byte.
WRITER = """
import sys
import time
from pathlib import Path
from launcher.fleet.store import Store
from launcher.fleet.usage import Use, Uses
url, folder, name = sys.argv[1:]
uses = Uses(Store(url), Path(folder))
for n in range(10**6):
    uses.add(Use(f"{name}-{n}", 1.0, "k", "o", "m", "c", "s", "/p", 200, 1, 1, 0.0, None, 1.0))
    print(f"{name}-{n}", flush=True)
    time.sleep(0.002)
"""


def test_two_gateways_killed_at_any_moment_lose_no_use_and_count_none_twice(
    url: str, store: Store, tmp_path: Path
) -> None:
    """FIRST 12: the usage log survives kill -9: what was answered is counted, once."""
    folder, said = tmp_path / "spool", set[str]()
    for turn in range(2):
        with contextlib.ExitStack() as stack:
            both = []
            for name in ("a", "b"):
                argv = [sys.executable, "-c", WRITER, url, str(folder), f"{name}{turn}"]
                process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
                both.append(stack.enter_context(process))
                stack.callback(process.kill)
            # Far enough that some lines are in the store, some on their way and some only on the disk.
            for process in both:
                assert process.stdout is not None
                said |= {process.stdout.readline().strip() for _ in range(300 * (turn + 1))}
            for process in both:
                process.kill()
            for process in both:
                assert process.stdout is not None
                said |= set(process.stdout.read().split())
    uses = Uses(store, folder)  # the next start
    wait_until(lambda: len(os.listdir(folder)) == 1)  # its own
    uses.close()
    found = ids(store)
    assert len(found) == len(set(found))
    assert said - set(found) == set()
    assert len(found) <= len(said) + 4  # of each kill at most one was written and not yet said
    assert os.listdir(folder) == []


def left(folder: Path, name: str, data: bytes, age_s: float = 3600.0) -> None:
    """What a process on another host has left, or still writes."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"other-host.{name}.lines"
    path.write_bytes(data)
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_torn_last_line_was_never_said_and_hurts_no_other(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    whole = use("whole").line + b"\n"
    left(folder, "1", b"\n" + whole + whole + b'["x",1]\nnull\n\xff\n' + use("torn").line[:-9])
    Uses(store, folder).close()
    assert ids(store) == ["whole"]
    assert os.listdir(folder) == []


def test_a_gateway_on_another_host_that_lives_keeps_its_file(store: Store, tmp_path: Path) -> None:
    """The folder may lie in a home that many hosts see, where nobody sees another's locks."""
    folder = tmp_path / "spool"
    left(folder, "lives", use("its-own").line + b"\n", age_s=40.0)
    left(folder, "died", use("to-be-saved").line + b"\n")
    Uses(store, folder).close()
    assert ids(store) == ["to-be-saved"]
    assert os.listdir(folder) == ["other-host.lives.lines"]


def test_lines_wait_while_the_database_is_gone(
    postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(Store(postgres.database())) as store:
        folder = tmp_path / "spool"
        uses = Uses(store, folder)
        postgres.kill()
        try:
            uses.add(use("while-it-was-away"))
            wait_until(lambda: "what was used waits on the disk" in caplog.text)
            assert uses.waiting_bytes
            uses.close()  # and ends without it
            assert len(os.listdir(folder)) == 1
        finally:
            postgres.start()
        Uses(store, folder).close()
        assert ids(store) == ["while-it-was-away"]


def test_a_full_disk_loses_nothing_as_long_as_the_gateway_lives(store: Store, tmp_path: Path) -> None:
    uses = Uses(store, tmp_path / "spool")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    taken: list[bytes] = []
    spool = Spool(tmp_path / "small", taken.extend)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        for n in range(5):
            spool.add(b"%04d" % n * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    spool.add(b"after")
    spool.close()
    uses.close()
    assert {b"%04d" % n * 10 for n in range(5)} | {b"after"} <= set(taken)


def test_a_long_life_keeps_the_file_short(tmp_path: Path) -> None:
    taken: list[bytes] = []
    spool = Spool(tmp_path / "spool", taken.extend)
    (path,) = (tmp_path / "spool").iterdir()
    line = b"x" * 10_000
    for _ in range(500):
        spool.add(line)
    wait_until(lambda: len(taken) == 500 and path.stat().st_size == 0)
    spool.add(b"more")
    spool.close()
    assert (len(taken), taken[-1]) == (501, b"more")


def test_a_line_names_key_owner_model_and_place_and_nothing_else() -> None:
    words = [word for word in json.loads(use().line) if isinstance(word, str) and not word.isdigit()]
    assert words == ["alice", "al", "big", "here", "big-1", "/v1/chat/completions"]


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("model", "a\0b", "ab"),
        ("model", "half \ud83d", "half ?"),
        ("model", "naïve ☃ $(id)", "naïve ☃ $(id)"),
        ("prompt_tokens", 10**30, 2**40),
        ("status", 10**6, 999),
        ("audio_s", float("nan"), 0.0),
        ("seconds", float("inf"), 0.0),
    ],
)
def test_what_no_database_takes_does_not_stop_the_rest(
    store: Store, tmp_path: Path, field: str, value: object, kept: object
) -> None:
    uses = Uses(store, tmp_path / "spool")
    uses.add(use("odd", **{field: value}))
    uses.add(use("next"))
    uses.close()
    with store.reading() as connection:
        assert (
            connection.execute(select(tables.uses.c[field]).where(tables.uses.c.id == "odd")).scalar_one()
            == kept
        )
    assert ids(store) == ["next", "odd"]


@pytest.mark.parametrize(
    "changed",
    [{"status": "200"}, {"status": True}, {"at": "now"}, {"seconds": 10**400}, {"key": None}, {"at": None}],
)
def test_a_line_that_is_not_ours_does_not_stop_the_rest(changed: dict[str, object]) -> None:
    whole = use("odd")
    assert Use.parsed(whole.line) == whole
    assert Use.parsed(use("odd", **changed).line) is None


def test_the_sums_of_a_month(store: Store, tmp_path: Path) -> None:
    """FIRST 12: a table of a month, by key, model or owner."""
    begin, end = month("2026-11")
    assert time.localtime(begin)[:5] == (2026, 11, 1, 0, 0)
    assert time.localtime(end)[:5] == (2026, 12, 1, 0, 0)
    assert time.localtime(month("2026-12")[1])[:3] == (2027, 1, 1)
    uses = Uses(store, tmp_path / "spool")
    uses.add(use("before", at=begin - 1))
    uses.add(use("first", at=begin))
    uses.add(use("second", at=end - 1, key="bob", owner="al", status=429, first_byte_s=None, seconds=0.0))
    uses.add(
        use("third", at=begin + 9, key="bob", model="small", status=499, prompt_tokens=2**40, audio_s=1.5)
    )
    uses.add(use("after", at=end))
    uses.close()
    by_key = {one.name: one for one in sums(store, "key", begin, end)}
    assert list(by_key) == ["bob", "alice"]
    bob, alice = by_key["bob"], by_key["alice"]
    assert (bob.requests, bob.errors, bob.prompt_tokens, bob.completion_tokens) == (2, 1, 2**40 + 10, 10)
    assert (bob.audio_s, bob.first_byte_s, bob.seconds) == (1.5, None, None)
    assert (alice.requests, alice.errors, alice.first_byte_s, alice.seconds) == (1, 0, 0.25, 2.0)
    assert [(one.name, one.requests) for one in sums(store, "owner", begin, end)] == [("al", 3)]
    assert [one.name for one in sums(store, "model", begin, end)] == ["small", "big"]
    assert sums(store, "key", 0.0, 1.0) == []
    assert recent(store, begin + 30)["big"].requests == 2  # from the minute before it
    assert command.BY == BY, "the command names them without loading the database's library"


def test_old_uses_become_sums_of_their_month_each_once_and_keys_that_ended_as_long_ago_go(
    url: str, store: Store, tmp_path: Path
) -> None:
    begin, end = month("2024-02")
    issued.new(store, "ended", owner="al", lifetime_s=-500 * 86400.0)
    issued.new(store, "young", owner="al", lifetime_s=-86400.0)
    issued.new(store, "alice", owner="al", lifetime_s=None)
    uses = Uses(store, tmp_path / "spool")
    for n in range(40):
        at = (begin, end - 0.5, end, begin - 0.5)[n % 4]
        odd = {"first_byte_s": None, "status": (429, 499, 200, 502)[n // 4 % 4]} if n % 3 else {}
        uses.add(use(f"{n}", at=at, model=f"m{n % 5}", key="bob" if n % 2 else "alice", **odd))
    uses.add(use("broken", at=-1e300, prompt_tokens=2**40))
    uses.add(use("new"))
    uses.close()
    asked = [
        (by, *month(text)) for by in ("key", "model", "owner") for text in ("2024-01", "2024-02", "2024-03")
    ]
    before = [sums(store, *one) for one in asked]
    with ThreadPoolExecutor(2) as threads, contextlib.closing(Store(url)) as second:

        def all_of(mine: Store) -> None:
            while prune(mine, time.time() - 400 * 86400.0, 7):
                pass

        for done in [threads.submit(all_of, one) for one in (store, second)]:
            done.result()
    assert ids(store) == ["new"]
    assert [sums(store, *one) for one in asked] == before
    assert sum(one.requests for one in before[1]) == 20
    assert (
        sums(store, "key", begin + 60, end + 60) == []
    )  # of a month that lies only partly there, it cannot be told
    assert sum(one.requests for one in recent(store).values()) == 1
    assert [one.name for one in issued.listed(store)] == ["alice", "young"]


def test_the_gateways_thread_prunes_what_its_settings_say(store: Store, tmp_path: Path) -> None:
    uses = Uses(store, tmp_path / "spool")
    uses.add(use("old", at=time.time() - 34 * 86400.0))
    uses.add(use("kept", at=time.time() - 32 * 86400.0))
    uses.close()
    assert ids(store) == ["kept", "old"]
    uses = Uses(store, tmp_path / "spool", 33 * 86400.0)
    wait_until(lambda: ids(store) == ["kept"])
    uses.add(use("next"))
    uses.close()
    assert ids(store) == ["kept", "next"]
    assert sum(one.requests for one in sums(store, "key", 0.0, time.time() + 40 * 86400)) == 3


def test_a_store_without_months_gets_them(url: str, store: Store) -> None:
    with store.writing() as connection:
        tables.months.drop(connection)
        connection.execute(tables.notes.update().where(tables.notes.c.name == "schema").values(value="1"))
    with contextlib.closing(Store(url)) as upgraded:
        assert not prune(upgraded, time.time())
        assert upgraded.note("schema") == str(tables.SCHEMA)


def test_a_key_knows_when_it_was_last_used(store: Store, tmp_path: Path) -> None:
    issued.new(store, "alice", owner="al", lifetime_s=None)
    uses = Uses(store, tmp_path / "spool")
    for n, at in enumerate((50.0, 70.0, 60.0)):
        uses.add(use(str(n), at=at))
    uses.close()
    found = issued.find(store, "alice")
    assert found is not None
    assert found.used_at == 70.0


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "11-2026", "2026-1", "$(id)", "0000-01", "٢٠٢٦-١١"]
)
def test_what_is_no_month_says_how_to_write_one(text: str) -> None:
    with pytest.raises(RequestError, match="2026-11"):
        month(text)
