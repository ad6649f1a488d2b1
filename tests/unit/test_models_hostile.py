"""Folders and caches that somebody filled who means harm: looking at them ends, and leads nowhere else."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import zlib
from pathlib import Path

import pytest

from launcher.errors import StorageError
from launcher.models.folders import find, held
from launcher.models.hub.locks import locked
from launcher.models.hub.sharing import LOCK, Folder
from launcher.models.index import kept, note_use
from launcher.models.inspect.facts import Facts, facts
from launcher.models.removal import removal, remove
from launcher.models.sight import CROWDED
from launcher.settings.schema import Settings
from tests.unit.test_models_index import COMMIT, LATER, aged, model, plain, repository
from tests.unit.test_models_index import settings as settings
from tests.unit.test_models_index import shared as shared


def test_a_lock_that_stays_held_ends_in_a_sentence(tmp_path: Path) -> None:
    root = tmp_path / "models--a--b"
    root.mkdir()
    (root / LOCK).write_text('{"user": "root"}' + "[" * 100_000)
    said: list[str] = []
    me = pwd.getpwuid(os.geteuid()).pw_name
    with (root / LOCK).open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(StorageError, match=f"a file of {me}, is still held"),
            locked(root, said.append, patience_s=0.1),
        ):
            raise AssertionError
    assert said == [f"Another download or removal holds {root / LOCK}, a file of {me}; waiting."]
    with locked(root) as (folder, alone):
        assert alone
        assert folder.path == root


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "models--a--b"
    root.mkdir()
    if kind == "link":
        (root / LOCK).symlink_to(tmp_path / "mine")
    elif kind == "pipe":
        os.mkfifo(root / LOCK)
    else:
        (root / LOCK).mkdir()
    with pytest.raises(StorageError, match=r"\.launcher\.lock should be a file"), locked(root):
        raise AssertionError
    assert not (tmp_path / "mine").exists()


def test_what_is_written_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    mine.chmod(0o600)
    place = tmp_path / "refs"
    place.mkdir(mode=0o775)
    place.chmod(0o2775)
    (place / "main").symlink_to(mine)
    with Folder.at(place) as folder:
        folder.write("main", "text")
        folder.link("second", "../blobs/x")
        with pytest.raises(StorageError, match="should be a file"):
            folder.open("second")
    assert (mine.read_text(), mine.stat().st_mode & 0o777) == ("mine", 0o600)
    assert ((place / "main").read_text(), (place / "main").stat().st_mode & 0o777) == ("text", 0o664)
    assert sorted(os.listdir(place)) == ["main", "second"]


@pytest.mark.parametrize("where", ["snapshots", "refs", "blobs"])
def test_removing_goes_through_no_link(tmp_path: Path, where: str) -> None:
    root = repository(tmp_path, "org/name", COMMIT, LATER)
    blobs = root / "blobs"
    blobs.mkdir()
    for commit, name in ((COMMIT, "1" * 64), (LATER, "2" * 64)):
        (blobs / name).write_text("x")
        (root / "snapshots" / commit / "one.txt").symlink_to(f"../../blobs/{name}")
    (root / "refs" / "old").write_text(COMMIT)
    elsewhere = tmp_path / "elsewhere"
    os.rename(root / where, elsewhere)
    (root / where).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(StorageError, match=f"{where} should be a folder"):
        remove(removal("org/name", root, [COMMIT]))
    assert sorted(elsewhere.rglob("*")) == before
    remove(removal("org/name", root))
    assert sorted(elsewhere.rglob("*")) == before
    assert not root.exists()


def test_links_to_folders_lead_nowhere(settings: Settings, shared: Path, tmp_path: Path) -> None:
    secret = model(tmp_path / "secret")
    root = repository(shared, "org/name")
    (root / "snapshots" / LATER).symlink_to(secret)
    (shared / "models--a--b").mkdir()
    (shared / "models--a--b" / "snapshots").symlink_to(root / "snapshots")
    (model(shared / "fan") / "d").mkdir()
    for number in range(300):
        (shared / "fan" / "d" / f"l{number}").symlink_to(".")
    aged(shared)
    found = {k.id: k for k in kept(settings)}
    assert [k.revision for k in kept(settings) if k.id == "org/name"] == [COMMIT]
    assert found["a/b"].revision is None
    assert found["fan"].facts is not None
    assert [copy.commit for copy in find(shared, "org/name")] == [COMMIT]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_links_that_others_made_are_not_listed(settings: Settings, shared: Path, tmp_path: Path) -> None:
    model(tmp_path / "elsewhere" / "large")
    for name, owner in (("ours", 0), ("theirs", 65534)):
        (shared / name).symlink_to(tmp_path / "elsewhere" / "large")
        os.chown(shared / name, owner, owner, follow_symlinks=False)
    assert [k.id for k in kept(settings)] == ["ours"]


def test_a_crowded_folder_is_said_and_costs_once(settings: Settings, shared: Path) -> None:
    model(shared / "flat")
    crowded = model(shared / "crowded")
    for number in range(5001):
        (crowded / f"f{number}").touch()
    for number in range(101):
        (shared / "models--a--many" / "snapshots" / f"{number:040}").mkdir(parents=True)
    aged(shared)
    for _ in range(2):
        troubles = {k.id: k.trouble for k in kept(settings)}
        assert troubles == {"a/many": CROWDED, "crowded": CROWDED, "flat": None}
    assert "flat" in [copy.id for copy in held(shared)]


@pytest.mark.parametrize("how", ["open folder", "open file", "pipe", "link"])
def test_a_cache_that_others_can_write_is_not_believed(
    settings: Settings, shared: Path, tmp_path: Path, how: str
) -> None:
    model(shared / "one")
    aged(shared)
    before = plain(kept(settings))
    cache = tmp_path / "cache" / "models"
    (index,) = (path for path in cache.glob("*.index") if path.stat().st_size > 200)
    # As somebody would who knows the format: with the right sum.
    shape, body = json.loads(index.read_bytes().split(b"\n", 1)[0])[0], index.read_bytes().split(b"\n", 1)[1]
    changed = body.replace(b"\tone\t", b"\tevil\t", 1)
    forged = json.dumps([shape, zlib.crc32(changed)]).encode() + b"\n" + changed
    assert changed != body
    index.write_bytes(forged)
    if how == "open folder":
        cache.chmod(0o777)
    elif how == "open file":
        index.chmod(0o666)
    else:
        index.unlink()
        os.mkfifo(index) if how == "pipe" else index.symlink_to(tmp_path / "forged")
        (tmp_path / "forged").write_bytes(forged)
    if how == "pipe":
        (cache / "used").mkdir()
        os.mkfifo(cache / "used" / "pipe")
    assert plain(kept(settings)) == before
    note_use(shared / "one", Path(settings.places.cache))
    assert [k.id for k in kept(settings)] == ["one"]


def test_facts_of_another_type_are_no_facts(tmp_path: Path) -> None:
    whole = json.loads(json.dumps(facts(model(tmp_path / "one")).to_dict()))
    assert Facts.from_dict(whole).to_dict() == facts(tmp_path / "one").to_dict()
    for name, value in (("context", "8"), ("weights_bytes", None), ("block", ["a", "b"]), ("task", 1)):
        with pytest.raises(ValueError, match="not the facts"):
            Facts.from_dict({**whole, name: value})
    with pytest.raises(ValueError, match="not the facts"):
        Facts.from_dict({**whole, "caches": [{**whole["caches"][0], "heads": "x"}]})
