"""Items of the lists that belong to no other file: presets, a model over eight GPUs, what is refused, a cut network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import launcher as package
from launcher import AsyncLauncher, Launcher, Session
from launcher.engines import Place, vllm
from launcher.errors import LauncherError
from launcher.schedulers.script import job_script
from launcher.sessions.plan import Plan
from launcher.settings.layers import load
from tests.conftest import needs, skip_loudly
from tests.markdown import ROOT
from tests.settings import without_site
from tests.unit import fit_models

SITE = """
clusters: {{della: {{scheduler: slurm}}}}
profiles:
  gpu80: {{cluster: della, gpus: 1, gpus_max: 4, gpu_type: a100, gpu_memory_gb: 80, constraint: gpu80, hours_max: 24}}
  pli:
    {{cluster: della, partition: pli-c, account: pli, qos: pli-high, reservation: spring, constraint: "h100&nvlink",
     gpus: 8, gpu_type: h100, gpu_memory_gb: 80, cpus: 96, memory_gb: 1000, hours_max: 24}}
  two: {{cluster: della, gpus: 8, gpu_type: h100, gpu_memory_gb: 80, nodes: 2, hours_max: 24}}
models: {{folders: [{models}]}}
environments: {{vllm: {{kind: module, modules: [vllm]}}}}
catalog:
  llama-405b: {{id: org/llama-405b, engine_args: [--quantization, fp8]}}
"""
LLAMA_405B = fit_models._llama(16384, 126, 128, 53248)
EIGHT_GPUS = [
    "--partition=pli-c", "--account=pli", "--qos=pli-high", "--constraint=h100&nvlink", "--reservation=spring",
    "--cpus-per-task=96", "--mem=1024000M", "--gres=gpu:h100:8", "--time=12:00:00", "--nodes=1",
]  # fmt: skip

SIXTEEN_BITS = ("--quantization", "none", "--max-model-len", "8192")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with weights of the true size, which take no space."""
    folder = tmp_path_factory.mktemp("models")
    fit_models.CONFIGS["llama-405b"] = LLAMA_405B
    for name in ("llama-8b", "llama-405b"):
        fit_models.snapshot(folder / "org" / name, name)
    del fit_models.CONFIGS["llama-405b"]
    return folder


@pytest.fixture
def della(models: Path, tmp_path: Path) -> Launcher:
    file = tmp_path / "site.yml"
    file.write_text(SITE.format(models=models))
    return Launcher(load({"LAUNCHER_SITE": str(file), "HOME": str(tmp_path)}))


def submitted(plan: Plan) -> list[str]:
    """The options in the script that sbatch would get."""
    return re.findall(r"^#SBATCH (.+)$", job_script(plan, Path("/sessions") / plan.id), re.MULTILINE)


def test_a_preset_is_a_profile(della: Launcher) -> None:
    """della 3: partition, account, QoS, reservation and constraint under one name, each replaced by its option."""
    usual = submitted(della.plan("org/llama-8b", hours=12))
    assert "--constraint=gpu80" in usual
    assert not [option for option in usual if option.startswith(("--partition", "--account", "--qos"))]
    assert set(EIGHT_GPUS) <= set(submitted(della.plan("org/llama-8b", profile="pli", hours=12)))
    other = submitted(della.plan("org/llama-8b", profile="pli", partition="pli-lc", qos="low"))
    assert {"--partition=pli-lc", "--qos=low", "--account=pli"} <= set(other)


def test_a_model_of_405_billion_parameters_on_eight_gpus(della: Launcher) -> None:
    """della 10: the script and the arguments, in fp8; Blackfish 7: its size has chosen the profile."""
    plan = della.plan("llama-405b", hours=12)
    assert plan.resources.profile == "pli"
    assert set(EIGHT_GPUS) <= set(submitted(plan))
    arguments = " ".join(plan.engine_args)
    assert "--quantization fp8" in arguments
    assert re.search(r"--tensor-parallel-size[= ]8\b", arguments)
    # In eight bits it leaves room for its whole context; in sixteen it has none.
    assert "--max-model-len" not in arguments
    with pytest.raises(LauncherError, match=r"\d+ GB"):
        della.plan("llama-405b", engine_args=("--quantization", "none"))


