"""Settings: layers, origins, locks. What is said of a broken file is in test_settings_mistakes.py."""

from __future__ import annotations

import json
import os
import pwd
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


def test_folders_may_name_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = (
        SITE
        + "places: {cache: /scratch/$USER/cache}\nmodels: {folders: ['~/a', '${HOME}/b', '/c $(id)/$/d']}\n"
    )
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setenv("HOME", "/home/alice")
    found = settings(tmp_path, site)
    assert found.places.cache == "/scratch/alice/cache"
    assert found.places.sessions == "/home/alice/.local/state/launcher/sessions"
    assert found.models.folders == ("/home/alice/a", "/home/alice/b", "/c $(id)/$/d")
    # A cron job and the portal's processes may have neither.
    monkeypatch.delenv("USER")
    monkeypatch.delenv("HOME")
    user = pwd.getpwuid(os.getuid())
    found = settings(tmp_path, site)
    assert (found.places.cache, found.models.folders[1]) == (
        f"/scratch/{user.pw_name}/cache",
        f"{user.pw_dir}/b",
    )


def test_a_sites_endpoint_may_name_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "alice")
    for name, found in (
        ("sqlite:////var/lib/launcher-$USER/e.db", "sqlite:////var/lib/launcher-alice/e.db"),
        ("sqlite:////home/$USER/e.db?network=allowed", "sqlite:////home/alice/e.db?network=allowed"),
    ):
        assert settings(tmp_path, f"{SITE}endpoint: {{state: '{name}'}}\n").endpoint.state == found
    for name, says in (
        ("sqlite:////$NOT_SET_ANYWHERE/e.db", "endpoint.state names \\$NOT_SET_ANYWHERE, which is not set"),
        ("sqlite:////x/e.db?network=no", "must be the URL of a database"),
    ):
        with pytest.raises(SettingsError, match=says):
            settings(tmp_path, f"{SITE}endpoint: {{state: '{name}'}}\n")


@pytest.mark.parametrize("url", ["postgresql://me:se%23ret@h/d", "postgresql:///d?user=me&password=se%23ret"])
def test_the_endpoints_state_holds_no_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="must hold no password") as caught:
        settings(tmp_path, f"{SITE}endpoint: {{state: '{url}'}}\n")
    assert "ret" not in f"{caught.value.message} {caught.value.hint}"


def test_a_users_own_paths_are_absolute_too(tmp_path: Path) -> None:
    for user, line in (("models:\n  cache: hub", 2), ("environments: {mine: {path: venv}}", 1)):
        with pytest.raises(
            SettingsError, match=f"LAUNCHER_CONFIG.yml, line {line}: .* must be an absolute path"
        ):
            settings(tmp_path, SITE, user)
    with pytest.raises(SettingsError, match=r"LAUNCHER_PLACES__CACHE: places.cache must be an absolute path"):
        settings(tmp_path, LAUNCHER_PLACES__CACHE="cache")
    with pytest.raises(
        SettingsError, match=r"line 1: places.cache names \$NOBODY_SETS_THIS, which is not set"
    ):
        settings(tmp_path, SITE, "places: {cache: /a/$NOBODY_SETS_THIS}")


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


@pytest.mark.parametrize("lock", ["models", "models.cache"])
def test_the_hubs_own_variables_do_not_open_a_lock(tmp_path: Path, lock: str) -> None:
    usual = settings(tmp_path, SITE).models.cache
    found = settings(tmp_path, SITE + f"locks: [{lock}]\n", HF_HOME="/data/hf", HF_HUB_CACHE="/data/hub")
    assert found.models.cache == usual


def test_a_users_own_profile_does_not_undo_the_sites_limits(tmp_path: Path) -> None:
    """sbatch takes the last of two options, and these come last."""
    mine = "profiles:\n  mine: {cluster: della, gpus: 1}\n"
    more = "profiles:\n  gpu-small:\n    sbatch_args: [--gres=gpu:8]\n"
    limited = SITE + "limits: {gpus: 2, hours: 4}\n"
    assert "mine" in settings(tmp_path, limited, mine).profiles
    assert settings(tmp_path, SITE, more).profiles["gpu-small"].sbatch_args == ("--gres=gpu:8",)
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, limited, more)
    own, site = tmp_path / "LAUNCHER_CONFIG.yml", tmp_path / "LAUNCHER_SITE.yml"
    assert caught.value.message == (
        f"{own}, line 3: profiles.gpu-small.sbatch_args is the site's alone, because {site} sets limits."
    )
    with pytest.raises(SettingsError, match=r"profiles\.mine\.sbatch_args is the site's alone"):
        settings(tmp_path, limited, mine.replace("gpus: 1", "sbatch_args: [--time=99:00:00]"))
    theirs = limited.replace("hours_max: 12", "hours_max: 12\n    sbatch_args: [--exclusive]")
    assert settings(tmp_path, theirs, mine).profiles["gpu-small"].sbatch_args == ("--exclusive",)
