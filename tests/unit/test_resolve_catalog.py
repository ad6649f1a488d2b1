"""Names of the site's catalog: what they resolve to, and what is said where the catalog is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.snapshots import COMMIT, OTHER_COMMIT, Folders, repository, snapshot

MISSING = "was not found in the catalog or in ONE, TWO, CACHE."


@pytest.fixture
def site(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_the_catalog_comes_first_and_keeps_its_revision(site: Folders) -> None:
    repository(site.one, "org/name", COMMIT, OTHER_COMMIT, main=COMMIT, v1=OTHER_COMMIT)
    catalog = "catalog: {nice: {id: org/name, revision: v1, aliases: [short]}}"
    for model in ("nice", "short", "org/name"):
        found = site.found(model, more=catalog)
        assert (found.id, found.revision) == ("org/name", OTHER_COMMIT)
        assert found.entry == site.settings(catalog).catalog["nice"]
    assert site.found("nice", "main", more=catalog).revision == COMMIT


def test_a_name_of_the_catalog_may_be_in_other_letters(site: Folders) -> None:
    repository(site.one, "org/name")
    catalog = "catalog: {Nice: {id: org/name, aliases: [Short]}, nicer: {id: org/other}}"
    for model, written in (("NICE", "Nice"), ("short", "Short"), ("Org/Name", "org/name")):
        found = site.found(model, more=catalog)
        assert (found.id, found.entry and found.entry.name) == ("org/name", "Nice")
        assert found.found.endswith(f", written {written}")
    assert site.found("Tiny-Chat").found == "the path in the catalog, written tiny-chat"
    several = "catalog: {Nice: {id: org/name}, NICE: {id: org/other}}"
    assert site.trouble("nice", more=several) == (
        'Several models are called "nice". Choose one of: NICE, Nice.'
    )


def test_a_revision_that_the_catalog_sets_is_told_with_its_line(site: Folders) -> None:
    repository(site.one, "org/name")
    site_yml = "ROOT/site.yml, line 4"
    catalog = "catalog:\n  nice:\n    revision: v9\n    id: org/name"
    for model in ("nice", "org/name"):
        said = site.trouble(model, more=catalog)
        assert said.startswith(
            f'Model "org/name" is not here at revision "v9", which {site_yml} sets. Here are: {COMMIT[:7]} (main).'
        )
    assert "sets" not in site.trouble("nice", "v8", more=catalog)
    snapshot(site.two / "own")
    plain = f"catalog:\n  nice:\n    revision: v9\n    path: {site.two}/own"
    assert site.trouble("nice", more=plain) == (
        f'Model "nice": TWO/own is a plain folder, which has no revisions. {site_yml} sets the revision "v9"; '
        "ask the site to take it out."
    )


def test_what_a_site_offers_and_does_not_have_is_said_with_where_it_is_written(site: Folders) -> None:
    def said(more: str) -> str:
        return site.trouble("nice", more=f"catalog: {{nice: {{{more}}}}}").replace(
            "ROOT/site.yml, line 2", "SITE"
        )

    assert (
        "offers org/gone, which is not in ONE, TWO, CACHE. To download it: launcher models add org/gone"
        in said("id: org/gone")
    )
    assert "names /nowhere, which is not there. Ask the site to correct the catalog." in said(
        "path: /nowhere"
    )
    closed = site.trouble("nice", more="catalog: {nice: {id: org/gone}}\nallow: {downloads: false}")
    assert closed.endswith("which is not in ONE, TWO, CACHE. Ask the site to download it.")
    assert site.trouble("org/nam", more="allow: {downloads: false}") == (
        f'Model "org/nam" {MISSING} Known here: tiny-chat, tiny-whisper, simulated.'
    )


def test_the_shipped_model_is_complete(site: Folders) -> None:
    assert site.found("tiny-chat").snapshot is not None
    assert site.found("simulated").snapshot is None


def test_a_site_may_offer_its_catalog_only(site: Folders) -> None:
    repository(site.one, "org/name")
    snapshot(site.one / "Llama-3.1-8B-Instruct")
    strict = "allow: {models: catalog}\ncatalog: {nice: {id: org/name}}"
    assert site.found("nice", more=strict).id == "org/name"
    for model in ("Llama-3.1-8B-Instruct", str(site.one / "Llama-3.1-8B-Instruct")):
        assert "offered here" in site.trouble(model, more=strict)
