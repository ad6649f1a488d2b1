"""Removing models: all that goes is worked out first, and nothing goes where a part of it could not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import StorageError
from launcher.models.removal import removal, remove
from launcher.models.snapshot import check_snapshot
from tests.snapshots import COMMIT, OTHER_COMMIT, as_nobody, repository

MAIN, V1 = {"main": COMMIT}, {"main": COMMIT, "release/v1": OTHER_COMMIT}


def left(folder: Path) -> list[str]:
    """Every file and link in `folder`, with the hidden ones."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def copied(root: Path, to: Path) -> Path:
    """As `cp -rL` or `rsync --copy-links` makes it, and as one copies snapshots and refs alone."""
    made = to / root.name
    shutil.copytree(root / "snapshots", made / "snapshots")
    shutil.copytree(root / "refs", made / "refs")
    return made


def test_a_copy_without_blobs_loses_one_revision_and_keeps_the_other(tmp_path: Path) -> None:
    whole = repository(tmp_path / "one", "org/name", COMMIT, OTHER_COMMIT, **V1)
    root = copied(whole, tmp_path / "two")
    expected = sum(path.stat().st_size for path in (root / "snapshots" / OTHER_COMMIT).iterdir())
    planned = removal("org/name", root, [OTHER_COMMIT])
    assert (planned.bytes, planned.refs, planned.blobs) == (expected, ("release/v1",), ())
    assert remove(planned) == expected
    assert left(root) == ["refs/main", *(f"snapshots/{COMMIT}/{name}" for name in
                          ("config.json", "model.safetensors", "tokenizer.json"))]  # fmt: skip
    assert not (root / "refs" / "release").exists()
    assert remove(removal("org/name", root, [COMMIT])) == expected + len(COMMIT)  # and the ref
    assert os.listdir(tmp_path / "two") == []


def test_one_revision_goes_with_what_only_it_has(tmp_path: Path) -> None:
    root = repository(tmp_path, "org/name", COMMIT, OTHER_COMMIT, **V1)
    shared = root / "blobs" / f"{COMMIT}-config.json"
    link = root / "snapshots" / OTHER_COMMIT / "config.json"
    (root / "blobs" / f"{OTHER_COMMIT}-config.json").unlink()
    link.unlink()
    link.symlink_to(shared)  # by its whole path, as a hand makes it
    (root / "blobs" / "0123.incomplete").write_bytes(b"another download")
    remove(removal("org/name", root, [COMMIT]))
    assert check_snapshot(root / "snapshots" / OTHER_COMMIT, "m").files == ("model.safetensors",)
    assert left(root / "blobs") == sorted(
        [
            "0123.incomplete",
            shared.name,
            *(f"{OTHER_COMMIT}-{n}" for n in ("model.safetensors", "tokenizer.json")),
        ]
    )
    assert not list(root.glob(".*"))  # neither the lock nor anything else that nobody asked for


def test_a_revision_that_came_meanwhile_stays(tmp_path: Path) -> None:
    root = repository(tmp_path, "org/name", COMMIT, **MAIN)
    planned = removal("org/name", root)
    assert planned.everything
    shutil.copytree(root / "snapshots" / COMMIT, root / "snapshots" / OTHER_COMMIT)
    remove(planned)
    assert os.listdir(root / "snapshots") == [OTHER_COMMIT]
    check_snapshot(root / "snapshots" / OTHER_COMMIT, "m")


def test_a_link_from_what_stays_into_what_goes_ends_it_before_anything(tmp_path: Path) -> None:
    root = copied(repository(tmp_path / "one", "org/name", COMMIT, OTHER_COMMIT, **V1), tmp_path / "two")
    link = root / "snapshots" / COMMIT / "model.safetensors"
    link.unlink()
    link.symlink_to(f"../{OTHER_COMMIT}/model.safetensors")
    before = left(root)
    with pytest.raises(StorageError, match=r"nothing is removed, because .* is a link into what would go"):
        removal("org/name", root, [OTHER_COMMIT])
    assert left(root) == before
    remove(removal("org/name", root))
    assert os.listdir(tmp_path / "two") == []


def test_a_folder_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    root = repository(tmp_path / "one", "org/name", COMMIT, OTHER_COMMIT, **V1)
    other = repository(tmp_path / "two", "org/other", COMMIT, OTHER_COMMIT, **V1)
    before = left(other)
    planned = removal("org/name", root, [OTHER_COMMIT])
    for name in ("snapshots", "blobs"):
        (root / name).rename(tmp_path / f"was-{name}")
        (root / name).symlink_to(other / name)
        with pytest.raises(StorageError):
            remove(planned)
        (root / name).unlink()
        (tmp_path / f"was-{name}").rename(root / name)
    assert left(other) == before
    (tmp_path / "three").symlink_to(root)
    with pytest.raises(StorageError, match="is not yours to remove"):
        removal("org/name", tmp_path / "three")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder whose path everybody may walk and write, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def test_nothing_goes_where_a_part_of_it_may_not(public: Path) -> None:
    def said() -> str:
        root = repository(public, "org/name", COMMIT, OTHER_COMMIT, **V1)
        os.chmod(root / "blobs", 0o500)
        before, found = left(root), ""
        for commits in (None, [OTHER_COMMIT]):
            with pytest.raises(StorageError) as caught:
                removal("org/name", root, commits)
            found += str(caught.value).replace(str(root), "ROOT") + "\n"
        assert left(root) == before
        os.chmod(root / "blobs", 0o700)
        os.chmod(root, 0o500)
        with pytest.raises(StorageError, match="you may not change"):
            removal("org/name", root, [OTHER_COMMIT])
        os.chmod(root, 0o700)
        shutil.rmtree(root)
        return found

    user = "nobody" if os.geteuid() == 0 else Path.home().owner()
    sentence = (
        f'Model "org/name": nothing is removed, because you may not change ROOT/blobs, which belongs to {user}. '
        f"Ask {user} to let you write it.\n"
    )
    assert as_nobody(said) == sentence * 2
