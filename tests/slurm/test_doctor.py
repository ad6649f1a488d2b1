"""`launcher doctor` on a real Slurm: what is right passes, what is wrong is named with its fix, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs
from tests.portal.apache import Portal
from tests.site import SETTINGS, Answer, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

GPU: dict[str, Any] = {"cluster": "test", "partition": "gpu", "gpus": 1, "gpu_type": "a100", "hours_max": 1}
ENGINES = {"vllm": {"kind": "container", "image": "/usr/bin/true"}}


def doctor(
    site: Site, users: People, *arguments: str, **env: str
) -> tuple[Answer, dict[str, dict[str, str]]]:
    """The answer, and what was said by what it is about."""
    app = ("--app", str(site.install.app))
    answer = site.run(users.alice, "doctor", "--json", *app, *arguments, timeout_s=120, **env)
    return answer, {check["about"]: check for check in answer.data["checks"]}


def test_a_site_that_works(site: Site, users: People) -> None:
    models = site.folder / "models"
    models.mkdir(mode=0o755)
    site.settle(environments=ENGINES, models={"folders": [str(models)]})
    answer, said = doctor(site, users)
    assert answer.code == 0, answer
    assert answer.data["ok"]
    assert [c for c in said.values() if c["verdict"] == "FAIL"] == []
    assert said["clusters.test"]["says"].endswith(" answers: 3 of 3 nodes in service.")
    assert said["profiles.gpu"]["says"] == "would be taken by Slurm; 1 h would start now."
    # What is doubtful hides nothing else.
    assert said["profiles.gpu.gpu_memory_gb"]["verdict"] == "warn"
    assert "may have 40, 64 or 80 GB" in said["profiles.gpu.gpu_memory_gb"]["says"]
    assert said["install"]["verdict"] == "ok"
    assert said["form"]["verdict"] == "ok"
    assert not [about for about in said if about.startswith("environments.launcher")]
    assert "can be read by all: 0 entries" in said["models.folders"]["says"]
    assert said["app"]["verdict"] == "ok"
    lines = site.run(users.alice, "doctor", "--app", str(site.install.app)).text.splitlines()
    assert lines[0].startswith("ok    settings: ")
    assert lines[-1] == f"{len(answer.data['checks'])} looked at: 0 FAIL, {lines[-1].split()[-2]} warn."


@pytest.mark.parametrize(
    ("changed", "about", "says", "fix"),
    [
        ({"partition": "gup"}, "partition", 'says "gup", which Slurm does not have.', "Its partitions: cpu, gpu, "),
        ({"partition": "cpu"}, "gpus", "is 1, but partition cpu has no GPU.", "Take another partition."),
        ({"gpu_type": "A100"}, "gpu_type", 'says "A100", which partition gpu does not have.', "Its types: a100."),
        ({"gpus": 8}, "gpus", "is 8, but no node of partition gpu that has the rest has more", "Write gpus: 4."),
        ({"gpus_max": 6}, "gpus_max", "is 6, but no node of", "Write gpus_max: 4."),
        ({"cpus": 64}, "cpus", "is 64, but no node of", "Write cpus: 8."),
        ({"memory_gb": 512}, "memory_gb", "is 512 GB, but no node of", "Write memory_gb: 19."),
        ({"nodes": 3}, "nodes", "is 3, but only 2 such nodes are in partition gpu.", "Write nodes: 2."),
        ({"constraint": "ib"}, "constraint", 'says "ib", which no such node has.', "Its features: none."),
        ({"constraint": "ib&new"}, "constraint", "but no such node has ib or new.", "Its features: none."),
        ({"reservation": "gone"}, "reservation", 'says "gone", which Slurm', "Its reservations: none."),
        ({"gpu_memory_gb": 320}, "gpu_memory_gb", "is 320, but a100 has 40, 64 or 80 GB.", "Write gpu_memory_gb: 40"),
        ({"hours_max": 48}, "hours_max", "is 48, more than the 1 hour of partition gpu", "Write hours_max: 1."),
        ({"hours_max": 48, "hours": 4}, "hours_max", "is 48, more than", "Write hours_max: 1 and hours: 1."),
        ({"sbatch_args": ["--nodelist=zz"]}, "", "Slurm refuses it: Invalid node name specified.", "Compare"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_profile_that_cannot_run(
    site: Site, users: People, changed: dict[str, Any], about: str, says: str, fix: str
) -> None:
    site.settle(profiles={"gpu": {**GPU, **changed}}, environments=ENGINES)
    answer, said = doctor(site, users)
    assert answer.code == 3, answer
    failed = {name: check for name, check in said.items() if check["verdict"] == "FAIL"}
    assert list(failed) == [f"profiles.gpu.{about}".rstrip(".")]
    (check,) = failed.values()
    assert says in check["says"]
    assert check["fix"].startswith(fix)


def test_qos_and_accounts_that_do_not_exist(site: Site, slurm_accounting: Cluster, users: People) -> None:
    profile = {**GPU, "qos": "fast", "account": "nobody", "accounts": ["root", "nobody"]}
    site.settle(profiles={"gpu": profile}, environments=ENGINES)
    _, said = doctor(site, users, SLURM_CONF=str(slurm_accounting.conf))
    failed = {name: check for name, check in said.items() if check["verdict"] == "FAIL"}
    assert set(failed) == {"profiles.gpu.qos", "profiles.gpu.account"}
    assert failed["profiles.gpu.qos"]["says"] == 'says "fast", which Slurm does not have.'
    assert failed["profiles.gpu.qos"]["fix"] == "It has: normal."
    assert failed["profiles.gpu.account"]["fix"] == "It has: root."


def test_every_mistake_of_the_settings_at_once(site: Site, users: People) -> None:
    site.settle(profiles={"gpu": {**GPU, "gpus": "two"}, "cpu": {"cluster": "tset"}})
    answer = site.run(users.alice, "doctor", "--json")
    assert answer.code == 3
    says = [check["says"] for check in answer.data["checks"]]
    assert len(says) == 2
    assert any("profiles.gpu.gpus must be a whole number" in text for text in says)
    assert any("profiles.cpu.cluster" in text for text in says)


def test_places_and_environments_that_are_not_there(site: Site, users: People) -> None:
    closed = site.folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "image.sif").touch()
    folders = [str(site.folder / "none"), str(closed / "models")]
    environments = {
        "gone": {"kind": "container", "image": "/nowhere/vllm $(id).sif"},
        "closed": {"kind": "container", "image": str(closed / "image.sif")},
        "modules": {"kind": "module", "modules": ["no-such-module"]},
        "venv": {"kind": "venv", "path": "/nowhere/venv"},
    }
    profiles = {name: {**SETTINGS["profiles"]["cpu"], "environment": name} for name in environments}
    site.settle(models={"folders": folders}, environments=environments, profiles=profiles)
    answer = site.run(users.alice, "doctor", "--json")
    failed = [f"{c['about']}: {c['says']}" for c in answer.data["checks"] if c["verdict"] == "FAIL"]
    assert f"models.folders: {folders[0]}: No such file or directory." in failed
    assert f"models.folders: {closed} is closed to other users." in failed
    ask = next(c["fix"] for c in answer.data["checks"] if c["says"] == f"{closed} is closed to other users.")
    assert ask == f"Ask root, who owns it, for: chmod a+rX {closed}"
    assert "environments.gone.image: There is no /nowhere/vllm $(id).sif." in failed
    assert f"environments.closed.image: {closed} is closed to other users." in failed
    assert any(
        line.startswith("environments.modules.modules: no-such-module gives no program vllm")
        for line in failed
    )
    assert "environments.venv: has no program /nowhere/venv/bin/vllm." in failed


def test_an_app_that_users_cannot_read(site: Site, users: People) -> None:
    copy = site.folder / "app"
    shutil.copytree(site.install.app, copy, symlinks=True)
    # root looks, as an admin would, and sees what others cannot.
    root = [site.install.launcher, "doctor", "--json", "--app", str(copy)]

    def app() -> dict[str, str]:
        done = subprocess.run(
            root, env={**os.environ, **site.env}, capture_output=True, text=True, check=False
        )
        return next(check for check in json.loads(done.stdout)["checks"] if check["about"] == "app")

    assert app()["verdict"] == "ok"
    (copy / "view.html.erb").chmod(0o600)
    assert app()["says"] == f"{copy}/view.html.erb is closed to other users."
    (copy / "view.html.erb").chmod(0o644)
    (copy / "template" / "script.sh").chmod(0o644)
    assert "is not executable" in app()["says"]
    (copy / "template" / "script.sh").chmod(0o757)
    assert "can be changed by everybody" in app()["says"]
    (copy / "manifest.yml").unlink()
    assert app()["says"] == f"{copy} lacks manifest.yml."


def test_a_proposal_is_a_site_file_that_works(site: Site, users: People) -> None:
    file = users.alice.folder() / "site $(id).yml"
    answer = site.run(users.alice, "doctor", "--write", str(file))
    assert answer.code == 0, answer
    assert file.read_text() == site.run(users.alice, "doctor", "--write").text
    assert site.run(users.alice, "config", "check", str(file)).code == 0
    site.file.write_text(file.read_text())
    profiles = {p["name"]: p for p in site.run(users.alice, "profiles", "--json").data["profiles"]}
    gpu = profiles["gpu"]
    assert (gpu["gpus"], gpu["gpus_max"], gpu["gpu_type"], gpu["cpus"]) == (1, 4, "a100", 2)
    assert (gpu["hours_max"], gpu["partition"]) == (1, "gpu")
    assert {p["start"]["trouble"] for p in profiles.values()} == {None}
    answer, said = doctor(site, users)
    failed = [c["about"] for c in said.values() if c["verdict"] == "FAIL"]
    assert failed == []
    assert said["environments.launcher"]["says"].startswith("no engine is installed here")
    # A file that is there is somebody's work.
    answer = site.run(users.alice, "doctor", "--write", str(file))
    assert answer.code == 8
    assert "is there already" in answer.error


def test_a_whole_session_runs_and_is_taken_away(site: Site, slurm: Cluster, users: People) -> None:
    hidden = "/nowhere/to be 'seen' $(id)"
    missing = {"vllm": {"kind": "container", "image": "/usr/bin/true", "runtime": "singularity"}}
    site.settle(environments=missing, models={"folders": [hidden]})
    answer = site.run(users.alice, "doctor", "--job", "--profile", "gpu", "--json", timeout_s=120)
    said = [check["says"] for check in answer.data["checks"] if check["about"] == "job on gpu"]
    assert said[0].startswith("submitted as job ")
    assert said[1].startswith("ready on ")
    assert "Simulated answer" in said[2]
    assert said[3] == "There is no program singularity where the job runs."
    assert said[4] == f"The job cannot read {hidden}."
    assert said[5:] == ["stopped, and nothing of it is left."]
    assert slurm.run_as(users.alice, ["squeue", "--me", "-h"]).stdout == ""
    assert site.run(users.alice, "status", "--all", "--json").data == {"sessions": []}
    answer = site.run(users.alice, "doctor", "--job", "--profile", "gup", "--json", timeout_s=120)
    assert "Did you mean gpu" in answer.data["checks"][-1]["fix"]


def test_control_c_leaves_no_session(site: Site, slurm: Cluster, users: People) -> None:
    # All GPUs are taken: the job waits, and somebody loses patience.
    whole = slurm.submit(users.bob, "sleep 300", "-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    slurm.wait_for(whole, "RUNNING")
    argv = [site.install.launcher, "doctor", "--job", "--profile", "gpu"]
    home = {"HOME": str(users.alice.home), "PATH": "/usr/bin:/bin", "USER": users.alice.name}
    running = subprocess.Popen(
        argv, env={**home, **site.env}, stdout=subprocess.PIPE, text=True, cwd=users.alice.home,
        user=users.alice.uid, group=users.alice.gid, extra_groups=[],
    )  # fmt: skip
    lines = []
    with running:
        assert running.stdout is not None
        for line in running.stdout:
            lines.append(line)
            if "submitted as job" in line:
                running.send_signal(signal.SIGINT)
    assert running.returncode == 130
    assert lines[-1] == "ok    job on gpu: stopped, and nothing of it is left.\n"
    assert slurm.run_as(users.alice, ["squeue", "--me", "-h"]).stdout == ""
    assert site.run(users.alice, "status", "--all", "--json").data == {"sessions": []}
    slurm.scancel(whole)


def test_the_portals_proxy(site: Site, users: People, portal: Portal) -> None:
    needs("apache2", "apache2")
    site.settle(environments=ENGINES, network={"bind": "127.0.0.1", "host": "127.0.0.1"})
    _, said = doctor(site, users, "--portal", f"{portal.url}/")
    assert said["portal node"]["says"] == f"{portal.url} reaches this machine, the prefix is kept."
    assert said["portal rnode"]["says"] == f"{portal.url} reaches this machine, the prefix is taken off."
    # A host that the proxy cannot reach, and a portal that is none.
    site.settle(environments=ENGINES, network={"bind": "127.0.0.1", "host": "127.0.0.2"})
    answer, said = doctor(site, users, "--portal", portal.url)
    assert answer.code == 3
    assert "does not reach this machine: HTTP 503" in said["portal node"]["says"]
    assert "is there a way to 127.0.0.2?" in said["portal node"]["fix"]
    assert said["portal rnode"]["verdict"] == "warn"
    answer, said = doctor(site, users, "--portal", "http://127.0.0.1:1")
    assert said["portal"]["says"] == "Nothing listens at http://127.0.0.1:1."
    answer = site.run(users.alice, "doctor", "--portal", "ondemand.example.edu")
    assert answer.code == 2
    assert "--portal must be an address" in answer.error


def test_a_cluster_that_is_not_there(site: Site, users: People) -> None:
    begun = time.monotonic()
    answer = site.run(users.alice, "doctor", "--json", SLURM_CONF="/dev/null", timeout_s=120)
    assert answer.code == 3
    check = next(c for c in answer.data["checks"] if c["about"] == "clusters.test")
    assert check["verdict"] == "FAIL"
    assert check["says"].startswith("sinfo refused: ")
    assert time.monotonic() - begun < 60
    assert Path(site.file).exists()
