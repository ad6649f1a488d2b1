"""What the doctor says of folders of models, of the catalog, of environments and of the install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from launcher.doctor.catalog import check_catalog
from launcher.doctor.checks import FAIL, OK, WARN, Check
from launcher.doctor.folders import check_model_folders
from launcher.doctor.places import check_environments, check_form, check_install
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.snapshots import COMMIT, repository, snapshot, whisper
from tests.unit import fit_models

GPU = {"cluster": "c", "gpus": 1, "gpu_type": "a100", "gpu_memory_gb": 80}


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder that everybody can read; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="launcher doctor "))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def site(top: Path, **blocks: Any) -> Settings:
    file = top / "site.yml"
    usual = {
        "clusters": {"c": {"scheduler": "local"}},
        "profiles": {"p": GPU},
        "places": {"cache": str(top / "cache")},
        "models": {"folders": [str(top / "m")], "cache": str(top / "own")},
    }
    file.write_text(json.dumps({**usual, **blocks}))
    return load({"LAUNCHER_SITE": str(file), "LAUNCHER_CONFIG": os.devnull})


def said(checks: Iterator[Check] | list[Check]) -> list[tuple[str, str, str]]:
    return [(check.verdict, check.about, check.says) for check in checks]


def test_what_others_cannot_read_and_what_is_broken_is_named(top: Path) -> None:
    (top / "m").mkdir()
    repository(top / "m", "org/whole")
    snapshot(top / "m" / "flat $(id)")
    assert said(check_model_folders(site(top))) == [
        (OK, "models.folders", f"{top}/m can be read by all: 2 entries.")
    ]
    for name in ("a", "b", "c", "d"):
        repository(top / "m", f"closed/{name}")
    # Each in its own way: the folder, the weights, the blobs, the snapshot.
    (top / "m" / "models--closed--a").chmod(0o750)
    (top / "m" / "models--closed--b" / "blobs" / f"{COMMIT}-model.safetensors").chmod(0o600)
    (top / "m" / "models--closed--c" / "blobs").chmod(0o700)
    (top / "m" / "models--closed--d" / "snapshots" / COMMIT).chmod(0o711)
    (repository(top / "m", "org/broken") / "blobs" / f"{COMMIT}-model.safetensors").unlink()
    _, closed, broken = check_model_folders(site(top))
    assert (closed.verdict, broken.verdict) == (WARN, WARN)
    assert closed.says == f"In {top}/m others cannot read closed/a, closed/b, closed/c and 1 more."
    assert closed.fix == f"Unless that is meant: chmod -R a+rX {top}/m"
    assert broken.says.startswith(f"In {top}/m org/broken cannot be served. Model ")
    assert broken.fix == "See each with launcher resolve MODEL."


def test_every_entry_of_the_catalog(top: Path) -> None:
    repository(top / "m", "org/tiny")
    repository(top / "own", "org/mine")
    for name in ("qwen2.5-0.5b", "llama-70b"):
        fit_models.snapshot(top / "m" / name, name)
    small = {"cluster": "c", "gpus": 1, "gpu_type": "v100", "gpu_memory_gb": 16}
    catalog = {
        "here": {"path": str(top / "m" / "qwen2.5-0.5b"), "profiles": ["p"]},
        "large": {"path": str(top / "m" / "llama-70b"), "profiles": ["small"]},
        "gone": {"id": "org/gone"},
        "nowhere": {"path": "/nowhere/$(id)"},
        "old": {"id": "org/tiny", "revision": "v2"},
        "own": {"id": "org/mine"},
        "vague": {"id": "org/tiny", "hidden": True},
        "engine": {"engine": "simulated"},
    }
    settings = site(top, profiles={"p": GPU, "small": small}, catalog=catalog)
    found = {check.about.removeprefix("catalog."): check for check in check_catalog(settings)}
    assert {name: check.verdict for name, check in found.items()} == {
        "here": OK, "large": FAIL, "gone": FAIL, "nowhere": FAIL, "old": FAIL, "own": WARN, "vague": WARN,
    }  # fmt: skip
    assert found["here"].says == f"is in {top}/m/qwen2.5-0.5b, and runs on p."
    assert found["large"].says.startswith('fits none of its profiles. Model "large" needs about ')
    assert found["gone"].says.endswith(f"offers org/gone, which is not in {top}/m, {top}/own.")
    assert found["gone"].fix == f"To download it: launcher models add org/gone --to '{top}/m'"
    assert found["nowhere"].says.endswith("names /nowhere/$(id), which is not there.")
    assert found["nowhere"].fix == "Put it there, or correct catalog.nowhere."
    assert "v2" in found["old"].says
    assert found["own"].says == f"is in {top}/own alone, your own."
    (top / "m" / "qwen2.5-0.5b").chmod(0o700)
    closed = next(check for check in check_catalog(settings) if check.about == "catalog.here")
    assert (closed.verdict, closed.says) == (FAIL, f"{top}/m/qwen2.5-0.5b is closed to other users.")


def test_what_the_catalog_says_of_whisper_is_tried(top: Path) -> None:
    whisper(top / "m" / "faster-whisper-tiny")
    theirs = snapshot(top / "m" / "whisper-large-v3")
    (theirs / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    entries = {
        "good": {"id": "faster-whisper-tiny"},
        "theirs": {"id": "whisper-large-v3"},
        "boxed": {"id": "faster-whisper-tiny", "environment": "box", "engine": "whisper"},
    }
    box = {"box": {"kind": "container", "image": f"{top}/gone.sif", "engines": ["whisper"]}}
    models = {"folders": [f"{top}/m"], "cache": f"{top}/own"}
    settings = site(top, catalog=entries, environments=box, models=models)
    found = {check.about.removeprefix("catalog."): check for check in check_catalog(settings)}
    assert (found["theirs"].verdict, found["boxed"].verdict) == (FAIL, FAIL)
    assert "is a Whisper model in the format of Transformers" in found["theirs"].says
    assert (found["theirs"].fix or "").startswith("Take Systran/faster-whisper-large-v3")
    assert "gone.sif is not there" in found["boxed"].says
    del entries["boxed"]
    settings = site(top, catalog=entries, models=models)
    good = next(check for check in check_catalog(settings) if check.about == "catalog.good")
    assert good.verdict == OK


def test_what_an_environment_names_must_be_there(top: Path) -> None:
    image = top / "a.sif"
    image.touch()
    environments = {
        "box": {"kind": "container", "image": str(image), "binds": [f"{top}:/data", f"{top}/none:/none:ro"]},
        "module": {"kind": "module", "modules": ["vllm"], "setup": f"{top}/init.sh"},
    }
    profiles = {name: {**GPU, "environment": name} for name in environments}
    found = said(check_environments(site(top, environments=environments, profiles=profiles)))
    assert [(verdict, about) for verdict, about, _ in found if verdict == FAIL] == [
        (FAIL, "environments.box.binds"),
        (FAIL, "environments.module.setup"),
    ]
    texts = [says for _, _, says in found]
    assert f"There is no {top}/none." in texts
    assert f"There is no file {top}/init.sh." in texts
    assert not [about for _, about, _ in found if about.startswith("environments.launcher")], (
        "nobody wants it"
    )


def test_an_environment_for_whisper_must_have_what_it_needs(top: Path) -> None:
    bare, own = top / "bare venv", Path(sys.prefix)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    environments = {
        "bare": {"kind": "venv", "path": str(bare), "engines": ["whisper"]},
        "own": {"kind": "venv", "path": str(own), "engines": ["whisper"]},
    }
    found = {check.about: check for check in check_environments(site(top, environments=environments))}
    wrong = found["environments.bare"]
    assert (wrong.verdict, wrong.says, wrong.fix) == (
        FAIL,
        "its Python cannot run Whisper (no faster_whisper, flask, gunicorn).",
        "Install faster-whisper flask gunicorn there.",
    )
    right = found["environments.own"]
    assert (right.verdict, right.says) == (OK, f"faster-whisper {version('faster-whisper')}.")


def test_a_fresh_install_without_an_engine_is_no_failure(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(top))  # a venv without vLLM
    (check,) = check_environments(site(top))
    assert (check.verdict, check.about) == (WARN, "environments.launcher")
    assert check.says == "no engine is installed here, and site.yml names no environment that has one."
    (check,) = check_environments(site(top, environments={"mine": {"path": str(top)}}))
    assert (check.verdict, check.about) == (FAIL, "environments.mine")


def test_an_interpreter_that_others_cannot_run(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "venv" / "bin").mkdir(parents=True)
    (top / "home").mkdir()
    python = top / "venv" / "bin" / "python"
    shutil.copy("/bin/sh", top / "home" / "python3")
    python.symlink_to(top / "home" / "python3")
    monkeypatch.setattr(sys, "executable", str(python))
    assert [check.verdict for check in check_install(site(top))] == [OK]
    (top / "home").chmod(0o700)
    (check,) = check_install(site(top))
    assert check.verdict == FAIL
    assert check.says == f"{top}/home is closed to other users, where this launcher has its Python."
    assert check.fix == f"chmod a+rX {top}/home, or install with a PYTHON that all can run"
    own = replace(site(top), site=None)
    assert [check.verdict for check in check_install(own)] == [WARN], "a launcher of one's own"


@pytest.mark.parametrize(
    ("prints", "verdict", "says"),
    [
        ('{"cluster": ["c"], "form": ["model", "profile"], "attributes": {}}', OK, "has 2 fields"),
        ('{"cluster": "*", "form": ["notice"], "form_header": "**This app is not ready.** No \\\\_x. Please tell '
         "the site's staff.\"}", FAIL, "shows no fields: No _x."),
        ("launcher: $(id)", FAIL, "gave no form: launcher: $(id)."),
        ("", FAIL, "gave no form."),
    ],
)  # fmt: skip
def test_the_form_is_made_once(
    top: Path, monkeypatch: pytest.MonkeyPatch, prints: str, verdict: str, says: str
) -> None:
    monkeypatch.delenv("LAUNCHER", raising=False)
    program = top / "venv" / "bin" / "launcher"
    assert check_form(site(top), top) == []
    program.parent.mkdir(parents=True)
    (top / "said").write_text(prints)
    program.write_text('#!/bin/sh\n[ "$1" = offer ] && cat "${0%/venv/*}/said"\n')
    program.chmod(0o755)
    (check,) = check_form(site(top), top)
    assert check.verdict == verdict
    assert says in check.says
