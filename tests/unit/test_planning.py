"""Planning: what may be asked for, and that nothing asked for reaches a shell."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.errors import LauncherError, RequestError, SettingsError
from launcher.planning import Request, make_plan
from launcher.schedulers.script import job_script
from launcher.schedulers.slurm import options
from launcher.sessions.plan import Plan
from launcher.settings.layers import load
from launcher.settings.schema import Settings
from tests.hostile import HOSTILE

SITE = """
clusters: {della: {login_host: della.example.edu}}
profiles:
  gpu-small: {cluster: della, partition: gpu, gpus: 1, gpu_type: a100, cpus: 8, memory_gb: 64, hours_max: 12, hours: 2}
  gpu-large: {cluster: della, gpus: 4, hours_max: 24}
locks: [session.idle_minutes, profiles.gpu-large.gpus]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "site.yml").write_text(SITE)
    return load({"LAUNCHER_SITE": str(tmp_path / "site.yml"), "XDG_CONFIG_HOME": str(tmp_path)})


def plan(settings: Settings, **wanted: object) -> Plan:
    return make_plan(Request("simulated", **wanted), settings, door="shell")  # type: ignore[arg-type]


def test_a_plan_says_where_every_value_came_from(settings: Settings) -> None:
    made = plan(settings, hours=3.0, cpus=4)
    assert (made.limits.hours, made.resources.cpus, made.resources.gpus) == (3.0, 4, 1)
    assert made.origins["hours"] == made.origins["cpus"] == "request"
    assert made.origins["gpus"].endswith("site.yml")
    assert made.origins["profile"] == "the first profile"


def test_a_plan_survives_its_file(settings: Settings) -> None:
    made = plan(settings, engine_args=("--tokens", "3"), hours=1.5)
    assert Plan.from_json(made.to_json()) == made


def test_how_often_an_engine_is_started_again_is_in_the_plan(settings: Settings, tmp_path: Path) -> None:
    assert plan(settings).limits.engine_restarts == 2
    (tmp_path / "none.yml").write_text(SITE + "session: {engine_restarts: 0}\n")
    none = plan(load({"LAUNCHER_SITE": str(tmp_path / "none.yml"), "XDG_CONFIG_HOME": str(tmp_path)}))
    assert none.limits.engine_restarts == 0
    older = json.loads(none.to_json())
    del older["limits"]["engine_restarts"]  # a session that an earlier release planned
    assert Plan.from_json(json.dumps(older)).limits.engine_restarts == 2


def test_the_hours_are_the_profiles_when_nobody_says(settings: Settings) -> None:
    assert plan(settings).limits.hours == 2
    assert plan(settings, profile="gpu-large").limits.hours == 4


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"profile": "gpu-smal"}, 'Unknown profile "gpu-smal". Did you mean gpu-small'),
        ({"profile": "zzz"}, "Choose one of: gpu-small, gpu-large."),
        (
            {"hours": 13.0, "profile": "gpu-small"},
            'Profile "gpu-small" allows up to 12 hours, not 13.',
        ),
        ({"hours": 25.0}, 'No profile here allows 25 hours. The longest is "gpu-large", up to 24 hours.'),
        ({"hours": 0.0}, "The hours must be more than 0, not 0."),
        ({"hours": -1.0}, "The hours must be more than 0, not -1."),
        ({"hours": float("nan")}, "The hours must be more than 0, not nan."),
        ({"hours": float("inf")}, "No profile here allows so many hours."),
        ({"hours": 1e300, "profile": "gpu-small"}, "what was asked for is too large."),
        ({"idle_minutes": float("inf")}, "The idle minutes are too large."),
        ({"hours": 10**400}, "hours must be a smaller number"),
        ({"gpus": 10**400}, "The number of GPUs is too large."),
        ({"memory_gb": float("inf")}, "The memory in GB is too large."),
        ({"max_model_len": 10**5000}, "The context that was asked for is too large."),
        ({"gpus": 9}, 'No profile here has 9 GPUs on a node. The most are 4, on "gpu-large".'),
        ({"gpus": 2, "profile": "gpu-small"}, 'Profile "gpu-small" has at most 1 GPU on a node, not 2.'),
        ({"gpus": 1, "hours": 20.0}, "No profile here gives all that was asked for."),
        ({"idle_minutes": 0.0}, "An idle time of 0 means never, which this site does not allow."),
        ({"idle_minutes": 61.0}, "This site allows at most 60 idle minutes, not 61."),
        ({"idle_minutes": -5.0}, "The idle minutes must be 0 or more, not -5."),
        (
            {"profile": "gpu-large", "gpus": 8},
            'This site does not let you choose gpus on profile "gpu-large".',
        ),
        ({"gpus": -1}, "The number of GPUs must be at least 0, not -1."),
        ({"nodes": 0}, "The number of nodes must be at least 1, not 0."),
        ({"memory_gb": float("nan")}, "The memory in GB must be at least 0.1, not nan."),
        ({"environment": "conda"}, 'Unknown environment "conda". Choose one of: launcher.'),
        ({"trust_remote_code": True, "engine_args": ()}, None),
        ({"engine_args": ("a\nb",)}, "holds a character that cannot be shown"),
    ],
)
def test_a_wrong_value_is_one_sentence(
    settings: Settings, wanted: dict[str, object], sentence: str | None
) -> None:
    if sentence is None:  # the simulated engine has no code of a model to trust
        assert plan(settings, **wanted).engine_args == ()
        return
    with pytest.raises(RequestError) as caught:
        plan(settings, **wanted)
    assert sentence in str(caught.value)


