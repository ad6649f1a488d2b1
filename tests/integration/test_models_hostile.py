"""A shared folder whose other writer means harm, and a hub that answers with anything: what is mine stays as it is."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.models import BIG, FILES, GROUP, Models, before_a_hub, shared_by_a_group, start_as
from tests.programs.front import size_of, wait_until
from tests.site import Install
from tests.slurm.people import People

HASH = hashlib.sha256(FILES[BIG]).hexdigest()


@dataclass
class Shared:
    """A folder of models for alice, who is to be harmed, and bob, who plants things in it."""

    models: Models
    users: People
    installed: Install

    @property
    def root(self) -> Path:
        return self.models.shared / "models--org--name"

    @property
    def commit(self) -> str:
        return self.models.hub.repositories["org/name"].refs["main"]

    def private(self) -> Path:
        folder = self.models.root / "private"
        folder.mkdir(mode=0o700)
        (folder / HASH).write_text("mine")
        (folder / HASH).chmod(0o600)
        for path in (folder / HASH, folder):
            os.chown(path, self.users.alice.uid, self.users.alice.gid)
        return folder

    def plant(self, *paths: Path) -> None:
        for path in paths:
            os.chown(path, self.users.bob.uid, GROUP, follow_symlinks=False)
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o2775)

    def folders(self, *names: str) -> None:
        for path in (self.root, *(self.root / name for name in names)):
            path.mkdir()
            self.plant(path)

    def alice(self, *arguments: str, code: int = 0) -> str:
        process = start_as(self.users.alice, 0o022, self.installed, self.models, *arguments)
        out, error = process.communicate(timeout=90)
        assert process.returncode == code, out + error
        assert "Traceback" not in error
        return out + error


@pytest.fixture
def shared(users: People, installed: Install) -> Iterator[Shared]:
    with shared_by_a_group(0o2775) as models:
        yield Shared(models, users, installed)


@pytest.mark.parametrize("where", ["refs", "snapshots", "blobs", "snapshots/COMMIT", "."])
def test_a_planted_link_is_refused_and_what_it_leads_to_stays(shared: Shared, where: str) -> None:
    private = shared.private()
    if where != ".":
        shared.folders(*(n for n in ("refs", "snapshots", "blobs") if n != where))
    link = shared.root / where.replace("COMMIT", shared.commit)
    link.symlink_to(private)
    shared.plant(link)
    before = private.stat()
    said = shared.alice("add", "org/name", "--to", str(shared.models.shared), code=8)
    assert f"should be a folder, and {shared.users.bob.name} made something else of it" in said
    assert (private.stat().st_mode, private.stat().st_gid) == (before.st_mode, before.st_gid)
    assert os.listdir(private) == [HASH]
    assert (private / HASH).read_text() == "mine"
    assert shared.models.hub.transferred(BIG) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "open to all"])
def test_a_planted_beginning_is_not_written(shared: Shared, kind: str) -> None:
    private = shared.private()
    shared.folders("refs", "snapshots", "blobs")
    planted = shared.root / "blobs" / f"{HASH}.incomplete"
    if kind == "link":
        planted.symlink_to(private / HASH)
    elif kind == "pipe":
        os.mkfifo(planted, 0o666)
    else:
        planted.write_bytes(b"x" * 5000)
    shared.plant(planted)
    if kind == "open to all":
        planted.chmod(0o666)
        shared.plant(*[planted])
    with planted.open("rb+") if kind == "open to all" else open(os.devnull, "rb+") as held:
        shared.alice("add", "org/name", "--to", str(shared.models.shared))
        held.write(b"EVIL")
    blob = shared.root / "blobs" / HASH
    assert blob.read_bytes() == FILES[BIG]
    assert (blob.stat().st_uid, blob.stat().st_mode & 0o022) == (shared.users.alice.uid, 0)
    assert (private / HASH).read_text() == "mine"
    assert "all right" in shared.alice("verify", "org/name")


def test_a_beginning_that_is_swapped_meanwhile_harms_nothing(shared: Shared) -> None:
    private, gate = shared.private(), threading.Event()
    shared.models.hub.trouble(BIG, hold=(3_000_000, gate))
    to = ("add", "org/name", "--to", str(shared.models.shared))
    process = start_as(shared.users.alice, 0o022, shared.installed, shared.models, *to)
    partial = shared.root / "blobs" / f"{HASH}.incomplete"
    wait_until(lambda: size_of(partial) >= 2 << 20, 60)
    partial.rename(partial.with_name(".x"))
    partial.symlink_to(private / HASH)
    shared.plant(partial)
    gate.set()
    out, error = process.communicate(timeout=90)
    assert process.returncode == 0, out + error
    assert (private / HASH).read_text() == "mine"
    assert stat.S_IMODE((private / HASH).stat().st_mode) == 0o600
    assert (shared.root / "blobs" / HASH).read_bytes() == FILES[BIG]


def test_what_others_put_there_is_hashed_or_named(shared: Shared) -> None:
    shared.folders("refs", "snapshots", "blobs")
    blob = shared.root / "blobs" / HASH
    blob.write_bytes(bytes(len(FILES[BIG])))
    shared.plant(blob)
    to = ("add", "org/name", "--to", str(shared.models.shared))
    assert f"there from {shared.users.bob.name}" in shared.alice(*to)
    assert blob.read_bytes() == FILES[BIG]
    assert "already there" not in shared.alice(*to)
    shared.plant(blob)
    assert f"It is already there, from {shared.users.bob.name}; check it with: " in shared.alice(*to)


def test_a_lock_that_is_held_is_said_with_its_owner(shared: Shared) -> None:
    shared.folders("snapshots")
    os.chown(shared.root, shared.users.alice.uid, GROUP)
    lock = shared.root / ".launcher.lock"
    lock.write_text('{"user": "root", "host": "x"}' + "[" * 100_000)
    shared.plant(lock)
    lock.chmod(0o666)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for command in (("add", "org/name", "--to", str(shared.models.shared)), ("rm", "org/name", "--yes")):
            process = start_as(shared.users.alice, 0o022, shared.installed, shared.models, *command)
            assert process.stderr is not None
            said = next(line for line in process.stderr if "waiting" in line)
            assert f"{lock}, a file of {shared.users.bob.name}; waiting." in said
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with before_a_hub(tmp_path) as made:
        yield made


def test_a_server_that_does_not_stop_is_stopped(models: Models) -> None:
    models.hub.trouble(BIG, more=50_000_000)
    said = models.refused("add", "org/name")
    assert said.startswith(f"{BIG} is longer than the {len(FILES[BIG])} bytes that the hub announces.")
    assert models.hub.transferred(BIG) == [0]
    assert sum(path.stat().st_size for path in models.own.rglob("*") if path.is_file()) < 5_000_000


def test_hidden_files_of_a_repository_are_left_out(models: Models) -> None:
    models.hub.add("org/name", {**FILES, ".ipython/startup/00.py": b"1", "a/.env.json": b"{}"})
    models.run("add", "org/name")
    assert [path for path in models.own.rglob(".*") if path.name != ".launcher.lock"] == []


OK = {"rfilename": "config.json", "size": 2, "blobId": "b" * 40}
BASE: dict[str, Any] = {"id": "org/name", "sha": "a" * 40, "siblings": [], "tags": []}
SHAPES: list[object] = [
    BASE | {"siblings": 5}, BASE | {"siblings": [None]}, BASE | {"siblings": [{}]}, BASE | {"sha": 5}, [1], 7,
    {"sha": "a" * 40}, BASE | {"siblings": [OK | {"lfs": "x"}]}, BASE | {"createdAt": "x\x1b[31m"},
    BASE | {"safetensors": 5}, BASE | {"siblings": [OK | {"size": 10**400}]}, BASE | {"siblings": [OK] * 30_000},
]  # fmt: skip
_LIST = """
import sys
from launcher.errors import ModelError
from launcher.models.hub.client import Hub
hub = Hub()
for number in range(int(sys.argv[1])):
    try:
        hub.listing("org/name", str(number))
        print("believed")
    except ModelError as error:
        print(error)
"""


def listings(bodies: list[bytes], **headers: str) -> list[str]:
    """What is said of each of these answers to the question for a listing."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies[int(self.path.split("?")[0].rpartition("/")[2])]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            write: Callable[[bytes], object] = self.wfile.write
            write(body)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None: ...

    server = Server(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    env = {"PATH": os.environ["PATH"], "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LIST, str(len(bodies))], env=env | {"HF_HOME": "/nowhere"},
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_listing_of_any_shape_is_one_sentence() -> None:
    bodies = [json.dumps(shape).encode() for shape in SHAPES] + [b"[" * 200_000, b"<html>", b"\xff"]
    said = listings(bodies)
    assert len(said) == len(bodies), said
    for sentence in said:
        assert " as a hub does" in sentence, said
        assert sentence.isprintable()


def test_a_listing_without_end_or_compressed_is_not_read() -> None:
    assert "is longer than any hub's" in listings([b" " * 20_000_000])[0]
    assert "sends compressed answers" in listings([b"x"], Content_Encoding="gzip")[0]
