"""Settings: layers, origins, locks. What is said of a broken file is in test_settings_mistakes.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.errors import LauncherError, RequestError, SettingsError
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.hostile import HOSTILE

SITE = """
clusters:
  della:
    scheduler: slurm
profiles:
  gpu-small:
    cluster: della
    gpus: 1
    hours_max: 12
"""


def settings(tmp_path: Path, site: str | None = None, user: str | None = None, **variables: str) -> Settings:
    given = {"XDG_CONFIG_HOME": str(tmp_path), **variables}
    for name, text in (("LAUNCHER_SITE", site), ("LAUNCHER_CONFIG", user)):
        if text is not None:
            path = tmp_path / f"{name}.yml"
            path.write_text(text)
            given[name] = str(path)
    return load(given)


def test_without_any_file_this_machine_is_the_cluster(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert list(found.profiles) == ["local"]
    assert found.clusters["local"].scheduler == "local"
    assert "tiny-chat" in found.catalog


def test_a_site_with_clusters_does_not_offer_its_login_node(tmp_path: Path) -> None:
    assert list(settings(tmp_path, SITE).profiles) == ["gpu-small"]


def test_each_layer_overrides_the_one_before_and_says_so(tmp_path: Path) -> None:
    site = SITE + "session: {idle_minutes: 30, hours: 2}\n"
    found = settings(tmp_path, site, "session: {idle_minutes: 20}", LAUNCHER_SESSION__HOURS="3")
    assert (found.session.idle_minutes, found.session.hours) == (20, 3)
    assert found.origin("session.idle_minutes").endswith("LAUNCHER_CONFIG.yml")
    assert found.origin("session.hours") == "LAUNCHER_SESSION__HOURS"
    assert found.origin("session.page") == "defaults"
    assert found.origin("profiles.gpu-small.gpus").endswith("LAUNCHER_SITE.yml")


def test_a_locked_key_is_the_sites(tmp_path: Path) -> None:
    site = SITE + "locks: [session.idle_minutes, session.engine_restarts, profiles.gpu-small.gpus]\n"
    for user, variables in (
        ("session: {idle_minutes: 0}", {}),
        ("session: {engine_restarts: 9}", {}),
        ("profiles: {gpu-small: {gpus: 8}}", {}),
        (None, {"LAUNCHER_SESSION__IDLE_MINUTES": "0"}),
    ):
        with pytest.raises(SettingsError, match=r"is locked by .*LAUNCHER_SITE.yml"):
            settings(tmp_path, site, user, **variables)


def test_a_null_entry_takes_one_away(tmp_path: Path) -> None:
    assert "tiny-chat" not in settings(tmp_path, SITE + "catalog: {tiny-chat: null}\n").catalog


def test_a_wrong_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="LAUNCHER_SESION__HOURS names no setting"):
        settings(tmp_path, LAUNCHER_SESION__HOURS="1")
    with pytest.raises(RequestError, match='LAUNCHER_SESSION__HOURS has the value "\\[1", which is not YAML'):
        settings(tmp_path, LAUNCHER_SESSION__HOURS="[1")
    with pytest.raises(SettingsError, match=r"LAUNCHER_SESSION__HOURS: session.hours must be a number"):
        settings(tmp_path, LAUNCHER_SESSION__HOURS="many")
    with pytest.raises(RequestError, match="which is not YAML"):
        settings(tmp_path, LAUNCHER_PLACES__CACHE="\udcff")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_refused_or_plain(tmp_path: Path, text: str) -> None:
    site = {"clusters": {"b": {}}, "profiles": {"a": {"cluster": "b", "partition": text}}}
    try:
        partition = settings(tmp_path, json.dumps(site)).profiles["a"].partition
    except LauncherError as error:
        partition, refused = None, str(error)
    else:
        refused = ""
    if partition is None:
        assert "profiles.a.partition" in refused or "control character" in refused
        assert "line 1" in refused
        assert len(refused) < 400 + len(str(tmp_path)), "a long value is cut"
    else:
        assert partition == text
        assert not set(text) & set(" \n\"'`$<>\\;")


def test_folders_may_name_the_user(tmp_path: Path) -> None:
    site = SITE + "places: {cache: /scratch/$USER/cache}\nmodels: {folders: [/data/$GROUP_NAME_OF_NOBODY]}\n"
    found = settings(tmp_path, site)
    assert found.places.cache == f"/scratch/{os.environ.get('USER', '$USER')}/cache"
    assert found.models.folders == ("/data/$GROUP_NAME_OF_NOBODY",)
    assert "~" not in found.places.sessions


def test_what_a_site_allows_its_users_do_not_widen(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="allow is locked by"):
        settings(tmp_path, SITE, "allow: {trust_remote_code: true}")
    assert settings(tmp_path, None, "allow: {trust_remote_code: true}").allow.trust_remote_code
    with pytest.raises(SettingsError, match="only a site's file has locks"):
        settings(tmp_path, SITE, "locks: []")


def test_the_hubs_own_variables_say_where_its_cache_is(tmp_path: Path) -> None:
    assert settings(tmp_path, HF_HOME="/data/hf").models.cache == "/data/hf/hub"
    assert settings(tmp_path, HF_HUB_CACHE="/data/hub").models.cache == "/data/hub"
    assert settings(tmp_path, "models: {cache: /site}", HF_HOME="/data/hf").models.cache == "/site"
