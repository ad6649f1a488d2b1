"""The app's own files in real Ruby, with the scopes of both versions and hostile values in every field."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.app.cards import copy_app
from tests.app.ondemand import OnDemand, OnDemandError, Version
from tests.conftest import needs_ruby
from tests.hostile import HOSTILE
from tests.site import SETTINGS, Install
from tests.slurm.people import People

pytestmark = [pytest.mark.app, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("custom_model", "engine_args")  # the others, without Ruby: tests/unit/test_form_values.py


@pytest.fixture(params=["3.1", "4.2"])
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


@pytest.fixture
def ood(tmp_path: Path, version: Version) -> OnDemand:
    needs_ruby()
    app = copy_app(tmp_path / "app")
    site = tmp_path / "site.yml"
    site.write_text(yaml.safe_dump(SETTINGS))
    env = {
        "LAUNCHER": str(Path(sys.executable).parent / "launcher"),
        "LAUNCHER_SITE": str(site),
        "LAUNCHER_PLACES__SESSIONS": str(tmp_path / "sessions"),
        "HOME": str(tmp_path),
    }
    return OnDemand(app, version, env=env)


def test_the_form_offers_what_the_site_describes(ood: OnDemand) -> None:
    form = ood.form()
    assert form.title == "Inference"
    assert form.clusters == ["test"]
    assert [option[1] for option in form.fields["profile"].options] == ["auto", "cpu", "gpu", "preempt"]
    assert "1 × a100" in form.fields["profile"].options[2][0]
    assert {option[1] for option in form.fields["model"].options} == {
        "tiny-chat",
        "tiny-whisper",
        "simulated",
    }
    assert form.fields["bc_num_hours"].posted == "1"
    assert not any("key" in name or "token" in name or "password" in name for name in form.fields)


def test_what_is_left_alone_is_a_good_request(ood: OnDemand, tmp_path: Path) -> None:
    job = ood.job(ood.posted(model="simulated"), tmp_path / "data")
    plan = json.loads((job.staged_root / "session.json").read_text())
    assert (plan["door"], plan["engine"], plan["limits"]["hours"]) == ("ondemand", "simulated", 1)
    assert "--partition=cpu" in job.sbatch
    assert any(option.startswith("--comment=launcher:simulated-") for option in job.sbatch)
    assert (job.staged_root / "session.json").stat().st_mode & 0o777 == 0o600
    assert (job.staged_root / "script.sh").stat().st_mode & 0o777 == 0o755
    link = tmp_path / "sessions" / plan["id"]
    assert link.resolve() == job.staged_root.resolve()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"bc_num_hours": "9", "profile": "cpu"}, 'Profile "cpu" allows up to 1 hour, not 9.'),
        ({"bc_num_hours": "many"}, 'Hours must be a number, not "many".'),
        ({"profile": "gpus"}, 'Unknown profile "gpus". Did you mean gpu'),
        ({"model": "tiny-caht"}, "Did you mean tiny-chat?"),
        ({"model": ""}, "No model was chosen."),
        ({"engine_args": "--token-rate 'x"}, "The engine arguments cannot be read: No closing quotation."),
        ({"cluster": "other", "profile": "cpu"}, 'Profile "cpu" is not on cluster "other".'),
        ({"cluster": "other"}, 'There is no hardware on cluster "other".'),
    ],
)
def test_a_wrong_value_is_one_sentence_above_the_form(
    ood: OnDemand, tmp_path: Path, changed: dict[str, str], sentence: str
) -> None:
    if "cluster" in changed and ood.version == "3.1":
        changed = {"profile": "other"}  # there a lone cluster is fixed and cannot be posted at all
        sentence = 'Unknown profile "other".'
    values = ood.posted(model="simulated") | changed
    with pytest.raises(OnDemandError) as caught:
        ood.submit(values, tmp_path / "staged")
    assert sentence in caught.value.message
    assert "Traceback" not in caught.value.message
    assert not (tmp_path / "staged" / "session.json").exists()
    assert not list((tmp_path / "sessions").glob("*"))


@pytest.mark.parametrize("closed", ["sessions", "staged"])
def test_a_folder_that_cannot_be_written_leaves_nothing_half_made(
    installed: Install, users: People, version: Version, tmp_path: Path, closed: str
) -> None:
    """Root may write anywhere, so Alice launches; one of her two folders is closed to her."""
    needs_ruby()
    own = users.alice.folder()
    (own / "closed").mkdir(mode=0o755)  # root's
    folders = {name: own / ("closed" if name == closed else "open") / name for name in ("sessions", "staged")}
    site = own / "site.yml"
    site.write_text(yaml.safe_dump(SETTINGS | {"places": {"sessions": str(folders["sessions"])}}))
    env = {"LAUNCHER": installed.launcher, "LAUNCHER_SITE": str(site)}
    ood = OnDemand(installed.app, version, env=env)
    values = ood.posted(users.alice, model="simulated")
    with pytest.raises(OnDemandError, match="cannot be written: Permission denied") as caught:
        ood.submit(values, folders["staged"], users.alice)
    assert caught.value.where == "save"
    assert str(own / "closed") in caught.value.message
    assert "Traceback" not in caught.value.message
    left = [path.relative_to(own).as_posix() for path in own.rglob("*") if not path.is_dir()]
    assert left == ["site.yml"]
    assert list((own / "closed").iterdir()) == []


@pytest.mark.parametrize("version", ["4.2"])  # both versions give submit.yml.erb the same scope
@pytest.mark.parametrize("field", FIELDS)
def test_hostile_values_are_refused_or_carried_as_data(ood: OnDemand, tmp_path: Path, field: str) -> None:
    """Each text in each field: a sentence, or a job whose script and options do not hold it as code."""
    mark = Path("/tmp/launcher-was-here")
    mark.unlink(missing_ok=True)
    # The page as it was shown: a browser does not have it made anew for each Launch.
    offer = subprocess.run(
        [ood.env["LAUNCHER"], "offer"], env={**os.environ, **ood.env}, stdout=-1, check=True
    )
    (ood.app_dir / "form.yml").write_bytes(offer.stdout)
    (ood.app_dir / "form.yml.erb").unlink()
    usual = ood.posted(model="simulated")
    refused: list[OnDemandError] = []
    for number, text in enumerate(HOSTILE):
        if "\0" in text:
            continue  # no browser and no Rails lets it through
        root = tmp_path / f"staged-{number}"
        try:
            submit = ood.submit(usual | {field: text}, root)
        except OnDemandError as error:
            refused.append(error)
            continue
        native = submit["script"]["native"]
        assert not any("injected" in option or "--help" in option or "$(" in option for option in native)
        plan = json.loads((root / "session.json").read_text())
        script = (root / "job.sh").read_text()
        assert not text.strip() or len(text.strip()) < 3 or text.strip() not in script.replace(plan["id"], "")
    assert not mark.exists()
    # Above the form, short, and nothing staged.
    assert all(error.where == "save" and len(error.message) < 600 for error in refused), refused


def test_the_form_comes_also_when_the_launcher_is_broken(ood: OnDemand, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("profiles: {a: {cluster: b, gpus: two}}\nclusters: {b: {}}")
    page = ood.form()
    assert {name for name in page.fields if name != "cluster"} == {"notice"}
    assert "gpus must be a whole number" in page.header
    missing = OnDemand(ood.app_dir, ood.version, env={**ood.env, "LAUNCHER": "/nowhere/launcher"})
    assert missing.form().title == "Inference"
    with pytest.raises(OnDemandError, match="no launcher beside"):
        missing.submit({"model": "simulated"}, tmp_path / "staged")


def test_no_rule_and_no_site_is_typed_into_the_erb_files() -> None:
    for name in ("form.yml.erb", "submit.yml.erb", "view.html.erb", "info.html.erb", "completed.html.erb"):
        text = (ROOT / name).read_text()
        assert len(text.splitlines()) < 40
        assert not re.search(r"partition|gpu|hours_max|walltime", text)


def test_the_scripts_pass_shellcheck() -> None:
    from tests.conftest import needs

    checker = needs("shellcheck", "shellcheck")
    for path in (ROOT / "template").iterdir():
        subprocess.run([checker, str(path)], check=True)
    assert os.access(ROOT / "template" / "script.sh", os.X_OK)