def test_a_model_of_405_billion_parameters_on_two_nodes(models: Path, tmp_path: Path) -> None:
    """della 10, vec-inf 14: the script and the arguments for 2 × 8 GPUs, where the site allows it."""
    file = tmp_path / "site.yml"
    file.write_text(SITE.format(models=models) + "allow: {nodes: 2}\n")
    della = Launcher(load({"LAUNCHER_SITE": str(file), "HOME": str(tmp_path)}))
    for wanted in ({"profile": "pli", "nodes": 2, "gpus": 8}, {"profile": "two"}):
        plan = della.plan("llama-405b", hours=12, **wanted)
        assert {"--nodes=2", "--gres=gpu:h100:8", "--time=12:00:00"} <= set(submitted(plan))
        arguments = " ".join(plan.engine_args)
        assert "--quantization fp8" in arguments
        assert "--tensor-parallel-size 8" in arguments
        assert "--pipeline-parallel-size 2" in arguments
        first, second = (
            vllm.command(
                plan, Path("/run/s/engine.sock"), Path("/cache"), Place(rank, 2, "10.1.0.7", 4711, own)
            )
            for rank, own in enumerate(("10.1.0.7", "10.1.0.8"))
        )
        assert {"--nnodes=2", "--node-rank=0", "--master-addr=10.1.0.7", "--uds"} <= set(first.argv)
        assert {"--nnodes=2", "--node-rank=1", "--master-addr=10.1.0.7", "--headless"} <= set(second.argv)
        script = job_script(plan, Path("/sessions") / plan.id)
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
        assert script.rstrip().endswith('serve "$session"')
    # In sixteen bits it fits on no eight GPUs, and on sixteen it does.
    with pytest.raises(LauncherError, match=r"\d+ GB"):
        della.plan("llama-405b", profile="pli", engine_args=SIXTEEN_BITS)
    assert della.plan("llama-405b", profile="two", engine_args=SIXTEEN_BITS).resources.nodes == 2


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"model": "org/llama-405b", "profile": "gpu80"}, r"\d+(\.\d+)? GB"),
        ({"model": "org/llama-8b", "profile": "two"}, "node"),
        ({"model": "org/llama-8b", "engine": "sglang"}, "(?i)sglang"),
        ({"model": "org/llama-8b", "profile": "pli", "engine_args": ("--api-key", "x")}, "--api-key"),
    ],
    ids=["too-large", "two-nodes", "sglang", "a-key-in-argv"],
)
def test_what_is_not_offered_is_refused_before_the_queue(
    wanted: dict[str, Any], says: str, della: Launcher
) -> None:
    """vec-inf 14: SGLang, nodes that are not allowed; Blackfish 7: what is too large; Blackfish 13: a key in argv."""
    with pytest.raises(LauncherError, match=says) as caught:
        della.launch(wanted.pop("model"), **wanted)
    assert caught.value.hint


OFFLINE = """\
import json, os, sys
from launcher import Launcher

with Launcher().launch("tiny-whisper") as session:
    connection = session.wait(90)
    with session.openai(max_retries=0) as client:
        models = [model.id for model in client.models.list()]
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
print(json.dumps({"models": models, "interfaces": interfaces, "state": session.status().reason}))
"""


@pytest.mark.timeout(180)
def test_a_real_engine_starts_where_there_is_no_network(tmp_path: Path) -> None:
    """della 4: the network is cut in the job; a real Whisper loads from the folder and answers its first question."""
    needs("ip", "iproute2")
    needs("unshare", "util-linux")
    if os.geteuid() != 0:
        skip_loudly("a network of its own: only root can cut it off")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LAUNCHER_")},
        **without_site(tmp_path),
        "LAUNCHER_NETWORK__HOST": "127.0.0.1",
    }
    argv = [
        "unshare",
        "--net",
        "sh",
        "-c",
        'ip link set lo up && exec "$@"',
        "sh",
        sys.executable,
        "-c",
        OFFLINE,
    ]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == {"models": ["tiny-whisper", "whisper-1"], "interfaces": ["lo"], "state": "user"}


def test_every_name_in_the_tables_of_the_python_page_is_there() -> None:
    """vec-inf 11: the ten methods of its client; Blackfish 15: and Blackfish's, by the names that the page gives."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    tables = page.partition("## In vec-inf's and Blackfish's words")[2]
    assert len(re.findall(r"^\| `[a-z_]+\(", tables.partition("| Blackfish |")[0], re.MULTILINE)) == 10
    owners: dict[str, type] = {"launcher": Launcher, "session": Session}
    found = re.findall(r"`[^`|]*?\b(launcher|session|AsyncLauncher\(\))\.(\w+)\(", tables)
    chained = re.findall(r"`launcher\.session\([^)]*\)\.(\w+)\(", tables)
    assert len(found) >= 15
    assert set(chained) == {"status", "metrics", "stop", "wait"}
    for owner, name in [*found, *(("session", name) for name in chained)]:
        assert callable(getattr(owners.get(owner, AsyncLauncher), name)), f"{owner}.{name}"
    assert all(hasattr(package, name) for name in package.__all__)
