"""The form as it opens, and the launch that follows when nothing in it is changed: one must never refuse the other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.api import Launcher
from launcher.errors import LauncherError
from launcher.ondemand.offer import offer
from launcher.ondemand.plan import plan
from launcher.settings.layers import load
from tests.app import sites

_A100 = {"gpu_type": "a100", "gpu_memory_gb": 80}
THREE: dict[str, Any] = {
    "clusters": {"main": {"ondemand": ["main-1", "main-2"]}, "second": {}, "far": {}},
    "profiles": {
        "small": {"cluster": "main", "gpus": 1, **_A100, "hours_max": 1},
        "big": {"cluster": "main", "gpus": 4, **_A100, "hours_max": 24},
        "mid": {"cluster": "second", "gpus": 1, **_A100, "hours_max": 12},
        "l40s": {"cluster": "far", "gpus": 1, "gpu_type": "l40s", "hours_max": 2},
    },
    "session": {"profile": "l40s"},
}


class Site:
    """A site with a folder of models: its form, and what a launch from it becomes."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings

    @property
    def launcher(self) -> Launcher:
        models = {"folders": [str(self.folder / "models")], "cache": str(self.folder / "hub")}
        (self.folder / "site.yml").write_text(
            yaml.safe_dump({"models": models, **self.settings}, sort_keys=False)
        )
        places = {
            "LAUNCHER_PLACES__CACHE": str(self.folder / "cache"),
            "LAUNCHER_PLACES__SESSIONS": str(self.folder / "sessions"),
            "LAUNCHER_FORM__LIVE": "false",
        }
        found = {"LAUNCHER_SITE": str(self.folder / "site.yml"), "LAUNCHER_CONFIG": os.devnull, **places}
        return Launcher(load(found))

    def add(self, model: str, weights_gb: float = 15) -> Path:
        config = sites.LLAMA if weights_gb < 30 else sites.LARGE
        return sites.write_model(self.folder / "models" / model, config, int(weights_gb * sites.GB))

    def form(self) -> dict[str, Any]:
        return offer(self.launcher)

    def launch(self, **changed: str) -> dict[str, Any]:
        """The plan for the form's own values, with the changed ones changed."""
        form = self.form()
        values = {"cluster": form["cluster"][0]}
        values |= {name: posted(field) for name, field in form["attributes"].items()} | changed
        root = self.folder / f"staged-{len(list(self.folder.iterdir()))}"
        plan(self.launcher, json.dumps(values), root)
        made: dict[str, Any] = json.loads((root / "session.json").read_text())
        return made

    def refusal(self, **changed: str) -> str:
        with pytest.raises(LauncherError) as caught:
            self.launch(**changed)
        return str(caught.value)


def options(field: dict[str, Any]) -> list[list[Any]]:
    found = field["options"]
    return [line for _, group in found for line in group] if isinstance(found[0][-1], list) else found


def posted(field: dict[str, Any]) -> str:
    """What a browser sends for a field that is left alone."""
    value = str(field.get("value", ""))
    if field["widget"] != "select":
        return value
    values = [option[1] for option in options(field)]
    return value if value in values else str(values[0])


def model_options(site: Site) -> dict[str, list[Any]]:
    return {option[1]: option for option in options(site.form()["attributes"]["model"])}


@pytest.mark.parametrize("cluster", ["far", "main-1", "main-2", "second"])
def test_a_launch_of_the_untouched_form_succeeds_on_each_cluster(tmp_path: Path, cluster: str) -> None:
    site = Site(tmp_path, THREE)
    site.add("meta/Llama-8B")
    form = site.form()
    assert form["cluster"] == ["far", "main-1", "main-2", "second"]  # OOD opens on the first
    assert form["attributes"]["bc_num_hours"]["value"] == "2"
    made = site.launch(cluster=cluster)
    # On "main" one hour is the most that the smaller profile gives.
    wanted = {"far": "l40s", "main-1": "big", "main-2": "big", "second": "mid"}
    assert (made["resources"]["profile"], made["limits"]["hours"]) == (wanted[cluster], 2)


def test_the_hours_are_those_that_the_model_can_have_on_each_cluster(tmp_path: Path) -> None:
    site = Site(tmp_path, THREE | {"session": {"profile": "big"}})
    site.add("meta/Llama-8B")
    assert site.form()["attributes"]["bc_num_hours"]["value"] == "2"
    profiles = {name: p for name, p in THREE["profiles"].items() if name != "l40s"}
    site.settings = THREE | {"profiles": profiles, "session": {"profile": "big"}}
    assert site.form()["attributes"]["bc_num_hours"]["value"] == "4"
    assert site.launch()["limits"]["hours"] == 4


def test_the_form_opens_with_a_model_that_can_be_launched(tmp_path: Path) -> None:
    """Not one that is not on this disk, cut short, too large, or only for another cluster."""
    catalog = {
        "absent": {"id": "org/absent"},
        "nowhere": {"path": str(tmp_path / "nowhere")},
        "half": {"path": str(tmp_path / "models" / "org" / "cut")},
        "cut": {"id": "org/cut"},
        "huge": {"id": "org/huge"},
        "large": {"id": "org/large"},
        "bound": {"id": "org/bound", "profiles": ["mid"]},
        "good": {"id": "org/good"},
    }
    site = Site(tmp_path, THREE | {"catalog": catalog})
    (site.add("org/cut") / "model.safetensors").unlink()
    site.add("org/huge", 900)
    site.add("org/large", 140)
    site.add("org/bound")
    site.add("org/good")
    labels = {value: option[0] for value, option in model_options(site).items()}
    assert labels["absent"] == "org/absent (not on this disk)"
    assert labels["nowhere"] == "nowhere (not on this disk)"
    assert labels["cut"] == "org/cut (broken copy)"
    assert "broken copy" in labels["half"]
    assert labels["huge"] == "org/huge (900.0 GB, too large here)"
    assert site.form()["attributes"]["model"]["value"] == "good"
    assert site.launch()["model"]["id"] == "org/good"


