"""What a launch is asked for by a file and by variables: which one wins, and where each value came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.api import Launcher
from launcher.cli import main
from launcher.errors import LauncherError, RequestError, SettingsError
from launcher.models.resolve import SHIPPED
from launcher.schedulers.script import job_script
from launcher.sessions.plan import Plan
from tests.hostile import HOSTILE

SITE = """
clusters: {della: {}}
profiles:
  gpu: {cluster: della, partition: gpu, account: site, gpus: 1, gpus_max: 4, cpus: 4, memory_gb: 32, hours: 2,
        hours_max: 100}
catalog: {simulated: {engine: simulated}}
"""
MODELS = """
models:
  My-Model-7B:
    model_family: My-Model
    model_variant: 7B
    model_type: LLM
    gpus_per_node: 2
    num_nodes: 1
    cpus_per_task: 16
    mem-per-node: 64G
    vocab_size: 152064
    qos: m2
    time: 08:00:00
    partition: a40
    model_weights_parent_dir: WEIGHTS
    env: {FROM_FILE: "1", BOTH: file}
    vllm_args:
      --tensor-parallel-size: 2
      --max-model-len: 512
      --enforce-eager: true
      --override-generation-config: '{"temperature": 0.5}'
    sglang_args:
      --context-length: 65536
  Other:
    model_family: Other
    model_type: LLM
    hf_model: org/other
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site on Slurm whose profile charges the account `site`."""
    (tmp_path / "site.yml").write_text(SITE)
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "My-Model-7B").symlink_to(SHIPPED / "tiny-chat")
    (tmp_path / "models.yml").write_text(MODELS.replace("WEIGHTS", str(tmp_path / "weights")))
    return tmp_path


def planned(model: str | None = "simulated", **wanted: Any) -> Plan:
    return Launcher().plan(model, **wanted)


def test_the_call_wins_over_the_file_over_variables_over_the_user_over_the_site(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vec-inf 12: CLI > --config > variables > user > site > packaged, and each value says where it is from."""

    def account(**wanted: Any) -> tuple[str | None, str]:
        plan = planned(**wanted)
        return plan.resources.account, plan.origins["account"]

    assert account() == ("site", str(site / "site.yml"))
    (user := site / "user.yml").write_text("profiles: {gpu: {account: mine}}")
    monkeypatch.setenv("LAUNCHER_CONFIG", str(user))
    assert account() == ("mine", str(user))
    monkeypatch.setenv("VEC_INF_ACCOUNT", "vector")
    assert account() == ("vector", "VEC_INF_ACCOUNT")
    monkeypatch.setenv("LAUNCHER_ACCOUNT", "shell")
    assert account() == ("shell", "LAUNCHER_ACCOUNT")
    (file := site / "ask.yml").write_text("hours: 3\naccount: file\n")
    assert account(config=file) == ("file", f"{file}, line 2")
    assert account(config=str(file), account="typed") == ("typed", "request")
    assert planned(config=file).origins["hours"] == f"{file}, line 1"
    assert planned().origins["idle_minutes"] == "defaults"