def test_an_environment_without_its_program_is_noticed_before_the_queue(tmp_path: Path) -> None:
    site = tmp_path / "site.yml"
    site.write_text(
        "environments: {launcher: null, empty: {kind: venv, path: /nowhere}, "
        "image: {kind: container, image: /nowhere.sif}}\n"
    )
    found = load({"LAUNCHER_SITE": str(site), "XDG_CONFIG_HOME": str(tmp_path)})
    with pytest.raises(SettingsError, match="/nowhere/bin/vllm"):
        make_plan(Request("tiny-chat"), found, door="shell")
    with pytest.raises(SettingsError, match=r"/nowhere.sif is not there"):
        make_plan(Request("tiny-chat", environment="image"), found, door="shell")


def test_slurm_is_asked_for_what_was_planned(settings: Settings) -> None:
    made = plan(
        settings, account="chem", qos="short", constraint="a100&nvlink", reservation="class", hours=0.5
    )
    assert options(made) == [
        "--partition=gpu", "--account=chem", "--qos=short", "--constraint=a100&nvlink", "--reservation=class",
        "--nodes=1", "--cpus-per-task=8", "--mem=65536M", "--gres=gpu:a100:1", "--time=0:30:00",
        f"--comment=launcher:{made.id}",
    ]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint", "reservation", "gpu_type", "name",
                                   "profile", "environment", "revision"])  # fmt: skip
def test_hostile_texts_reach_no_script(settings: Settings, field: str, text: str) -> None:
    with pytest.raises(LauncherError) as caught:
        plan(settings, **{field: text})
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"hours": "2"}, "hours must be a number"),
        ({"hours": True}, "hours must be a number"),
        ({"gpus": 1.5}, "gpus must be a whole number"),
        ({"gpus": True}, "gpus must be a whole number"),
        ({"page": "no"}, "page must be true or false"),
        ({"name": 7}, "name must be a text"),
        ({"engine_args": "--tokens 3"}, "engine_args must be a list of texts"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_sentence(
    settings: Settings, wanted: dict[str, object], sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        plan(settings, **wanted)
    assert sentence in str(caught.value)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "text", [t for t in HOSTILE if not set(t) & {"\0", "/"} and len(t) < 200 and t.strip(". ")]
)
def test_the_script_is_whole_in_a_folder_of_any_name(settings: Settings, tmp_path: Path, text: str) -> None:
    """Blackfish 17: real bash runs it with a stand-in for the launcher, called with exactly this folder."""
    root = tmp_path / text
    root.mkdir()
    stand_in = root / "the launcher"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    made = dataclasses.replace(plan(settings), launcher=str(stand_in))
    script = job_script(made, root)
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["/bin/bash", str(tmp_path / "job.sh")], check=True)
    assert (root / "job.log").read_text() == f"serve\n{root}\n"
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", str(tmp_path / "job.sh")], check=True)
    header = script.partition("set -u")[0].splitlines()
    assert [line for line in header if line.startswith("#SBATCH")] == [f"#SBATCH {o}" for o in _header(made)]


def _header(made: Plan) -> list[str]:
    own = ["--job-name=launcher-simulated", "--output=/dev/null", "--signal=B:USR1@120", "--export=NONE"]
    return [*options(made), *own]
