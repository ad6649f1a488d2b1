"""GPUs by their many spellings, and what a profile's words make of them."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.models.fit.gpus import known_gpus
from launcher.models.fit.hardware import hardware
from launcher.models.fit.options import number, read_options
from launcher.settings.schema import Profile
from tests.hostile import HOSTILE

# As Slurm's GRES types, `nvidia-smi -L` and the sites' own words have them.
SPELLINGS = [
    ("a100", [("A100", 39.38), ("A100", 63.4), ("A100", 79.15)], 8.0),
    ("nvidia_a100", [("A100", 39.38), ("A100", 63.4), ("A100", 79.15)], 8.0),
    ("A100-SXM4-80GB", [("A100", 79.15)], 8.0),
    ("nvidia_a100_80gb_pcie", [("A100", 79.15)], 8.0),
    ("nvidia_a100-sxm4-40gb", [("A100", 39.38)], 8.0),
    ("a100_80gb", [("A100", 79.15)], 8.0),
    ("a100-40", [("A100", 39.38)], 8.0),
    ("a10080", [("A100", 79.15)], 8.0),
    ("tesla_v100-sxm2-32gb", [("V100", 31.73)], 7.0),
    ("v100", [("V100", 15.77), ("V100", 31.73)], 7.0),
    ("p100", [("P100", 15.89)], 6.0),
    ("tesla_t4", [("T4", 14.56)], 7.5),
    ("a40", [("A40", 44.34)], 8.6),
    ("rtx_a6000", [("A6000", 47.4)], 8.6),
    ("l4", [("L4", 21.95)], 8.9),
    ("nvidia_l40s", [("L40S", 44.39)], 8.9),
    ("nvidia_h100_80gb_hbm3", [("H100", 79.11)], 9.0),
    ("h100_nvl", [("H100NVL", 93.0)], 9.0),
    ("nvidia_h100_pcie", [("H100", 63.4), ("H100", 79.11), ("H100", 93.0), ("H100", 93.0)], 9.0),
    ("h200", [("H200", 139.7)], 9.0),
    ("nvidia_gh200_480gb", [("GH200", 94.5), ("GH200", 142.0)], 9.0),
    ("b200", [("B200", 178.3)], 10.0),
    ("quadro_rtx_6000", [("QUADRORTX6000", 23.64)], 7.5),
    ("nvidia_rtx_6000_ada_generation", [("RTX6000ADA", 47.37)], 8.9),
    ("nvidia_rtx_pro_6000_blackwell_server_edition", [("RTXPRO6000", 94.9)], 12.0),
    ("geforce_rtx_3090", [("RTX3090", 23.56)], 8.6),
    ("mi250x", [("MI250X", 63.98)], 9.0),
    ("amd_instinct_mi300x", [("MI300X", 191.5)], 9.4),
    ("a100_1g.5gb", [("a100_1g.5gb", 4.75)], 8.0),
    ("nvidia_a100_3g.20gb", [("nvidia_a100_3g.20gb", 19.0)], 8.0),
    ("nvidia_h200_1g.18gb", [("nvidia_h200_1g.18gb", 15.93)], 9.0),
    ("1g.10gb", [("1g.10gb", 9.5)], None),
]


@pytest.mark.parametrize(("gpu_type", "expected", "capability"), SPELLINGS)
def test_a_gpu_is_known_by_its_spellings(
    gpu_type: str, expected: list[tuple[str, float]], capability: float | None
) -> None:
    found = known_gpus(gpu_type)
    assert [(gpu.name, gpu.memory_gb) for gpu in found] == expected
    assert {gpu.capability for gpu in found} == {capability}


@pytest.mark.parametrize("gpu_type", [*HOSTILE, "", "gpu", "tesla", "nvidia", "80gb", "ä100"])
def test_an_unknown_word_is_no_gpu(gpu_type: str) -> None:
    assert known_gpus(gpu_type) == ()


@pytest.mark.parametrize(
    ("words", "memory_gb", "capability", "further"),
    [
        ({"gpu_type": "a100", "gpu_memory_gb": 80}, 79.15, 8.0, 0),
        ({"gpu_type": "a100", "gpu_memory_gb": 40}, 39.38, 8.0, 0),
        ({"gpu_type": "a100", "gpu_memory_gb": 20}, 19.7, 8.0, 0),  # half of one
        ({"gpu_type": "a100"}, 39.38, 8.0, 2),
        ({"gpu_type": "b200", "gpu_memory_gb": 192}, 178.3, 10.0, 0),  # the data sheet's figure
        ({"gpu_type": "h200", "gpu_memory_gb": 141}, 139.7, 9.0, 0),
        ({"gpu_type": "h200", "gpu_memory_gb": 130}, 130, 9.0, 0),  # the site knows of less
        ({"gpu_type": "rtx6000", "gpu_memory_gb": 48}, 47.37, 8.9, 0),
        ({"gpu_type": "rtx6000", "gpu_memory_gb": 24}, 23.64, 7.5, 0),
        ({"gpu_type": "x9000", "gpu_memory_gb": 100}, 98.5, None, 0),
        ({"gpu_memory_gb": 100, "compute_capability": 9.0}, 98.5, 9.0, 0),
        ({"gpu_type": "l4", "compute_capability": 7.0}, 21.95, 7.0, 0),
    ],
)
def test_the_sites_own_words_count(
    words: dict[str, Any], memory_gb: float, capability: float | None, further: int
) -> None:
    found = hardware(Profile("gpu", "cluster", gpus=2, **words))
    assert found.gpu is not None
    assert found.gpu.memory_gb == pytest.approx(memory_gb)
    assert found.gpu.capability == capability
    assert len(found.larger) == further


def test_what_is_not_described_is_not_guessed() -> None:
    assert hardware(Profile("gpu", "cluster", gpus=2)).gpu is None
    assert hardware(Profile("gpu", "cluster", gpus=2, gpu_type="x9000")).gpu is None


@pytest.mark.parametrize(
    ("text", "value"), [("16384", 16384), ("16K", 16384), ("16k", 16000), ("25.6k", 25600), ("1M", 1048576)]
)
def test_numbers_are_read_as_vllm_reads_them(text: str, value: int) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", [*HOSTILE, "", "16Q", "--", "nan", "1e400"])
def test_a_value_that_vllm_refuses_changes_nothing(text: str) -> None:
    for option in ("--max-model-len", "-tp", "--gpu-memory-utilization", "--cpu-offload-gb"):
        assert read_options((option, text)) == read_options(())
        assert read_options((f"{option}={text}",)) == read_options(())
    assert read_options((text,)) == read_options(())


def test_an_option_without_its_value_changes_nothing() -> None:
    assert read_options(("--max-model-len",)) == read_options(())
