"""Each option of `launcher launch`: it is accepted under vec-inf's name, and changes the script or the plan."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher, Session
from launcher.cli import main
from launcher.cli.launch import plan_table
from launcher.models.resolve import SHIPPED
from launcher.sessions.job import write_job_id
from launcher.sessions.paths import SessionPaths
from tests.hostile import HOSTILE

SITE = """
clusters: {della: {}}
profiles:
  gpu: {cluster: della, partition: gpu, gpus: 1, gpus_max: 4, cpus: 4, memory_gb: 32, hours_max: 100,
        environment: launcher}
environments:
  image: {kind: container, image: IMAGE}
catalog:
  simulated: {engine: simulated}
"""
Dry = Callable[..., dict[str, Any]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site on Slurm with one profile and an image."""
    (tmp_path / "engine.sif").write_text("")
    (tmp_path / "site.yml").write_text(SITE.replace("IMAGE", str(tmp_path / "engine.sif")))
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def dry(site: Path, capsys: pytest.CaptureFixture[str]) -> Dry:
    """What `launch simulated … --dry-run --json` prints, flat, with what is new each time left out."""

    def launch(*words: str, command: tuple[str, ...] = ("launch", "simulated")) -> dict[str, Any]:
        assert main([*command, *words, "--dry-run", "--json-mode"]) == 0
        printed = json.loads(capsys.readouterr().out)
        return dict(_flat("", {"plan": printed["plan"], "script": _lines(printed["script"])}))

    return launch


def _flat(at: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(f"{at}.{key}" if at else key, inner)]
    return [] if at.rpartition(".")[2] in ("id", "created_at") else [(at, value)]