def test_broken_copies_that_nobody_names_are_not_offered(tmp_path: Path) -> None:
    site = Site(tmp_path, sites.MINIMAL)
    (site.add("org/cut") / "model.safetensors").write_bytes(b"\x08")
    (site.add("org/empty") / "model.safetensors").unlink()
    assert not {"org/cut", "org/empty"} & model_options(site).keys()


def test_a_model_of_another_cluster_is_hidden_and_its_refusal_names_the_cluster(tmp_path: Path) -> None:
    site = Site(tmp_path, THREE | {"catalog": {"far-only": {"id": "org/m", "profiles": ["l40s"]}}})
    site.add("org/m")
    site.add("org/n")
    site.add("org/large", 140)
    hidden = {key for key in model_options(site)["far-only"][2] if "-cluster-" in key}
    assert hidden == {f"data-option-for-cluster-{name}" for name in ("main-1", "main-2", "second")}
    hidden = {key for key in model_options(site)["org/large"][2] if "-cluster-" in key}
    assert hidden == {f"data-option-for-cluster-{name}" for name in ("far", "second")}
    sentence = 'Model "far-only" does not run on cluster "main-2". Choose cluster "far".'
    assert site.refusal(model="far-only", cluster="main-2") == sentence
    assert 'Choose cluster "main-1".' in site.refusal(model="org/large", cluster="far")
    sentence = 'Profile "mid" is not on cluster "far". Choose cluster "second".'
    assert site.refusal(profile="mid", cluster="far") == sentence
    assert 'Choose cluster "main-1".' in site.refusal(model="org/n", cluster="far", bc_num_hours="12")
    # Where other hardware of the same cluster would do, that is the advice.
    assert "Choose cluster" not in site.refusal(model="org/large", cluster="main-1", profile="small")


@pytest.mark.parametrize(
    ("profiles", "main", "required", "value"),
    [
        ({"a": {}, "b": {}}, False, False, ""),
        ({"a": {"account_required": True}, "b": {}}, True, False, ""),
        ({"a": {"account_required": True}, "b": {"account_required": True}}, True, True, ""),
        ({"a": {"account_required": True, "account": "own"}, "b": {}}, False, False, ""),
        ({"a": {"account_required": True, "accounts": ["one"]}, "b": {"account": "own"}}, False, False, ""),
        (
            {"a": {"account_required": True, "accounts": ["one", "two"]}, "b": {"accounts": ["two"]}},
            True,
            False,
            "two",
        ),
    ],
)
def test_an_account_that_hardware_needs_is_asked_for_where_it_is_seen(
    tmp_path: Path, profiles: dict[str, Any], main: bool, required: bool, value: str
) -> None:
    described = {name: {"cluster": "test", **about} for name, about in profiles.items()}
    site = Site(tmp_path, sites.MINIMAL | {"profiles": described})
    form = site.form()
    behind = form["attributes"]["advanced"]["html_options"]["data"]
    assert ("hide-account-when-unchecked" not in behind) == main
    field = form["attributes"]["account"]
    assert (field.get("required", False), posted(field)) == (required, value)
    if not required:  # else the browser asks for it
        site.launch(model="simulated")


def test_what_the_sites_limits_rule_out_is_not_offered(tmp_path: Path) -> None:
    profiles = {
        "eight": {"cluster": "test", "gpus": 8, **_A100, "hours_max": 48},
        "some": {"cluster": "test", "gpus": 1, "gpus_max": 8, **_A100, "hours_max": 48},
        "cpu": {"cluster": "test", "cpus": 8, "memory_gb": 32, "hours_max": 12},
    }
    site = Site(tmp_path, sites.MINIMAL | {"profiles": profiles, "session": {"profile": "eight"}})
    site.add("org/large", 400)
    site.add("org/m")
    assert "too large" not in model_options(site)["org/large"][0]
    site.settings |= {"limits": {"gpus": 4, "hours": 24}}
    shown = site.form()["attributes"]
    assert [option[1] for option in options(shown["profile"])] == ["auto", "some", "cpu"]
    assert "1 to 4 × a100 80 GB, up to 24 h" in options(shown["profile"])[1][0]
    assert (shown["gpus"]["max"], shown["bc_num_hours"]["max"]) == (4, 24)
    assert "too large here" in model_options(site)["org/large"][0]
    assert site.launch()["resources"]["profile"] == "some"
    site.settings |= {"limits": {"gpus": 4, "hours": 0.5}}
    shown = site.form()["attributes"]
    assert (shown["bc_num_hours"]["max"], shown["bc_num_hours"]["value"]) == (1, "1")
    assert site.launch()["limits"]["hours"] == 0.5
    site.settings |= {"profiles": {"eight": profiles["eight"]}}
    assert "limits allow fewer GPUs" in site.form()["form_header"]
