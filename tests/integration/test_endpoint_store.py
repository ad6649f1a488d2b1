"""The endpoint's state in a file and in a real PostgreSQL: who may start a job, also with two gateways at once."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from launcher.errors import StorageError
from launcher.fleet import tables
from launcher.fleet.store import LEAVING, PLANNED, Replica, Store, Traffic
from launcher.sessions.mounts import file_system, shared_by_hosts
from tests.hostile import HOSTILE
from tests.programs.front import wait_until
from tests.programs.postgres import LOCKED, Postgres

Opened = Callable[[str], Store]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens stores and closes them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda url: stack.enter_context(contextlib.closing(Store(url)))


@pytest.fixture
def store(url: str, opened: Opened) -> Store:
    return opened(url)


def test_what_was_kept_is_there_after_a_restart_and_the_first_writer_wins(url: str, opened: Opened) -> None:
    first, second = opened(url), opened(url)
    assert first.note("port") is None
    assert [first.keep("port", "4711"), second.keep("port", "4712")] == ["4711", "4711"]
    first.close()
    assert opened(url).note("port") == "4711"


CLAIMS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from launcher.fleet.store import Store
url, name = sys.argv[1:]
print("there", flush=True)
sys.stdin.readline()
store = Store(url)
with ThreadPoolExecutor(10) as threads:
    print(sum(threads.map(lambda n: store.claim("big", n % 5, name, 60.0), range(25))))
"""


