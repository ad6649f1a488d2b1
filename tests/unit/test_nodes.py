"""One model over several nodes: what a site allows, how it is split, and where its processes meet."""

from __future__ import annotations

import asyncio
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from launcher.api import Launcher
from launcher.api.batch_launch import planned
from launcher.cli import main
from launcher.engines import Diagnosis, Place, vllm
from launcher.errors import EngineError, LauncherError, RequestError, SchedulerError
from launcher.models.fit.options import Options
from launcher.models.fit.weigh import split
from launcher.models.inspect.facts import facts
from launcher.planning.spread import spread
from launcher.schedulers import step
from launcher.serve.meeting import first_place, interface_of, own_address, place_of
from launcher.serve.others import Others, Tale, telling
from launcher.serve.process import Child
from launcher.serve.rank import ends
from launcher.sessions.paths import SessionPaths
from launcher.settings.layers import load
from tests.engines.plans import vllm_plan
from tests.unit.fit_models import snapshot

SITE = """
clusters: {{c: {{}}, here: {{scheduler: local}}}}
models: {{folders: [{models}]}}
profiles:
  one: {{cluster: c, gpus: 2, gpu_type: a100, gpu_memory_gb: 80}}
  two: {{cluster: c, gpus: 2, nodes: 2, gpu_type: a100, gpu_memory_gb: 80}}
  cpu: {{cluster: c, memory_gb: 64}}
  desk: {{cluster: here, gpus: 2, gpu_type: a100, gpu_memory_gb: 80}}
environments: {{vllm: {{kind: module, modules: [vllm]}}}}
allow: {{nodes: {nodes}}}
"""
LIST = "g[01-03],c1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama-8b", "llama-70b", "qwen2.5-0.5b"):
        snapshot(folder / "org" / name, name)
    return folder


