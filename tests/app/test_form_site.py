"""What a site does with the form: its own sub-app files, fields it hides, accounts from Slurm, and what is free now."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.app import sites
from tests.app.cards import copy_app
from tests.app.ondemand import OnDemand, OnDemandError, Version
from tests.conftest import needs_ruby
from tests.site import SETTINGS
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.app, pytest.mark.timeout(120)]
MakeSite = Callable[..., OnDemand]
BOTH = pytest.mark.parametrize("version", ["3.1", "4.2"])


@pytest.fixture
def version() -> Version:
    return "4.2"


@pytest.fixture
def make_site(tmp_path: Path, version: Version) -> MakeSite:
    needs_ruby()

    def make(files: dict[str, str] | None = None, **settings: Any) -> OnDemand:
        (tmp_path / "site.yml").write_text(yaml.safe_dump(SETTINGS | settings, sort_keys=False))
        app = copy_app(tmp_path / "app")
        for name, text in (files or {}).items():
            (app / name).parent.mkdir(exist_ok=True)
            (app / name).write_text(text)
        env = {
            "LAUNCHER": str(Path(sys.executable).parent / "launcher"),
            "LAUNCHER_SITE": str(tmp_path / "site.yml"),
            "LAUNCHER_PLACES__SESSIONS": str(tmp_path / "sessions"),
            "HOME": str(tmp_path),
        }
        return OnDemand(app, version, env=env)

    return make


def _programs(folder: Path, **scripts: str) -> str:
    """A PATH with these programs before the system's own."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    return f"{programs}:/usr/bin:/bin"


def _planned(submitted: dict[str, Any], root: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((root / "session.json").read_text())
    return plan | {"native": submitted["script"]["native"]}


@BOTH
@pytest.mark.parametrize("place", ["local", "/etc"])
def test_a_sub_app_that_fixes_one_field_and_drops_others(
    make_site: MakeSite, tmp_path: Path, version: Version, place: str
) -> None:
    form = {
        "title": "Small models",
        "form": ["model", "profile", "bc_num_hours"],
        "attributes": {"profile": "gpu", "bc_num_hours": {"max": 1, "help": "One hour."}},
    }
    folder = "app/local" if place == "local" else "etc"
    ood = make_site()
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "small.yml").write_text(yaml.safe_dump(form))
    ood = replace(
        ood, token="sys/inference/small", site_folder=None if place == "local" else tmp_path / "etc"
    )
    shown = ood.form()
    assert shown.title == "Small models"
    assert set(shown.fields) - {"cluster"} == {"model", "bc_num_hours"}
    assert shown.fixed["profile"] == "gpu"
    assert shown.fields["bc_num_hours"].help.strip() == "<p>One hour.</p>"
    values = {"model": "simulated", "bc_num_hours": "1", "profile": "cpu", "engine_args": "--token-rate 1"}
    plan = _planned(ood.submit(values, tmp_path / "staged"), tmp_path / "staged")
    assert plan["resources"]["profile"] == "gpu"  # what is fixed cannot be posted
    assert plan["engine_args"] == []  # nor what is not there


def test_a_sub_app_with_fields_of_its_own_in_the_submission(make_site: MakeSite, tmp_path: Path) -> None:
    ood = make_site(
        {
            "local/course.yml.erb": "form: [model, course]\nsubmit: course_submit.yml.erb\n"
            'attributes: {model: "simulated", course: {widget: text_field, value: "<%= 1 + 1 %>"}}\n',
            "local/course_submit.yml.erb": "script: {reservation_id: <%= course.to_json %>}\n",
        }
    )
    ood = replace(ood, token="sys/inference/course")
    submit = ood.submit({"course": "phys-2"}, tmp_path / "staged")
    assert submit["script"]["reservation_id"] == "phys-2"
    assert submit["batch_connect"]["template"] == "basic"
    assert _planned(submit, tmp_path / "staged")["model"]["id"] == "simulated"


@BOTH
def test_a_sub_app_with_the_accounts_that_slurm_knows(make_site: MakeSite, tmp_path: Path) -> None:
    ood = make_site(
        {"local/own.yml": "form: [model, profile, auto_accounts, auto_qos]\nattributes: {auto_qos: long}\n"}
    )
    path = _programs(
        tmp_path, sacctmgr="printf 'physics|test||normal\\nphysics|test|gpu|long\\nchem|test||normal\\n'"
    )
    ood = replace(ood, token="sys/inference/own", env={**ood.env, "PATH": path})
    shown = ood.form()
    assert [option[1] for option in shown.fields["auto_accounts"].options] == ["physics", "chem"]
    values = {name: field.posted for name, field in shown.fields.items()}
    submit = ood.submit(values | {"model": "simulated", "auto_accounts": "chem"}, tmp_path / "staged")
    plan = _planned(submit, tmp_path / "staged")
    assert (plan["resources"]["account"], plan["resources"]["qos"]) == ("chem", "long")
    assert submit["script"]["accounting_id"] == "chem"  # OOD's own word for it, and ours says the same
    assert {"--account=chem", "--qos=long"} <= set(plan["native"])


