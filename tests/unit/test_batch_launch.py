"""Batches before they are submitted: who is a member, the one script, files of members, ids and their errors."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher import Launcher
from launcher.api import batch_launch
from launcher.cli import main
from launcher.errors import LauncherError, RequestError, SessionError
from launcher.schedulers.batch_script import batch_script
from launcher.sessions import registry
from launcher.sessions.job import is_over, member_of, read_job_id, write_job_id
from launcher.sessions.members import Members
from launcher.settings.layers import load
from tests.hostile import HOSTILE

SITE: dict[str, Any] = {
    "clusters": {"hpc": {"scheduler": "slurm"}, "here": {"scheduler": "local"}},
    "profiles": {
        "cpu": {"cluster": "hpc", "partition": "cpu", "cpus": 2, "hours_max": 48},
        "gpu": {"cluster": "hpc", "partition": "gpu", "gpus": 1, "gpu_type": "a100", "sbatch_args": ["--requeue"]},
        "desk": {"cluster": "here"},
    },
    "limits": {"sessions": 3},
}  # fmt: skip


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    site = tmp_path / "site.yml"
    site.write_text(yaml.safe_dump({**SITE, "places": {"sessions": str(tmp_path / "sessions")}}))
    monkeypatch.setenv("LAUNCHER_SITE", str(site))
    monkeypatch.setenv("LAUNCHER_CONFIG", os.devnull)
    return Launcher(load())


def planned(launcher: Launcher, *models: Any, config: str | None = None, **common: Any) -> list[Any]:
    return batch_launch.planned(launcher, models, config, common, "python")


def members(tmp_path: Path, text: str) -> str:
    file = tmp_path / "members.yml"
    file.write_text(text)
    return str(file)


def test_each_member_is_a_component_of_its_own(launcher: Launcher) -> None:
    """vec-inf 9: own partition, GPUs and time; the first lasts as long as the longest."""
    script = batch_launch.script(
        planned(
            launcher,
            {"model": "simulated", "profile": "cpu", "hours": 2, "name": "a"},
            {"model": "simulated", "profile": "gpu", "hours": 5, "name": "b", "qos": "high"},
        )
    )
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    cut = lines.index("hetjob")
    first, second = lines[:cut], lines[cut + 1 :]
    assert {"--partition=cpu", "--cpus-per-task=2", "--time=5:00:00", "--job-name=launcher-a"} <= {*first}
    assert {"--partition=gpu", "--gres=gpu:a100:1", "--qos=high", "--time=5:00:00"} <= {*second}
    assert second.index("--no-requeue") > second.index("--requeue")  # the last holds


def test_the_script_is_one_for_bash(launcher: Launcher, tmp_path: Path) -> None:
    """Blackfish 17: passes bash -n and ShellCheck, in folders of any name too."""
    plans = planned(launcher, "simulated", "simulated", profile="cpu")
    for name in HOSTILE:
        if "\0" in name or "\n" in name or len(name) > 200:
            continue
        script = batch_script(plans, Path("/home") / name)
        assert script.count(shlex.quote(str(Path("/home") / name))) == 1
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    if (shellcheck := shutil.which("shellcheck")) is not None:
        argv = [shellcheck, "--shell=bash", "-"]
        done = subprocess.run(
            argv, input=batch_launch.script(plans), text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_a_dry_run_prints_the_script_and_makes_nothing(
    launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["batch-launch", "simulated", "simulated", "--profile", "cpu", "--dry-run"]
    assert main(argv) == 0
    script = capsys.readouterr().out
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["plans"]) == 2
    assert "#SBATCH hetjob" in found["script"]
    assert not (tmp_path / "sessions").exists()


def test_the_call_wins_over_the_file_and_a_member_over_all(launcher: Launcher, tmp_path: Path) -> None:
    """vec-inf 12: the command line wins over the file."""
    file = members(
        tmp_path,
        "defaults: {profile: cpu, hours: 2, idle_minutes: 7}\n"
        "members:\n- simulated\n- {model: simulated, name: two, hours: 3, engine_args: [--token-rate, '5']}\n",
    )
    one, two = planned(launcher, config=file)
    assert [plan.limits.hours for plan in (one, two)] == [2, 3]
    assert (one.limits.idle_minutes, two.engine_args) == (7, ("--token-rate", "5"))
    assert [plan.limits.hours for plan in planned(launcher, config=file, hours=1)] == [1, 1]
    (chosen,) = planned(launcher, {"model": "two", "hours": 4}, config=file, hours=1)
    assert (chosen.name, chosen.limits.hours) == ("two", 4)


def test_vec_infs_file_of_models(launcher: Launcher, tmp_path: Path) -> None:
    """vec-inf 9: --batch-config FILE."""
    entry = {"model_type": "LLM", "gpus_per_node": 0, "num_nodes": 1, "time": "03:00:00", "partition": "slow"}
    file = members(tmp_path, yaml.safe_dump({"models": {"simulated": entry}}))
    one, two = planned(launcher, "simulated", "simulated", config=file, profile="cpu")
    assert (one.limits.hours, one.resources.partition) == (3, "slow")
    assert two.id != one.id
    with pytest.raises(RequestError, match='Unknown member "other"'):
        planned(launcher, "other", config=file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("members: 5", "members must be a list"),
        ("members: [5]", "members must be a list"),
        ("members: [{1: a}]", "no model"),
        ("members: []", "needs models"),
        ("members: [{profile: cpu}]", "no model"),
        ("members: [simulated]\nextra: 1", 'unknown key "extra"'),
        ("members: [{model: simulated, profil: cpu}]", "profil"),
        ("members: [a]\nmodels: {}", "a batch is a list"),
        ("models: 3", "models must be"),
        ("- simulated", "a batch is a list"),
        ("{", "members.yml"),
        ("members: [simulated]\ndefaults: 4", "defaults a block"),
        ("members: [a]\nmembers: [b]", "line 2: members stands twice"),
        ("members:\n- {model: simulated, hours: 2, hours: 20}", r"line 2: members\[0\].hours stands twice"),
    ],
)
def test_what_is_wrong_with_a_file_of_members(
    launcher: Launcher, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(LauncherError, match=words):
        planned(launcher, config=members(tmp_path, text))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_a_batch(launcher: Launcher, text: str) -> None:
    for fields in (
        {"model": text},
        {"model": "simulated", "profile": "cpu", "name": text},
        {"model": "simulated", "profile": "cpu", "partition": text},
        {"model": "simulated", text: 1},
    ):
        with pytest.raises(LauncherError):
            planned(launcher, "simulated", fields, profile="cpu")
    with pytest.raises(LauncherError):
        planned(launcher, config=text or "/nowhere")


def test_one_job_is_of_one_cluster(launcher: Launcher) -> None:
    with pytest.raises(RequestError, match=r'"hpc".*"here"'):
        planned(launcher, {"model": "simulated", "profile": "cpu"}, {"model": "simulated", "profile": "desk"})


def test_a_batch_counts_as_many_sessions_as_it_has(launcher: Launcher, tmp_path: Path) -> None:
    plans = planned(launcher, *["simulated"] * 4, profile="cpu")
    with pytest.raises(RequestError, match="you have 0 and ask for 4 more"):
        batch_launch.submit(launcher, plans)
    assert launcher.sessions() == []
    with pytest.raises(RequestError, match="too large"):
        planned(launcher, *["simulated"] * 129, profile="cpu")


@pytest.mark.parametrize(
    ("job_id", "place"),
    [
        ("123+0", ("123", 0)), ("host:1.2+11", ("host:1.2", 11)), ("123", None), ("+1", None), ("1+", None),
        ("1+x", None), ("1+-1", None), (None, None), ("1_2", None),
    ],
)  # fmt: skip
def test_ids_of_members(job_id: str | None, place: tuple[str, int] | None) -> None:
    assert member_of(job_id) == place


def test_the_jobs_file_tells_what_is_over(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    assert (read_job_id(file), is_over(file)) == (None, False)
    write_job_id(file, "7+1", over=True)
    assert (read_job_id(file), is_over(file)) == ("7+1", True)
    write_job_id(file, "7+1")
    assert not is_over(file)
    for text in ("", "[]", "{", '{"id": null}', "\0"):
        file.write_text(text)
        assert (read_job_id(file), is_over(file)) == (None, False)


def test_which_sessions_a_name_means(tmp_path: Path) -> None:
    for name, job_id in (("b-2", "12+1"), ("a-1", "12+0"), ("c-3", "123"), ("d-4", "12+10"), ("e-5", "12+2")):
        paths = registry.make(tmp_path, name)
        paths.plan.write_text("{}")
        write_job_id(paths.job, job_id)
    names = [paths.root.name for paths in registry.find_all(tmp_path, "12")]
    assert names == ["a-1", "b-2", "e-5", "d-4"]
    assert [paths.root.name for paths in registry.find_all(tmp_path, "12+1")] == ["b-2"]
    assert [paths.root.name for paths in registry.find_all(tmp_path, "c")] == ["c-3"]
    with pytest.raises(SessionError, match="Job 12 carries 4 sessions"):
        registry.find(tmp_path, "12")
    for nobody in ("12+7", ""):  # the empty word of a variable that is not set
        with pytest.raises(SessionError, match="There is no session"):
            registry.find_all(tmp_path, nobody)


def test_a_file_of_members_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    file = tmp_path / "members.json"
    found = Members(("/a b/ü", "/c"), together=True)
    found.write(file)
    assert Members.read(file) == found
    for text in ("", "[]", json.dumps({"schema": 9, **dataclasses.asdict(found)}), "{}"):
        file.write_text(text)
        assert Members.read(file) is None


def test_vec_infs_words_hold_for_all_members(launcher: Launcher, capsys: pytest.CaptureFixture[str]) -> None:
    """vec-inf 9: `launch`'s names of the hardware are not wrong for `batch-launch`."""
    line = "batch-launch simulated simulated --resource-type a100 --gpus-per-node 1 --cpus-per-task 3 --mem-per-node 2G"
    assert main([*line.split(), "--dry-run"]) == 0
    script = capsys.readouterr().out
    for option in ("--gres=gpu:a100:1", "--cpus-per-task=3", "--mem=2048M"):
        assert script.count(f"#SBATCH {option}\n") == 2