def test_a_dry_run_tells_each_value_with_its_origin(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vec-inf 12: the resolved value and its origin can be printed; required values come from variables."""
    monkeypatch.setenv("VEC_INF_WORK_DIR", str(site))
    assert main(["launch", "simulated", "--gpus-per-node", "2", "--dry-run", "--json-mode"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["work_dir"], plan["origins"]["work_dir"]) == (str(site), "VEC_INF_WORK_DIR")
    assert (plan["resources"]["gpus"], plan["origins"]["gpus"]) == (2, "request")
    assert plan["origins"]["partition"] == str(site / "site.yml")


def test_a_file_of_ours_may_hold_everything(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """della 2: YAML model configs (serve, TP, quantization, context, GPUs, memory, time), and key=value over them."""
    (file := site / "llama.yaml").write_text(
        "serve: simulated\njob_name: big\ngres: gpu:h100:4\nmem_per_gpu: 16G\ncpus_per_gpu: 12\n"
        'time: "12:00:00"\nconstraint: gpu80\nengine_args: {--tokens: 5}\nmail_type: fail\nbinds: []\nenv: {A: 1}\n'
    )
    assert main(["launch", "--config", str(file), "time=02:00:00", "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == (
        f"launcher: {file}, line 9: mail_type means nothing here. No mails are sent; launcher wait ends when it is "
        "ready.\n"
    )
    plan = json.loads(said.out)["plan"]
    wanted = plan["resources"]
    assert (plan["name"], plan["limits"]["hours"], plan["engine_args"]) == ("big", 2.0, ["--tokens=5"])
    assert (wanted["gpus"], wanted["gpu_type"], wanted["memory_gb"], wanted["cpus"]) == (4, "h100", 64.0, 48)
    assert (wanted["constraint"], plan["environment"]["env"]) == ("gpu80", {"A": "1"})
    assert plan["origins"]["memory_gb"] == f"{file}, line 4"


def test_memory_for_each_gpu_may_be_written_with_dashes(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := site / "m.yaml").write_text("serve: simulated\nmem-per-gpu: 16G\ngpus-per-node: 2\n")
    assert main(["launch", "--config", str(file), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["resources"]["memory_gb"] == 32.0


@pytest.mark.parametrize("how", ["config", "VEC_INF_CONFIG", "VEC_INF_MODEL_CONFIG", "VEC_INF_CONFIG_DIR"])
def test_vec_infs_file_of_models_is_a_catalog_for_this_call(
    site: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 14: a custom model from a file as the guide has it, by --config and by vec-inf's variables."""
    file = site / "models.yml"
    if how == "VEC_INF_CONFIG_DIR":
        monkeypatch.setenv(how, str(site))
        file = file.rename(site / "models.yaml")
    elif how != "config":
        monkeypatch.setenv(how, str(file))
    wanted = {"config": str(file)} if how == "config" else {}
    plan = planned("My-Model-7B", env="BOTH=typed", gpus=2, fit_check=False, **wanted)
    assert capsys.readouterr().err == ""
    assert (plan.model.served_name, plan.model.snapshot) == ("My-Model-7B", str(site / "weights/My-Model-7B"))
    wanted_of = plan.resources
    assert (wanted_of.gpus, wanted_of.cpus, wanted_of.memory_gb, wanted_of.qos) == (2, 16, 64.0, "m2")
    assert (wanted_of.partition, plan.limits.hours) == ("a40", 8.0)
    assert plan.engine_args[:4] == (
        "--tensor-parallel-size=2", "--max-model-len=512", "--enforce-eager",
        '--override-generation-config={"temperature": 0.5}',
    )  # fmt: skip
    assert plan.environment.env == {"FROM_FILE": "1", "BOTH": "typed"}
    assert plan.origins["qos"].startswith(f"{file}, line ")
    assert plan.origins["env"] == f"request, after {file}, line 16"


def test_a_model_that_the_file_has_not_is_named_with_near_ones(site: Path) -> None:
    with pytest.raises(LauncherError, match="My-Model-7B"):
        planned("My-Modle-7B", config=str(site / "models.yml"))
    with pytest.raises(LauncherError, match="org/other"):  # which is not on this machine
        planned("Other", config=str(site / "models.yml"))


def test_a_site_that_offers_only_its_catalog_takes_no_models_from_a_file(site: Path) -> None:
    (site / "site.yml").write_text(SITE + "allow: {models: catalog}\n")
    with pytest.raises(LauncherError, match='"My-Model-7B" is not offered here') as caught:
        planned("My-Model-7B", config=str(site / "models.yml"))
    assert "My-Model-7B" not in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hours: [1]", "hours must be a number, not [1]. Correct it. hours comes from "),
        ("gpu: 2", "ask.yml, line 1: gpu is not a known key. Did you mean"),
        ("hours: 1\nhours: 2", "ask.yml, line 2: hours stands twice, first in line 1."),
        ("hours: 1\ntime: 60", "time and"),
        ("- a", "ask.yml: the file must be a block of keys."),
        ("a: [", "ask.yml"),
        ("models: [a]", "models must be a block of names"),
        ("mem_per_gpu: 16G", "mem_per_gpu needs a number of GPUs."),
        (
            "account: a b",
            "The account must be one plain word, not 'a b'. Look it up with sinfo. account comes from ",
        ),
    ],
)
def test_a_mistake_in_the_file_names_it(site: Path, text: str, sentence: str) -> None:
    (file := site / "ask.yml").write_text(text)
    with pytest.raises((SettingsError, RequestError)) as caught:
        planned(config=str(file))
    assert sentence in str(caught.value)