@BOTH
def test_fields_that_the_site_hides(make_site: MakeSite, tmp_path: Path) -> None:
    hidden = ["profile", "bc_num_hours", "revision", "account", "idle_minutes"]
    ood = make_site(form={"hide": hidden})
    shown = ood.form()
    assert not set(hidden) & shown.fields.keys()
    assert not any("revision" in key for key in shown.fields["advanced"].html_options["data"])
    submit = ood.submit(
        {name: f.posted for name, f in shown.fields.items()} | {"model": "simulated"}, tmp_path / "s"
    )
    assert submit["script"]["wall_time"] == 3600
    assert _planned(submit, tmp_path / "s")["resources"]["profile"] == "cpu"


def test_no_more_options(make_site: MakeSite) -> None:
    shown = make_site(form={"more": False})
    assert [name for name in shown.form().fields if name != "cluster"] == ["model", "profile", "bc_num_hours"]


def test_only_the_catalog(make_site: MakeSite, tmp_path: Path) -> None:
    sites.write_model(tmp_path / "models" / "org" / "other", sites.LLAMA, sites.GB)
    ood = make_site(
        allow={"models": "catalog", "engine_args": False}, models={"folders": [str(tmp_path / "models")]}
    )
    shown = ood.form()
    offered = {option[1] for option in shown.fields["model"].options}
    assert offered == {"tiny-chat", "tiny-whisper", "simulated"}
    assert not {"custom_model", "engine_args"} & shown.fields.keys()
    values = {name: field.posted for name, field in shown.fields.items()}
    with pytest.raises(OnDemandError, match='Model "org/other" is not offered here'):
        ood.submit(values | {"model": "org/other"}, tmp_path / "staged")


def test_a_site_without_any_model_asks_for_its_name(make_site: MakeSite, tmp_path: Path) -> None:
    ood = make_site(catalog={"tiny-chat": None, "tiny-whisper": None, "simulated": None})
    shown = ood.form()
    assert "model" not in shown.fields
    assert shown.fields["custom_model"].label == "Model"
    folder = sites.write_model(tmp_path / "mine", sites.LLAMA, 2**20)
    values = {name: field.posted for name, field in shown.fields.items()}
    with pytest.raises(OnDemandError, match=r"No model was chosen\."):
        ood.submit(values, tmp_path / "staged")
    ood.submit(values | {"custom_model": str(folder), "try_anyway": "1"}, tmp_path / "staged")
    assert json.loads((tmp_path / "staged" / "session.json").read_text())["model"]["snapshot"] == str(folder)


def test_what_hides_every_way_to_a_model_is_said(make_site: MakeSite) -> None:
    shown = make_site(form={"hide": ["model", "custom_model"]}).form()
    assert "No model can be chosen" in shown.header
    assert list(shown.fields) in (["notice"], ["cluster", "notice"])


@pytest.mark.parametrize("slurm_says", ["sleep 600", "exit 1", "echo rubbish"])
def test_the_form_does_not_wait_for_slurm(make_site: MakeSite, tmp_path: Path, slurm_says: str) -> None:
    ood = make_site()
    path = _programs(tmp_path, sinfo=slurm_says, squeue=slurm_says)
    shown = replace(ood, env={**ood.env, "PATH": path}).form()
    assert shown.header == ""
    assert not any(" at " in option[0] for option in shown.fields["profile"].options)


@pytest.mark.slurm
def test_hardware_says_what_is_free_now(make_site: MakeSite, tmp_path: Path, slurm: Cluster) -> None:
    ood = make_site()
    shown = replace(ood, env={**ood.env, **slurm.env}).form()
    labels = {option[1]: option[0] for option in shown.fields["profile"].options}
    assert re.search(r"; \d+ of \d+ cores free at \d\d:\d\d\)$", labels["cpu"]), labels
    assert re.search(r"; \d+ of \d+ GPUs free at \d\d:\d\d\)$", labels["gpu"]), labels
    (tmp_path / "site.yml").write_text(yaml.safe_dump(SETTINGS | {"form": {"live": False}}))
    shown = replace(ood, env={**ood.env, **slurm.env}).form()
    assert not any(" free at " in option[0] for option in shown.fields["profile"].options)