def site(models: Path, tmp_path: Path, nodes: int = 2) -> Launcher:
    file = tmp_path / "site.yml"
    file.write_text(SITE.format(models=models, nodes=nodes))
    return Launcher(
        load({"LAUNCHER_SITE": str(file), "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)})
    )


def option(arguments: tuple[str, ...], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


@pytest.mark.parametrize(
    ("wanted", "nodes", "split"),
    [
        ({"model": "org/llama-70b", "profile": "one", "nodes": 2}, 2, ("2", "2")),
        ({"model": "org/llama-70b", "profile": "two"}, 2, ("2", "2")),
        ({"model": "org/llama-8b", "profile": "one", "nodes": 2, "gpus": 1}, 2, (None, "2")),
        ({"model": "org/llama-8b", "profile": "two", "nodes": 1}, 1, ("2", None)),
        ({"model": "org/llama-8b", "profile": "one", "nodes": 2, "fit_check": False}, 2, ("2", "2")),
        ({"model": "org/llama-8b", "profile": "cpu", "nodes": 2}, 2, (None, "2")),
        (
            {"model": "org/llama-8b", "profile": "one", "nodes": 2, "engine_args": ("--tensor-parallel-size", "4")},
            2, ("4", None),
        ),
    ],
)  # fmt: skip
def test_a_model_is_split_over_its_nodes(
    wanted: dict[str, Any], nodes: int, split: tuple[str | None, str | None], models: Path, tmp_path: Path
) -> None:
    """vec-inf 14: GPUs of a node together, one stage for each node; the user's own split where it can be shared."""
    plan = site(models, tmp_path).plan(wanted.pop("model"), **wanted)
    assert plan.resources.nodes == nodes
    found = tuple(option(plan.engine_args, f"--{kind}-parallel-size") for kind in ("tensor", "pipeline"))
    assert found == split


def test_two_nodes_hold_what_one_does_not(models: Path, tmp_path: Path) -> None:
    launcher = site(models, tmp_path)
    with pytest.raises(LauncherError, match=r"profile \"one\" has 1\d\d GB \(2 GPUs\)"):
        launcher.plan("org/llama-70b", profile="one", max_model_len=65536)
    plan = launcher.plan("org/llama-70b", profile="one", nodes=2, max_model_len=65536)
    assert plan.origins["nodes"] == "request"
    with pytest.raises(LauncherError, match=r"\(2 × 2 GPUs\)"):
        launcher.plan(
            "org/llama-70b", profile="two", max_model_len=131072, engine_args=("--dtype", "float32")
        )


@pytest.mark.parametrize(
    ("wanted", "allowed", "sentence"),
    [
        ({"profile": "one", "nodes": 2}, 1, "This site allows one model one node, not 2. Ask for --nodes 1. The site"),
        ({"profile": "one", "nodes": 3}, 2, "This site allows one model at most 2 nodes, not 3. Ask for --nodes 2."),
        ({"profile": "two"}, 1, 'Profile "two" has 2 nodes, and this site allows one model one node. Choose'),
        ({"profile": "desk", "nodes": 2}, 2, "Cluster here is this machine alone: several nodes need Slurm. Ask"),
        ({"model": "tiny-whisper", "profile": "one", "nodes": 2}, 2, "A Whisper model runs on one. Ask for"),
        (
            {"nodes": 2, "engine_args": ("--data-parallel-size", "2")}, 2,
            "Copies of a model (--data-parallel-size 2) are not spread over 2 nodes. Leave",
        ),
        (
            {"nodes": 2, "fit_check": False, "engine_args": ("--pipeline-parallel-size", "3")}, 2,
            "A split over 3 GPUs cannot be shared equally by 2 nodes with 2 each. Ask for --tensor-parallel-size 2",
        ),
        ({"nodes": 2, "engine_args": ("--nnodes", "2")}, 2, "Engine argument --nnodes is not yours to set. The"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_a_way_out(
    wanted: dict[str, Any], allowed: int, sentence: str, models: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as caught:
        site(models, tmp_path, allowed).plan(**{"model": "org/llama-8b", **wanted})
    assert str(caught.value).startswith(sentence)
    assert caught.value.hint


def test_several_nodes_are_not_part_of_a_batch(models: Path, tmp_path: Path) -> None:
    launcher = site(models, tmp_path)
    models_ = ["org/llama-8b", "org/qwen2.5-0.5b"]
    with pytest.raises(
        RequestError, match="org/llama-8b would have 2 nodes, and in a batch each model has one"
    ):
        planned(launcher, models_, None, {"nodes": 2}, "shell")
    assert len(planned(launcher, models_[:1], None, {"nodes": 2, "profile": "one"}, "shell")) == 1


def test_heads_that_no_node_divides_go_over_more_stages(models: Path) -> None:
    """vec-inf 14: 14 heads on 2 nodes with 4 GPUs: two together, and four stages."""
    what = facts(models / "org" / "qwen2.5-0.5b")
    parts = split(what, Options(), 2, 4)
    assert (parts.tensor, parts.pipeline, parts.trouble) == (2, 4, None)
    assert "cannot be shared by 2 nodes" in (split(what, Options(tensor=7), 2, 4).trouble or "")


def test_the_fit_says_how_many_nodes(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site(models, tmp_path)
    monkeypatch.setenv("LAUNCHER_SITE", str(tmp_path / "site.yml"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["fit", "org/llama-70b", "--profile", "one", "--nodes", "2"]) == 0
    said = capsys.readouterr().out
    assert "On one (2 nodes, each 2 × a100): fits" in said
    assert "/ 4 GPUs" in said
    assert "A launch takes one: 2 nodes, each 2 × a100" in said


# -- its processes


def test_each_of_several_nodes_has_its_part_and_only_the_first_listens() -> None:
    """vec-inf 14, della 10: vLLM's own way over nodes, without Ray; addresses and interface are each node's own."""
    plan, socket, cache = vllm_plan("--node-rank", "7", nodes=2), Path("/run/s/e.sock"), Path("/cache")
    first = vllm.command(plan, socket, cache, Place(0, 2, "10.0.0.1", 4711, "10.0.0.1", "ib0"))
    second = vllm.command(plan, socket, cache, Place(1, 2, "10.0.0.1", 4711, "10.0.0.2"))
    meeting = (
        "--nnodes=2",
        "--master-addr=10.0.0.1",
        "--master-port=4711",
        "--distributed-executor-backend=mp",
    )
    for command, rank in ((first, 0), (second, 1)):
        assert set(meeting) < set(command.argv)
        assert command.argv.index(f"--node-rank={rank}") > command.argv.index("7")  # ours come last and win
        assert command.env["VLLM_HOST_IP"] == f"10.0.0.{rank + 1}"
        assert command.env["TMPDIR"] == "/run/s"
    assert {"--uds", str(socket)} < set(first.argv)
    assert "--headless" not in first.argv
    assert "--headless" in second.argv
    assert "--uds" not in second.argv
    assert first.env["GLOO_SOCKET_IFNAME"] == "ib0"
    assert "GLOO_SOCKET_IFNAME" not in second.env  # not known: Gloo looks for itself


# -- what Slurm tells, and where they meet


def test_the_step_runs_on_every_node_but_the_first() -> None:
    plan = vllm_plan(nodes=4)
    argv = step.elsewhere(plan, ["/x y/launcher", "rank", "/a b"])
    assert argv[0] == "srun"
    assert {"--overlap", "--nodes=3", "--ntasks=3", "--relative=1", "--export=ALL"} < set(argv)
    assert argv[argv.index("--") + 1 :] == ["/x y/launcher", "rank", "/a b"]


def test_a_job_knows_its_nodes_and_a_step_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", LIST)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert step.job_nodes(4) == ["g01", "g02", "g03", "c1"]
    assert step.job_nodes(2) == ["g01", "g02"]
    with pytest.raises(SchedulerError, match="has 4 of the 5 nodes that its session was planned for"):
        step.job_nodes(5)
    assert step.own_rank() == 2
    monkeypatch.delenv("SLURM_JOB_NODELIST")
    monkeypatch.setenv("SLURM_PROCID", "$(id)")
    with pytest.raises(SchedulerError, match="no job of Slurm"):
        step.job_nodes(2)
    with pytest.raises(SchedulerError, match="no step of Slurm"):
        step.own_rank()


def test_they_meet_at_the_address_by_which_they_reach_each_other() -> None:
    first = first_place(2, "127.0.0.1")
    assert (first.rank, first.address, first.own, first.interface) == (0, "127.0.0.1", "127.0.0.1", "lo")
    second = place_of(1, 2, first.address, first.port)
    assert (second.rank, second.port, second.interface) == (1, first.port, "lo")
    with socket.socket() as taken:  # it was free, and nobody holds it
        taken.bind(("127.0.0.1", first.port))
    assert interface_of("192.0.2.7") is None
    assert interface_of("::1") is None
    with pytest.raises(EngineError, match=r"finds no way to no-such-node\.invalid"):
        own_address("no-such-node.invalid")


# -- which of them tells why

_VAGUE = Diagnosis("network", "vLLM stopped: its processes could not talk to each other.", "Start again.")
_CAUSE = Diagnosis("out-of-memory", "vLLM stopped: CUDA out of memory.")
_UNKNOWN = Diagnosis("engine-exit", "vLLM stopped: KeyError.", "See the log.")
_OTHER = Diagnosis("engine-exit", "vLLM stopped: AssertionError.", "See the log.")
_THERE = "On g2 (engine-1.log): "


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        ((_VAGUE, 1.0), (_CAUSE, None), f"{_THERE}{_CAUSE.message}"),
        ((_CAUSE, 2.0), (_VAGUE, 1.0), _CAUSE.message),
        (None, (_VAGUE, 1.0), f"{_THERE}{_VAGUE.message}"),
        ((_VAGUE, 1.0), None, _VAGUE.message),
        ((_CAUSE, 2.0), (Diagnosis("storage", "vLLM stopped: no space."), 1.0), _CAUSE.message),
        ((_UNKNOWN, 1.0), (_OTHER, 1.4), _UNKNOWN.message),
        ((_UNKNOWN, 1.4), (_OTHER, 1.0), f"{_THERE}{_OTHER.message}"),
        ((_UNKNOWN, 1.4), (_OTHER, None), _UNKNOWN.message),
        ((_VAGUE, 1.0), (_OTHER, 1.4), f"{_THERE}{_OTHER.message}"),
        ((_VAGUE, 1.0), (_OTHER, None), _VAGUE.message),
        ((_VAGUE, 1.0), (_VAGUE, 1.4), _VAGUE.message),
        (None, None, None),
    ],
)
def test_the_one_that_knows_the_cause_tells_it_else_the_one_that_was_over_first(
    first: tuple[Diagnosis, float | None] | None,
    other: tuple[Diagnosis, float | None] | None,
    said: str | None,
) -> None:
    tales = [Tale(None, *first)] if first else []
    found = telling([*tales, *([Tale("g2 (engine-1.log)", *other)] if other else [])])
    assert (found.message if found else None) == said
    if first and other and found and found.reason in ("network", "engine-exit"):
        elsewhere = "the first node (engine.log)" if said and said.startswith(_THERE) else "g2 (engine-1.log)"
        assert (found.hint or "").endswith(f". Look too at {elsewhere}.")


def test_each_process_has_its_own_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step has one exit code and is over last of all; what it was told to end is not what failed."""
    monkeypatch.setenv("SLURM_JOB_NODELIST", "g[1-3]")
    paths = SessionPaths(tmp_path)
    said = "rank 2: ended with -9 at 1763795766.125\nsrun: error: g3: task 1: Exited with exit code 137\n"
    assert ends(f"{said}rank 3: ended with x at 1.000\n rank 1: ended with 0 at 1.000") == {
        2: (-9, 1763795766.125)
    }
    others = Others(vllm_plan(nodes=3), paths)
    assert others.silent() == ["g2", "g3"]
    script = f"printf '{said}'; exit 137".replace("\n", "\\n")
    others._child = asyncio.run(_ended("/bin/sh", "-c", script, log=paths.nodes_log))
    paths.rank_log(1).write_text("INFO loading\n")
    paths.rank_log(2).write_text("INFO loading\n")
    assert others.silent() == []
    first, second = others.explained(lambda text, code: vllm.explain(text, code, False, 1.0))
    assert (first.where, second.where) == ("g2 (engine-1.log)", "g3 (engine-2.log)")
    assert second.at == 1763795766.125
    assert first.at is not None
    assert first.at > second.at
    assert "(signal 9)" in second.found.message
    assert "(exit code 137)" in first.found.message


def test_a_step_takes_no_secret_along_and_its_logs_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\necho "srun $*"\nenv\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "g[1-2]")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    paths = SessionPaths(tmp_path)
    others = Others(vllm_plan(nodes=2), paths)

    async def lives() -> None:
        for append in (False, True):
            await others.start(Place(0, 2, "10.0.0.1", 4711, "10.0.0.1"), append=append)
            assert await others.wait() == 0

    asyncio.run(lives())
    said = paths.nodes_log.read_text()
    assert said.count(f"launcher rank {tmp_path} --address=10.0.0.1 --port=4711") == 2
    assert "SLURM_JOB_NODELIST=" in said
    assert "hf_abcdefghijkl" not in said
    assert [stat.S_IMODE(log.stat().st_mode) for log in (paths.nodes_log, paths.rank_log(1))] == [0o600] * 2


async def _ended(*argv: str, log: Path) -> Child:
    child = await Child.start(argv, {"PATH": "/usr/bin:/bin"}, log)
    await child.wait()
    return child


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo 'launcher: /x can be changed by somebody else.'; exit 78",
            "On g2: The engine could not be started",
        ),
        (
            "echo 'srun: error: execve(): /x: No such file'; exit 2",
            "there: srun: error: execve(): /x: No such file.",
        ),
        ("exit 1", "there: srun says nothing."),
    ],
)
def test_a_step_that_starts_nothing_is_explained_by_what_srun_says(
    script: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "g[1-2]")
    others = Others(vllm_plan(nodes=2), SessionPaths(tmp_path))
    others._child = asyncio.run(_ended("/bin/sh", "-c", script, log=tmp_path / "nodes.log"))
    found = telling(others.explained(lambda text, code: vllm.explain(text, code, False, 1.0)))
    assert found is not None
    assert (found.reason, says in found.message) == ("nodes", True), found
    assert "--of nodes" in (found.hint or "")


@pytest.mark.parametrize("arguments", [("-tp", "4"), ("--tensor_parallel_size=2", "-pp=2"), ("-pp", "4")])
def test_a_split_that_can_be_shared_is_left_as_it_is(arguments: tuple[str, ...]) -> None:
    assert spread(arguments, 2, 2) == ()
    assert spread((), 3, 0) == ("--pipeline-parallel-size", "3")
    assert spread(("--enforce-eager",), 2, 0)[-3:-1] == ("--no-enforce-eager", "--compilation-config")
    assert "--no-enforce-eager" not in spread(("--enforce-eager",), 2, 1)
    with pytest.raises(RequestError, match=re.escape("--pipeline-parallel-size 3")):
        spread(arguments, 3, 1)