def test_fifty_claims_from_two_gateways_are_one_for_each_slot(url: str, opened: Opened) -> None:
    """FIRST 3: two gateways on one state start one job, however many requests come at once."""
    pipe = subprocess.PIPE
    # Both also make the tables at the same moment.
    both = [
        subprocess.Popen([sys.executable, "-c", CLAIMS, url, name], stdin=pipe, stdout=pipe, text=True)
        for name in ("a", "b")
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(int(process.communicate(timeout=60)[0]) for process in both) == 5
    assert [(row.model, row.slot) for row in opened(url).replicas()] == [("big", slot) for slot in range(5)]


def test_a_claim_belongs_to_one_until_its_time_is_over(store: Store) -> None:
    assert store.claim("m", 0, "a", 60.0)
    assert not store.claim("m", 0, "b", 60.0)
    assert not store.claim("m", 0, "a", 60.0)  # nor twice to the same: two of its tasks might ask
    assert store.claim("m", 1, "b", 60.0)
    assert not store.planned("m", 0, "b", "m-1", "local", "cpu")
    assert store.planned("m", 0, "a", "m-1", "local", "cpu", replaces="m-0")
    (row, _) = store.replicas()
    assert (row.gateway, row.session, row.cluster, row.profile) == ("a", "m-1", "local", "cpu")
    assert (row.state, row.replaces) == (PLANNED, "m-0")


def test_a_claim_that_led_to_nothing_goes_to_the_next(store: Store) -> None:
    assert store.claim("m", 0, "a", 0.01)
    wait_until(lambda: not store.replicas())
    assert store.claim("m", 0, "b", 60.0)
    # The first one was only slow: it must not submit a second job.
    assert not store.planned("m", 0, "a", "m-1", "local", "cpu")
    assert store.planned("m", 0, "b", "m-2", "local", "cpu")


def test_a_session_of_a_gateway_that_died_is_taken_over_and_never_started_again(store: Store) -> None:
    store.present("a", "http://a", 60.0)
    assert store.claim("m", 0, "a", 60.0)
    assert store.planned("m", 0, "a", "m-1", "local", "cpu")
    assert store.take_over("b", 60.0) == []
    store.present("a", "http://a", 0.01)  # its last sign of life
    taken: list[Replica] = []

    def taken_over() -> bool:
        taken.extend(store.take_over("b", 60.0))
        return bool(taken)

    wait_until(taken_over)
    assert [(row.session, row.gateway) for row in taken] == [("m-1", "b")]
    assert not store.claim("m", 0, "a", 60.0)
    assert not store.claim("m", 0, "c", 60.0)
    assert store.take_over("c", 60.0) == []
    assert [one.id for one in store.gateways()] == []


def test_a_heartbeat_keeps_every_claim(store: Store) -> None:
    assert store.claim("m", 0, "a", 60.0)
    assert store.planned("m", 0, "a", "m-1", "local", "cpu")
    store.present("a", "http://a", 600.0)
    (row,) = store.replicas()
    with store.reading() as connection:
        assert row.until > store.now(connection) + 500


def test_who_knows_that_the_other_is_dead_need_not_wait(store: Store) -> None:
    store.present("a", "http://a", 600.0)
    assert store.claim("m", 0, "a", 600.0)
    assert store.claim("m", 1, "a", 600.0)
    assert store.planned("m", 0, "a", "m-1", "local", "cpu")
    assert [row.session for row in store.take_over("b", 60.0, dead=["a"])] == ["m-1"]
    assert store.claim("m", 1, "b", 60.0)
    assert store.gateways() == []


def test_a_gateway_that_ends_well_leaves_its_sessions_to_the_next(store: Store) -> None:
    store.present("a", "http://a", 600.0)
    assert store.claim("m", 0, "a", 600.0)
    assert store.claim("m", 1, "a", 600.0)
    assert store.planned("m", 0, "a", "m-1", "local", "cpu")
    store.gone("a")
    assert [row.session for row in store.take_over("b", 60.0)] == ["m-1"]
    assert store.claim("m", 1, "b", 60.0)


def test_a_slot_is_free_once_its_own_session_is_over(store: Store) -> None:
    assert store.claim("m", 0, "a", 60.0)
    assert store.planned("m", 0, "a", "m-1", "local", "cpu")
    store.leaving("m", 0, "idle")
    (row,) = store.replicas()
    assert (row.state, row.reason) == (LEAVING, "idle")
    assert not store.release("m", 0, None)
    assert not store.release("m", 0, "m-0")
    assert not store.claim("m", 0, "b", 60.0)
    assert store.release("m", 0, "m-1")
    assert store.claim("m", 0, "b", 60.0)


def test_gateways_know_what_the_others_send(store: Store) -> None:
    for name in ("a", "b"):
        store.present(name, f"http://{name}", 60.0)
    store.report("a", [Traffic("m", "m-1", 2, 0, 10.0), Traffic("m", "", 0, 7, 12.0)])
    store.report("b", [Traffic("m", "m-1", 3, 0, 11.0)])
    store.report("dead", [Traffic("m", "m-1", 100, 0, 11.0)])  # it never said that it lives
    assert store.loads() == [Traffic("m", "", 0, 7, 12.0), Traffic("m", "m-1", 5, 0, 11.0)]
    store.report("a", [])
    assert store.loads() == [Traffic("m", "m-1", 3, 0, 11.0)]
    assert [(one.id, one.url, one.pid) for one in store.gateways()] == [
        ("a", "http://a", os.getpid()),
        ("b", "http://b", os.getpid()),
    ]


def test_a_gateway_that_was_killed_is_forgotten_and_its_sessions_are_not(store: Store) -> None:
    store.present("killed", "http://a", -7200.0)
    store.report("killed", [Traffic("m", "m-1", 2, 0, 10.0)])
    with store.writing() as connection:
        connection.execute(tables.replicas.insert().values(
            model="m", slot=0, gateway="killed", until=1.0, claimed_at=1.0, state=PLANNED, reason="", session="m-1",
            cluster="c", profile="p",
        ))  # fmt: skip
    store.present("b", "http://b", 60.0)
    with store.reading() as connection:
        assert connection.execute(select(tables.gateways.c.id)).scalars().all() == ["b"]
        assert connection.execute(select(tables.loads)).all() == []
    assert [row.session for row in store.take_over("b", 60.0)] == ["m-1"]


def test_names_are_only_names(store: Store) -> None:
    for slot, name in enumerate(text for text in HOSTILE if "\0" not in text):
        assert store.claim(name, slot, name, 60.0)
        assert store.planned(name, slot, name, name, name, name)
        (row,) = store.replicas()
        assert (row.model, row.session, row.gateway) == (name, name, name)
        assert store.release(name, slot, name)


def test_a_store_of_a_newer_launcher_is_left_alone(url: str, store: Store) -> None:
    with store.writing() as connection:
        connection.execute(
            tables.notes.update().where(tables.notes.c.name == "schema").values(value=str(tables.SCHEMA + 1))
        )
    with pytest.raises(StorageError, match="newer launcher"):
        Store(url)
    with store.reading() as connection:
        assert connection.execute(select(tables.notes.c.value)).scalar() == str(tables.SCHEMA + 1)


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    def half() -> None:
        with store.writing() as connection:
            connection.execute(tables.notes.insert().values(name="half", value="1"))
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        half()
    assert store.note("half") is None


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(f"sqlite:///{tmp_path}/state/endpoint.db")
        store.keep("port", "1")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert "endpoint.db-wal" in modes
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def _made(path: Path, data: bytes, mode: int = 0o600) -> None:
    path.write_bytes(data)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda path: _made(path, b"", 0o644), "somebody else"),
        (lambda path: _made(path, b"no database at all" * 100), "not a database"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to("elsewhere"), "symbolic"),
    ],
)
def test_a_file_that_cannot_be_the_state_is_named(
    tmp_path: Path, prepare: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "endpoint.db"
    prepare(path)
    with pytest.raises(StorageError, match=said) as caught:
        Store(f"sqlite:///{path}")
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/d", "hunter2", "", "sqlite://", "sqlite:///:memory:", "oracle+x://u:hunter2@h"],
)
def test_a_url_that_is_none_says_what_to_write(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        Store(url)
    assert "sqlite:////" in str(caught.value.hint)
    assert "hunter2" not in str(caught.value)


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        Store(f"postgresql://me:hunter2@/x?host={tmp_path}&password=hunter3")
    assert "postgresql://me:***@/x" in caught.value.message
    assert "hunter" not in str(caught.value)
    assert "Is it running?" in str(caught.value.hint)


def test_a_password_that_is_missing_or_wrong_says_where_it_belongs(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, passwords = postgres.database_of(LOCKED, postgres.database()), tmp_path / "pgpass"
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    for said in ("no password supplied", "password authentication failed"):
        with pytest.raises(StorageError, match=said) as caught:
            Store(url)
        assert "~/.pgpass" in str(caught.value.hint)
        assert "hunter2" not in str(caught.value)
        passwords.write_text("*:*:*:*:hunter2\n")
        passwords.chmod(0o600)


def test_a_database_of_another_role_says_that_each_user_needs_their_own(postgres: Postgres) -> None:
    url = postgres.database_of("stranger", postgres.database())
    for wanted, said in ((url, "no schema"), (url.partition("&options")[0], "permission denied")):
        with pytest.raises(StorageError, match=said) as caught:
            Store(wanted)
        assert "theirs alone" in str(caught.value.hint)


def test_without_psycopg_the_sentence_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # what Python finds where the extra is not installed
    with pytest.raises(StorageError, match="needs psycopg") as caught:
        Store("postgresql://localhost/none")
    assert "make install PREFIX=… EXTRAS='ui whisper postgres'" in str(caught.value.hint)


def test_a_server_that_was_restarted_is_found_again(postgres: Postgres, opened: Opened) -> None:
    store = opened(postgres.database())
    assert store.claim("m", 0, "a", 600.0)
    postgres.kill()
    with pytest.raises(StorageError):
        store.replicas()
    postgres.start()
    assert [row.model for row in store.replicas()] == ["m"]


MOUNTS = """\
/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/my\\040disk xfs rw 0 0
lustre /scratch lustre rw 0 0
x /mnt/ssh fuse.sshfs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("/var/tmp/x.db", False),
        ("/home/me/x.db", True),
        ("/home/my disk/x.db", False),
        ("/homely/x.db", False),
        ("/scratch/me/x.db", True),
        ("/mnt/ssh/x", True),
    ],
)
def test_a_networks_file_system_is_known(tmp_path: Path, path: str, shared: bool) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert shared_by_hosts(file_system(Path(path), mounts)) is shared


KILLED = """
import sys
from launcher.fleet.store import Store
store = Store(sys.argv[1])
for slot in range(10**6):
    assert store.claim("m", slot, "a", 600.0)
    assert store.planned("m", slot, "a", f"m-{slot}", "local", "cpu")
    print(slot, flush=True)
"""


def test_what_was_said_is_there_after_a_kill(url: str, opened: Opened) -> None:
    """kill -9 in the middle of a transaction loses none that had ended."""
    argv = [sys.executable, "-c", KILLED, url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        process.kill()
        said += [int(line) for line in process.stdout.read().split()]
    there = {row.slot: row.session for row in opened(url).replicas()}
    assert [there.get(slot) for slot in said] == [f"m-{slot}" for slot in said]
    assert len(there) <= len(said) + 1