def test_a_variable_that_names_no_file_is_blamed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEC_INF_CONFIG", "/nowhere.yml")
    with pytest.raises(SettingsError, match=r"/nowhere.yml: .* VEC_INF_CONFIG names it"):
        planned()
    monkeypatch.delenv("VEC_INF_CONFIG")
    monkeypatch.setenv("LAUNCHER_ACCOUNT", "not one word")
    with pytest.raises(RequestError, match="account comes from LAUNCHER_ACCOUNT"):
        planned()
    monkeypatch.delenv("LAUNCHER_ACCOUNT")
    monkeypatch.setenv("VEC_INF_WORK_DIR", "/nowhere")
    with pytest.raises(RequestError, match="work_dir comes from VEC_INF_WORK_DIR"):
        planned()


def test_what_is_asked_of_slurm_where_there_is_none_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "site.yml").write_text(
        "clusters: {this: {scheduler: local}, della: {}}\n"
        "profiles: {here: {cluster: this}, gpu: {cluster: della}}\ncatalog: {simulated: {engine: simulated}}\n"
    )
    monkeypatch.setenv("LAUNCHER_ACCOUNT", "chem")  # for the launches on Slurm
    (file := site / "ask.yml").write_text("exclude: n1")
    planned(profile="here")
    planned(profile="gpu", partition="gpu")
    assert capsys.readouterr().err == ""
    planned(profile="here", partition="gpu", config=str(file))
    note = 'partition, exclude mean nothing here: profile "here" runs on this machine, without Slurm.'
    assert capsys.readouterr().err == f"launcher: {note}\n"


def test_hostile_texts_in_a_file_are_refused_or_stay_data(site: Path) -> None:
    for word in (
        "partition",
        "account",
        "exclude",
        "nodelist",
        "work_dir",
        "log_dir",
        "hf_model",
        "venv",
        "name",
    ):
        for text in HOSTILE:
            (file := site / "ask.yml").write_text(json.dumps({word: text}))
            assert "\n#SBATCH --job-name=injected" not in _script(file), text


def _script(file: Path) -> str:
    """The script that the file leads to; empty where there is an error instead."""
    try:
        plan = planned(config=str(file))
        return job_script(plan, Path(plan.places.sessions) / plan.id)
    except LauncherError:
        return ""


def test_python_takes_the_same_words(site: Path) -> None:
    """vec-inf 11: launch_model's options are `Launcher.plan`'s and `launch`'s."""
    plan = planned(
        resource_type="a100", num_nodes=1, gpus_per_node=2, mem_per_node="64G", time="01:30:00", venv=None,
        vllm_args="--tokens=3", env={"A": "1"}, exclude="gpu01",
    )  # fmt: skip
    assert (plan.resources.gpu_type, plan.resources.gpus, plan.limits.hours) == ("a100", 2, 1.5)
    assert (plan.resources.memory_gb, plan.engine_args) == (64.0, ("--tokens=3",))
    with pytest.raises(RequestError, match='Unknown option "gpus_per_nod"'):
        planned(gpus_per_nod=2)


def test_the_settings_command_shows_what_variables_ask_for(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 12: `launcher config show` names the variable behind each value."""
    monkeypatch.setenv("VEC_INF_ACCOUNT", "chem")
    assert main(["config", "show", "request", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "request.account": {"value": "chem", "origin": "VEC_INF_ACCOUNT", "line": None, "locked": False}
    }
    assert main(["config", "show"]) == 0
    assert "VEC_INF_ACCOUNT" in capsys.readouterr().out


def test_hardware_in_slurms_words_means_the_profile_that_describes_it(site: Path) -> None:
    """vec-inf 2: `--partition` and `--resource-type` without a profile find the one with the right memory."""
    more = "  h100: {cluster: della, partition: big, gpus: 1, gpu_type: h100, gpu_memory_gb: 80, cpus: 9}\n"
    more += "  h100-long: {cluster: della, partition: long, gpus: 1, gpu_type: h100, cpus: 10}\n"
    (site / "site.yml").write_text(SITE.replace("catalog:", f"{more}catalog:"))
    assert planned(partition="big").resources.profile == "h100"
    assert planned(resource_type="h100", partition="long").resources.profile == "h100-long"
    found = planned(resource_type="h100")
    assert (found.resources.profile, found.resources.cpus) == ("h100", 9)
    assert found.origins["profile"] == "the first with gpu_type h100"
    other = planned(partition="debug")  # which no profile describes
    assert (other.resources.profile, other.resources.partition) == ("gpu", "debug")
    assert planned(partition="big", profile="gpu").resources.profile == "gpu"
