"""Names, revisions and folders that somebody made to do harm, or that this user may not read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import LauncherError, RequestError
from launcher.models.folders import held
from launcher.models.resolve import resolve
from tests.hostile import HOSTILE
from tests.snapshots import COMMIT, OTHER_COMMIT, Folders, as_nobody, repository, snapshot


@pytest.fixture
def site(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_refused_in_one_sentence(site: Folders, text: str) -> None:
    for model in (text, f"/{text}"):
        with pytest.raises(LauncherError) as caught:
            site.found(model)
        assert caught.value.exit_code in (2, 4)
    if text:
        with pytest.raises(RequestError, match="is not a revision"):
            site.found("org/name", text)


def test_hostile_folders_are_neither_followed_nor_waited_for(site: Folders) -> None:
    root = repository(site.one, "org/name", COMMIT, OTHER_COMMIT, main=COMMIT)
    secret = snapshot(site.root / "secret")
    for ref, content in (
        ("up", "../../../../secret"),
        ("long", "0" * 10_000),
        ("empty", ""),
        ("binary", "\0\1"),
    ):
        (root / "refs" / ref).write_text(content)
    os.mkfifo(root / "refs" / "fifo")
    (root / "refs" / "circle").symlink_to("circle")
    (root / "refs" / "loop").symlink_to(".")
    (site.one / "loop").symlink_to(".")
    os.mkfifo(site.one / "models--org--fifo")
    os.mkdir(os.fsencode(site.one) + b"/not utf-8 \xff")
    snapshot(site.one / "two\nlines")
    assert site.found("org/name").refs == ("main",)
    for ref in ("up", "long", "empty", "binary", "fifo", "circle"):
        assert f'is not here at revision "{ref}"' in site.trouble("org/name", ref)
    assert str(secret) not in site.trouble("org/name", "up")
    assert {"org/name", "two\nlines"} <= {copy.id for copy in held(site.one)}
    assert "\n" not in site.trouble("lines")  # no name that nobody can type is offered


@pytest.fixture
def public() -> Iterator[Folders]:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        site = Folders(Path(name))
        for folder in (site.one, site.two, site.cache):
            folder.chmod(0o755)
        yield site


def test_closed_folders_are_told_apart_from_missing_ones(public: Folders) -> None:
    closed = repository(public.one, "org/name") / "snapshots"
    settings = public.settings()

    def trouble(model: str) -> str:
        with pytest.raises(LauncherError) as caught:
            resolve(model, settings)
        return public.short(str(caught.value))

    closed.chmod(0)
    said = as_nobody(lambda: trouble("org/name"))
    closed.chmod(0o755)
    assert said.startswith('Model "org/name": you may not read ONE/models--org--name/snapshots')
    public.one.chmod(0)
    said = as_nobody(lambda: trouble("org/name"))
    path = as_nobody(lambda: trouble(str(public.one / "models--org--name")))
    public.one.chmod(0o755)
    assert "in ONE (which you may not read), TWO, CACHE." in said
    assert path == "You may not look into ONE. Ask whoever keeps the folder to let you read it."