def _lines(script: str) -> dict[str, bool]:
    return {
        line: True for line in script.splitlines() if "simulated-" not in line and "launcher:" not in line
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is new or other in `after`, but not who said it; a line of the script is its own name."""
    keys = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    return {
        key.removeprefix("plan."): after.get(key)
        for key in keys
        if not key.startswith("plan.origins.") and not (key.startswith("script.") and key not in after)
    }


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--partition", "long"], {"resources.partition": "long", "script.#SBATCH --partition=long": True}),
        (["--resource-type", "a100"],
         {"resources.gpu_type": "a100", "script.#SBATCH --gres=gpu:a100:1": True}),
        (["--num-nodes", "2"], {"resources.nodes": 2, "script.#SBATCH --nodes=2": True}),
        (["--gpus-per-node", "2"], {"resources.gpus": 2, "script.#SBATCH --gres=gpu:2": True}),
        (["--gres", "gpu:h100:3"],
         {"resources.gpus": 3, "resources.gpu_type": "h100", "script.#SBATCH --gres=gpu:h100:3": True}),
        (["--gres", "2"], {"resources.gpus": 2, "script.#SBATCH --gres=gpu:2": True}),
        (["--cpus-per-task", "16"], {"resources.cpus": 16, "script.#SBATCH --cpus-per-task=16": True}),
        (["--mem-per-node", "64G"], {"resources.memory_gb": 64.0, "script.#SBATCH --mem=65536M": True}),
        (["--mem-per-node=512M"], {"resources.memory_gb": 0.5, "script.#SBATCH --mem=512M": True}),
        (["--account", "chem"], {"resources.account": "chem", "script.#SBATCH --account=chem": True}),
        (["-A", "chem"], {"resources.account": "chem", "script.#SBATCH --account=chem": True}),
        (["-Achem"], {"resources.account": "chem", "script.#SBATCH --account=chem": True}),
        (["--qos", "m2"], {"resources.qos": "m2", "script.#SBATCH --qos=m2": True}),
        (["--exclude", "gpu[01-04],gpu09"],
         {"resources.exclude": "gpu[01-04],gpu09", "script.#SBATCH --exclude=gpu[01-04],gpu09": True}),
        (["--nodelist", "gpu07"], {"resources.nodelist": "gpu07", "script.#SBATCH --nodelist=gpu07": True}),
        (["--time", "08:30:00"], {"limits.hours": 8.5, "script.#SBATCH --time=8:30:00": True}),
        (["--time", "90"], {"limits.hours": 1.5, "script.#SBATCH --time=1:30:00": True}),
        (["--time", "90:00"], {"limits.hours": 1.5, "script.#SBATCH --time=1:30:00": True}),
        (["--time", "2-12"], {"limits.hours": 60.0, "script.#SBATCH --time=60:00:00": True}),
        (["--time", "1-02:30"], {"limits.hours": 26.5, "script.#SBATCH --time=26:30:00": True}),
        (["--vllm-args", "--tokens=3,--answer=a b"], {"engine_args": ["--tokens=3", "--answer=a b"]}),
        (["--vllm-args", "tokens=3"], {"engine_args": ["--tokens=3"]}),
        (["--tokens", "3"], {"engine_args": ["--tokens", "3"]}),
        (["--no-images"], {"engine_args": ["--no-images"]}),
        (["--engine", "simulated"], {}),
        (["hours=8"], {"limits.hours": 8.0, "script.#SBATCH --time=8:00:00": True}),
        (["gpus_per_node=2", "qos=m2"],
         {"resources.gpus": 2, "resources.qos": "m2", "script.#SBATCH --gres=gpu:2": True,
          "script.#SBATCH --qos=m2": True}),
        (["--env", "A_B=1,C=x y"], {"environment.env.A_B": "1", "environment.env.C": "x y"}),
    ],
)  # fmt: skip
def test_each_option_of_vec_inf_reaches_the_script_or_the_plan(
    dry: Dry, words: list[str], difference: dict[str, Any]
) -> None:
    """vec-inf 2: every `vec-inf launch` option under its name; della 2: and `key=value` overrides."""
    assert changed(dry(), dry(*words)) == difference


def test_the_table_of_a_launch_has_vec_infs_rows(site: Path, tmp_path: Path) -> None:
    """vec-inf 1: each row of its table with its value."""
    weights = str(SHIPPED / "tiny-chat")
    plan = Launcher().plan(
        weights, account="chem", qos="m2", resource_type="a100", time="08:00:00", work_dir=str(tmp_path),
        venv="image", vllm_args="--seed=1", fit_check=False,
    )  # fmt: skip
    paths = SessionPaths(tmp_path / plan.id)
    paths.root.mkdir()
    paths.plan.write_text(plan.to_json())
    write_job_id(paths.job, "4711")
    session = Session(paths)
    rows = [line.strip("│").split("│") for line in plan_table(session).splitlines() if line.count("│") == 3]
    shown = {row.strip(): value.strip() for row, value in rows}
    expected = {
        "Slurm Job ID": "4711", "Job Name": "launcher-tiny-chat", "Model Type": "LLM", "Account": "chem",
        "Working Directory": str(tmp_path), "Resource Type": "a100", "Partition": "gpu", "QoS": "m2",
        "Time Limit": "08:00:00", "Num Nodes": "1", "GPUs/Node": "1", "CPUs/Task": "4", "Memory/Node": "32G",
        "Virtual Environment": f"image (container {site / 'engine.sif'})", "Model Weights Directory": weights,
        "Log Directory": str(session.paths.root), "Inference Engine": "vllm", "Engine arguments": "--seed=1",
    }  # fmt: skip
    assert {row: shown.get(row) for row in expected} == expected


def test_places_named_on_the_command_line(dry: Dry, site: Path) -> None:
    """vec-inf 2: --work-dir, --log-dir, --venv, --bind."""
    usual = dry()
    (runs := site / "a 'folder'").mkdir()
    found = changed(usual, dry("--work-dir", str(runs)))
    assert found.pop("work_dir") == str(runs)
    assert [key for key in found if "cd -- " in key] == [*found]
    assert changed(usual, dry("--log-dir", "~/logs")) == {"places.sessions": str(site / "logs")}
    venv = site / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/true")
    own = changed(usual, dry("--venv", str(venv)))
    assert (own["environment.name"], own["environment.path"]) == ("own", str(venv))
    image = changed(usual, dry("--venv", "apptainer"))
    assert (image["environment.name"], image["environment.image"]) == ("image", str(site / "engine.sif"))
    bound = changed(usual, dry("--venv", "image", "--bind", "/data,/scratch:/tmp/s:ro"))
    assert bound["environment.binds"] == ["/data", "/scratch:/tmp/s:ro"]
    (own_image := site / "mine.sif").write_text("")
    assert changed(usual, dry("--image-ref", str(own_image)))["environment.image"] == str(own_image)


def test_a_file_of_variables_is_read(dry: Dry, site: Path) -> None:
    """vec-inf 2: --env takes variables and files of them."""
    (file := site / "some vars").write_text("# ours\nexport ONE=1\n\nTWO='2 = two'\n")
    found = changed(dry(), dry("--env", f"{file},THREE=3"))
    assert found == {f"environment.env.{name}": text for name, text in
                     (("ONE", "1"), ("TWO", "2 = two"), ("THREE", "3"))}  # fmt: skip


def test_weights_under_another_name(dry: Dry, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """vec-inf 2: --hf-model and --model-weights-parent-dir say where the weights are, MODEL what they are called."""
    (weights := site / "weights").mkdir()
    (weights / "My-Model").symlink_to(SHIPPED / "tiny-chat")
    found = dry("--model-weights-parent-dir", str(weights), command=("launch", "My-Model"))
    assert found["plan.model.served_name"] == "My-Model"
    assert found["plan.model.snapshot"].startswith(str(weights))
    found = dry("--hf-model", str(weights / "My-Model"), command=("launch",))
    assert found["plan.name"] == "My-Model"
    found = dry("--hf-model", str(weights / "My-Model"), command=("launch", "short"))
    assert found["plan.name"] == "short"
    assert main(["launch", "My-Model", "--model-weights-parent-dir", "/nowhere", "--dry-run"]) == 4
    assert "/nowhere/My-Model" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--model-family", "--model-variant", "--model-type", "--vocab-size"])
def test_an_option_without_meaning_is_one_sentence_on_standard_error(
    site: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "simulated", option, "128", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.err == f"launcher: {option} means nothing here. It is read from the model itself.\n"
    assert said.out.startswith("#!/bin/bash")


def test_a_small_number_for_the_time_is_told_to_be_minutes(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "simulated", "--time", "4", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.err == "launcher: --time 4 is 4 minutes, as for Slurm. Hours are: --hours 4\n"
    assert "#SBATCH --time=0:04:00" in said.out.splitlines()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--time", "soon"], "--time must be a time such as 08:00:00, 90 (minutes) or 2-12, not 'soon'."),
        (["--time", "0"], "The hours must be more than 0, not 0."),
        (["--hours", "4", "--time", "4"], "--time and --hours say the same, and both are given."),
        (["--hours", "4", "hours=4"], "hours is given twice."),
        (["model=simulated"], "model is given twice."),
        (["hours=four"], 'hours must be a number, not "four".'),
        (["houres=4"], 'Unknown option "houres". Did you mean hours'),
        (["--mem-per-node", "lots"], "--mem-per-node must be a size such as 64G, not 'lots'."),
        (["--gres", "fpga:1"], "--gres must be a number of GPUs, or gpu:TYPE:N, not 'fpga:1'."),
        (["--engine", "sglang"], "The engine 'sglang' is not offered here."),
        (["--engine", "vllm"], 'Model "simulated" runs on the engine simulated, not on vllm.'),
        (["--sglang-args", "--x"], "SGLang is not offered here"),
        (["--venv", "/nowhere"], "The environment /nowhere is not there."),
        (["--venv", "/tmp"], "/tmp is no virtual environment: it has no bin/python."),
        (["--work-dir", "/nowhere"], "The working directory /nowhere is not there."),
        (["--env", "HF_TOKEN=x"], "The variable HF_TOKEN looks like a secret"),
        (["--env", "VLLM_API_KEY=x"], "The variable VLLM_API_KEY looks like a secret"),
        (["--env", "VLLM_LOGGING_LEVEL=DEBUG"], "The variable VLLM_LOGGING_LEVEL is not yours to set."),
        (["--env", "PATH=/x"], "The variable PATH is not yours to set."),
        (["--env", "LD_PRELOAD=/x.so"], "The variable LD_PRELOAD would load code from outside the engine"),
        (["--env", "BASH_ENV=/x"], "The variable BASH_ENV would load code from outside the engine"),
        (["--env", "HF_HUB_OFFLINE=0"], "The variable HF_HUB_OFFLINE is not yours to set."),
        (["--env", "no-name=1"], 'env must hold names of variables, not "no-name".'),
        (["--env", "/nowhere"], "--env names '/nowhere', which is neither NAME=value nor a file to read"),
        (["--exclude", "/etc/passwd"], "The exclude must be names of nodes"),
        (["--venv", "image", "--bind", "relative"], "The bind must be an absolute path, not 'relative'."),
        (["--venv", "image", "--bind", "/a:/b:exec"], "must end with ro or rw."),
        (["--venv", "image", "--bind", "$NOT_SET/a"], "The bind names $NOT_SET, which is not set."),
        (["--connect", "--dry-run"], "A dry run starts nothing to connect to."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence(
    site: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "simulated", *words, *([] if "--dry-run" in words else ["--dry-run"])]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("launcher: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_a_venv_without_the_engine_is_not_called_a_mistake_of_the_sites_file(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = site / "bare venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/true")
    assert main(["launch", "tiny-chat", "--venv", str(venv), "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(
        f"launcher: The environment {venv} has no program {venv}/bin/vllm. Install vllm there"
    )


@pytest.mark.parametrize(
    "option",
    [
        "--exclude", "--nodelist", "--bind", "--work-dir", "--log-dir", "--venv", "--time", "--mem-per-node", "--gres",
        "--env", "--engine", "--config", "--hf-model", "--model-weights-parent-dir", "--vllm-args", "--data-type",
        "account", "engine_args", "hours",
    ],
)  # fmt: skip
def test_hostile_texts_are_refused_or_stay_data(
    site: Path, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site)
    for text in HOSTILE:
        code = main(["launch", "simulated", f"{option}={text}", "--dry-run"])
        said = capsys.readouterr()
        assert code in (0, 2, 3, 4), (text[:80], said.err[:500])
        assert len(said.err) < 1500, text[:80]
        if code == 0 and text.strip():
            # What was accepted is in no line of the script, but for a folder, which is quoted there.
            lines = [line for line in said.out.splitlines() if text in line]
            assert not lines or option == "--log-dir", (text, lines)
    assert not Path("/tmp/launcher-was-here").exists()


def test_a_site_that_keeps_its_environments_refuses_other_ones(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = site / "site.yml"
    file.write_text(
        file.read_text() + "locks: [environments, places.sessions]\nallow: {engine_args: false}\n"
    )
    for words, sentence in (
        (
            ["--venv", str(site)],
            "This site does not let you bring an environment of your own. Choose one of: ",
        ),
        (["--bind", "/data"], "This site does not let you add binds."),
        (["--log-dir", "/tmp"], "This site says where the logs of sessions are."),
        (["--env", "A=1"], "This site does not let you add variables for the engine."),
        (["--tokens", "3"], "This site does not allow further engine arguments."),
    ):
        assert main(["launch", "simulated", *words, "--dry-run"]) == 2
        assert sentence in capsys.readouterr().err


def test_logs_below_a_folder_of_somebody_else_are_in_one_of_mine(dry: Dry, site: Path) -> None:
    import getpass

    found = changed(dry(), dry("--log-dir", "/tmp"))
    assert found == {"places.sessions": f"/tmp/{getpass.getuser()}"}


def test_logs_do_not_go_through_a_link_that_somebody_else_may_turn(
    dry: Dry, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a link to somebody else")
    mine, shared = site / "mine", site / "shared"
    mine.mkdir()
    shared.mkdir()
    shared.chmod(0o1777)
    for link, given in ((shared / "root", shared), (shared / "logs", shared / "logs")):
        link.symlink_to(mine)
        os.chown(link, 12345, 12345, follow_symlinks=False)
        assert main(["launch", "simulated", "--dry-run", "--log-dir", str(given)]) == 2
        assert "is a link of somebody else" in capsys.readouterr().err
        os.chown(link, 0, 0, follow_symlinks=False)
        assert str(link) in json.dumps(dry("--log-dir", str(given)))
