"""A broken site.yml: one sentence each, with file, line, key and value; and all of them at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.errors import SettingsError
from launcher.settings.layers import load, mistakes, mistakes_in
from tests.unit.broken import SOUND, Broken, broken_sites

BROKEN = broken_sites()
# Nine levels of nine aliases each are 400 million values from a kilobyte.
BOMB = "catalog:\n  a: &a {x: 1}\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site.yml"


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_one_sentence_with_file_line_key_and_value(site: Path, broken: Broken) -> None:
    site.write_text(broken.text)
    with pytest.raises(SettingsError) as caught:
        load({"LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": os.devnull})
    assert caught.value.message == f"{site}, line {broken.says}"
    assert caught.value.hint == broken.advice
    # The list has the same, and no echo of it.
    assert [str(error) for error in mistakes_in(site)] == [str(caught.value)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("session: {}\nplaces: {cache: /a\0b}\n", "2: it holds a control character."),
        ('session: {}\nplaces: {cache: "/a\\0b"}\n', "2: a text holds a control character."),
        (SOUND + f"    gpus: {'9' * 5000}\n", "6: a number has too many digits."),
        (BOMB, "2: blocks stand too deep in each other, or are too many."),
        ("session: " + "[" * 900 + "]" * 900, "1: blocks stand too deep in each other, or are too many."),
        ("".join("  " * deep + "a:\n" for deep in range(600)),
         "22: blocks stand too deep in each other, or are too many."),
    ],
    ids=["NUL", "NUL in quotes", "5000 digits", "aliases of aliases", "900 brackets", "600 blocks"],
)  # fmt: skip
def test_what_would_break_a_reader_is_one_sentence_too(site: Path, text: str, says: str) -> None:
    site.write_text(text)
    assert [error.message for error in mistakes_in(site)] == [f"{site}, line {says}"]


def test_many_kinds_are_tried() -> None:
    assert len({broken.text for broken in BROKEN}) > 50


@pytest.mark.parametrize("text", ["clusters: {main: {}}\n", "clusters: {}\nprofiles: {}\n"])
def test_nothing_to_choose_from(site: Path, text: str) -> None:
    site.write_text(text)
    assert [error.message.rpartition(": ")[2] for error in mistakes_in(site)] == ["profiles is empty."]


def test_a_list_of_many_names_is_not_read_out(site: Path) -> None:
    many = "".join(f"  p{number}: {{cluster: main}}\n" for number in range(50))
    site.write_text(f"{SOUND}{many}session:\n  profile: nowhere\n")
    assert [error.message.partition(": ")[2] for error in mistakes_in(site)] == [
        'session.profile must be one of the 51 names in profiles, not "nowhere".'
    ]


def test_all_mistakes_at_once_in_the_files_order(site: Path) -> None:
    site.write_text(
        "catalog:\n  m: {profiles: [a, zz], id: 3}\n"
        "profiles:\n  a:\n    gpu: 1\n    gpus: two\n    cluster: nope\n    hours: -1\n    hours: 2\n"
        "session: {profile: zz}\nclusters: {main: {}}\nfoo: 1\nlocks: [session.nope]\n"
    )
    found = [error.message.removeprefix(f"{site}, line ").split()[:2] for error in mistakes_in(site)]
    assert [(line, key) for line, key in found] == [
        ("2:", "catalog.m.id"),
        ("2:", "catalog.m.profiles"),
        ("5:", "profiles.a.gpu"),
        ("6:", "profiles.a.gpus"),
        ("7:", "profiles.a.cluster"),
        ("9:", "profiles.a.hours"),
        ("10:", "session.profile"),
        ("12:", "foo"),
        ("13:", "locks:"),
    ]


def test_a_file_that_cannot_be_read_is_named(site: Path) -> None:
    def said() -> list[str]:
        return [error.message for error in mistakes_in(site)]

    assert said() == [f"{site}: No such file or directory."]
    site.write_bytes(b"session:\n  hours: 1\n# caf\xe9\n")
    assert said() == [f"{site}, line 3: this is not text in UTF-8."]
    site.write_bytes(b"#" * (2**20 + 1))
    assert said() == [f"{site} is larger than 1 MiB."]
    site.unlink()
    site.mkdir()
    assert said() == [f"{site}: Is a directory."]


def test_a_file_that_one_may_not_read_is_named(site: Path) -> None:
    site.write_text(SOUND)
    site.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert [error.message for error in mistakes_in(site)] == [f"{site}: Permission denied."]
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "text",
    ["", "# a comment\n", "\ufeff" + SOUND, SOUND.replace("\n", "\r\n"), "session:\nlocks:\n"],
    ids=["empty", "comment", "BOM", "Windows", "empty blocks"],
)
def test_what_is_no_mistake(site: Path, text: str) -> None:
    site.write_text(text, newline="")
    assert mistakes_in(site) == []


def test_names_that_yaml_reads_as_something_else_are_names(site: Path) -> None:
    site.write_text("clusters: {on: {}}\nprofiles:\n  no: &p {cluster: 'on'}\n  8: *p\n  2026-01-31: *p\n")

    found = load({"LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": os.devnull})
    assert list(found.profiles) == ["no", "8", "2026-01-31"]


def test_anchors_save_writing_and_keep_their_lines(site: Path) -> None:
    site.write_text(
        "clusters: {main: {}}\nprofiles:\n  a: &a\n    cluster: main\n    gpus: 1\n  b:\n    <<: *a\n    gpus: 2\n"
    )
    found = load({"LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": os.devnull})
    assert (found.profiles["b"].cluster, found.profiles["b"].gpus) == ("main", 2)
    assert found.where("profiles.b.cluster") == f"{site}, line 4"
    assert found.where("profiles.b.gpus") == f"{site}, line 8"
    assert found.where("profiles.b.cpus") == f"{site}, line 6", "what is left out: its block"
    assert found.where("session.page") == "defaults"


def test_each_layer_is_named_for_its_own_mistake(site: Path, tmp_path: Path) -> None:
    site.write_text(SOUND + "locks: [session.idle_minutes]\n")
    user = tmp_path / "config.yml"
    user.write_text("session:\n  page: maybe\n  idle_minutes: 1\nallow: {models: any}\nlocks: []\n")
    variables = {
        "LAUNCHER_SITE": str(site),
        "LAUNCHER_CONFIG": str(user),
        "LAUNCHER_SESSION__HOURS": "many",
        "LAUNCHER_X__Y": "1",
    }
    assert sorted(error.message for error in mistakes(variables)) == [
        f'{user}, line 2: session.page must be true or false, not "maybe".',
        f"{user}, line 3: session.idle_minutes is locked by {site}.",
        f"{user}, line 4: allow is locked by {site}.",
        f"{user}, line 5: only a site's file has locks.",
        'LAUNCHER_SESSION__HOURS: session.hours must be a number, not "many".',
        "The variable LAUNCHER_X__Y names no setting.",
    ]
    assert mistakes_in(site, variables) == [], "the site's file by itself is sound"
    assert len(mistakes_in(user, variables)) == 6, "the user's own file is checked as such"


def test_a_file_that_is_no_yaml_hides_no_other_file_and_makes_no_echo(site: Path, tmp_path: Path) -> None:
    site.write_text(SOUND + "\tx: 1\n")
    user = tmp_path / "config.yml"
    user.write_text("session: {profile: small}\nfoo: 1\n")
    found = mistakes({"LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": str(user)})
    assert [error.message.partition(": ")[0] for error in found] == [f"{user}, line 2", f"{site}, line 6"]
