"""What reaches sbatch: no word that is typed asks for more than was counted, and no option becomes a command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RequestError, SchedulerError
from launcher.planning import Request, make_plan
from launcher.schedulers.script import job_script
from launcher.schedulers.slurm import options
from launcher.settings.layers import load
from launcher.settings.schema import Settings

SITE = """
clusters: {della: {}}
profiles: {gpu: {cluster: della, gpus: 1, gpu_type: a100, hours_max: 8}}
limits: {gpus: 2}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "site.yml").write_text(SITE)
    return load({"LAUNCHER_SITE": str(tmp_path / "site.yml"), "XDG_CONFIG_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "kind", ["a100", "a100_3g.20gb", "1g.5gb", "nvidia_a100-sxm4-80gb", "A100-SXM4-40GB"]
)
def test_every_type_that_slurm_has_can_be_asked_for(settings: Settings, kind: str) -> None:
    plan = make_plan(Request("simulated", gpu_type=kind, gpus=1), settings, door="shell")
    assert f"--gres=gpu:{kind}:1" in options(plan)


@pytest.mark.parametrize(
    "kind", ["a100:4,gpu:a100", "a100:4", "a,gpu", "a100=4", "a100(S:0)", "-a", "", "a\nb", "a b"]
)
def test_a_type_asks_for_no_second_gpu(settings: Settings, kind: str) -> None:
    with pytest.raises(RequestError, match="The gpu_type must be one plain word"):
        make_plan(Request("simulated", gpu_type=kind, gpus=1), settings, door="shell")


@pytest.mark.parametrize("field", ["gpus", "nodes", "cpus", "max_model_len"])
def test_a_number_of_many_digits_is_one_short_sentence(settings: Settings, field: str) -> None:
    for number in (10**400, -(10**400)):
        wanted: dict[str, Any] = {field: number}
        with pytest.raises(RequestError) as caught:
            make_plan(Request("simulated", **wanted), settings, door="python")
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    "option", ['--comment="x\necho INJ"', "--comment=x\recho", "--comment=\x1b[2J", "--c=a\x85b"]
)
def test_no_line_of_an_option_becomes_a_command(settings: Settings, tmp_path: Path, option: str) -> None:
    plan = make_plan(Request("simulated"), settings, door="shell")
    spoiled = dataclasses.replace(plan, resources=dataclasses.replace(plan.resources, sbatch_args=(option,)))
    with pytest.raises(SchedulerError, match="holds a line break or a control character") as caught:
        job_script(spoiled, tmp_path)
    assert str(caught.value).isprintable()
