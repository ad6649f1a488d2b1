"""The GPUs of compute centres: from the spelling of a `gpu_type` to usable memory and to what the chip can do.

Memory is what CUDA's (or HIP's) mem_get_info calls total, in GiB, as vLLM's log lines and PyTorch's out-of-memory
errors name it: less than the data sheet's figure, because ECC, firmware and driver keep some. Of the figures in public
logs it is the smallest, mostly. Workstation cards (A4000 to A6000, RTX … Ada, Quadro) stand here as they come, without
ECC; with it they have 6 % less. Where a centre says `gpu_memory_gb` and `compute_capability`, that counts.
Capabilities: https://developer.nvidia.com/cuda-gpus
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.settings.schema import Profile

NVIDIA, AMD = "nvidia", "amd"
# Of a GPU that is not in the table: what a driver keeps at most, as a part of the data sheet's figure (H100: 1.1 %).
_USABLE = 0.985
# A MIG slice has less than its name says: `nvidia-smi` shows 39.25 GiB for 3g.40gb, 9.5 for 1g.10gb. Small slices of
# newer and larger GPUs lose more: 16.0 GiB for 1g.18gb (H200), 21.5 for 1g.24gb and 2g.24gb (H100 with 94 GB).
_MIG_USABLE, _MIG_SMALL_USABLE = 0.95, 0.885
_MIG_SMALL, _MIG_OLD_GB = 2, (5, 6, 10, 20)
_MIG = re.compile(r"(\d+)g[._-](\d+)gb")
_SAME = (
    0.13  # a site's figure within this of the data sheet's means that GPU: 180, 183 and 192 are all a B200
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU (or slice of one): usable memory in GiB and CUDA's compute capability, None where it is not known."""

    name: str
    memory_gb: float
    capability: float | None
    vendor: str = NVIDIA


# name: compute capability, then (data sheet's GB, usable GiB) of each version there is.
_NVIDIA: dict[str, tuple[float, tuple[tuple[float, float], ...]]] = {
    "P100": (6.0, ((16, 15.89),)),
    "V100": (7.0, ((16, 15.77), (32, 31.73))),
    "T4": (7.5, ((16, 14.56),)),
    "RTX2080TI": (7.5, ((11, 10.74),)),
    "QUADRORTX6000": (7.5, ((24, 23.64),)),
    "RTX8000": (7.5, ((48, 47.45),)),
    "A100": (8.0, ((40, 39.38), (64, 63.4), (80, 79.15))),
    "A30": (8.0, ((24, 23.49),)),
    "A2": (8.6, ((16, 14.54),)),
    "A10": (8.6, ((24, 21.98),)),
    "A10G": (8.6, ((24, 21.98),)),
    "A16": (8.6, ((16, 14.54),)),
    "A40": (8.6, ((48, 44.34),)),
    "A4000": (8.6, ((16, 15.6),)),
    "A5000": (8.6, ((24, 23.54),)),
    "A6000": (8.6, ((48, 47.4),)),
    "RTX3080": (8.6, ((10, 9.6),)),
    "RTX3090": (8.6, ((24, 23.56),)),
    "L4": (8.9, ((24, 21.95),)),
    "L20": (8.9, ((48, 44.39),)),
    "L40": (8.9, ((48, 44.39),)),
    "L40S": (8.9, ((48, 44.39),)),
    "RTX4080": (8.9, ((16, 15.57),)),
    "RTX4090": (8.9, ((24, 23.5),)),
    "RTX5000ADA": (8.9, ((32, 31.2),)),
    "RTX6000ADA": (8.9, ((48, 47.37),)),
    "H20": (9.0, ((96, 95.0),)),
    "H100": (9.0, ((64, 63.4), (80, 79.11), (94, 93.0), (96, 93.0))),
    "H100NVL": (9.0, ((94, 93.0),)),
    "H200": (9.0, ((141, 139.7),)),
    "GH200": (9.0, ((96, 94.5), (144, 142.0))),
    "B200": (10.0, ((180, 178.3),)),
    "GB200": (10.0, ((186, 184.2),)),
    "B300": (10.3, ((288, 267.6),)),
    "GB300": (10.3, ((288, 276.4),)),
    "RTX5090": (12.0, ((32, 31.3),)),
    "RTXPRO6000": (12.0, ((96, 94.9),)),
    "GB10": (12.1, ((128, 119.6),)),
}
# Capability as PyTorch tells it for gfx90a, gfx942 and gfx950. Of an MI250X Slurm counts each of the two halves.
_AMD: dict[str, tuple[float, tuple[tuple[float, float], ...]]] = {
    "MI100": (9.0, ((32, 31.98),)),
    "MI210": (9.0, ((64, 63.98),)),
    "MI250": (9.0, ((64, 63.98),)),
    "MI250X": (9.0, ((64, 63.98),)),
    "MI300A": (9.4, ((128, 125.0),)),
    "MI300X": (9.4, ((192, 191.5),)),
    "MI325X": (9.4, ((256, 255.5),)),
    "MI355X": (9.5, ((288, 287.5),)),
}
# Other spellings, after punctuation and makers' words are taken out.
_ALIASES = {
    "RTX6000ADAGENERATION": ("RTX6000ADA",),
    "RTX5000ADAGENERATION": ("RTX5000ADA",),
    "ADA6000": ("RTX6000ADA",),
    "6000ADA": ("RTX6000ADA",),
    "RTXA6000": ("A6000",),
    "RTXA5000": ("A5000",),
    "RTXA4000": ("A4000",),
    "RTXPRO6000BLACKWELL": ("RTXPRO6000",),
    "PRO6000": ("RTXPRO6000",),
    "RTX6000BLACKWELL": ("RTXPRO6000",),
    "2080TI": ("RTX2080TI",),
    "3090": ("RTX3090",),
    "4090": ("RTX4090",),
    "5090": ("RTX5090",),
    "QUADRORTX8000": ("RTX8000",),
    # Three cards have this name: of 2018 (24 GB), Ada (48 GB) and, by way of the RTX PRO, Blackwell (96 GB).
    "RTX6000": ("QUADRORTX6000", "RTX6000ADA", "RTXPRO6000"),
}
# Of these a plain name means the usual card, in data sheet's GB; of an A100 or a V100 nobody can tell.
_USUAL = {"H100": 80, "GH200": 96}
_MAKERS = re.compile(r"nvidia|geforce|tesla|amd|instinct|gpu|pcie|sxm\d?|hbm\d?e?|server|workstation|edition")
_MEMORY = re.compile(r"(?<![a-z0-9])(\d{1,3})g(?:i?b)?(?![a-z0-9])|(?<=[a-z0-9])_?(\d{2,3})gb")


def known_gpus(gpu_type: str) -> tuple[Gpu, ...]:
    """All GPUs that are called `gpu_type`, the smallest first: several versions may share a name, () for none known.

    Any spelling that Slurm's GRES types have: `a100`, `nvidia_a100_80gb_pcie`, `A100-SXM4-40GB`, `a100_3g.20gb`.
    """
    text = gpu_type.lower()
    if slice_ := _MIG.search(text):
        slices, memory_gb = int(slice_[1]), float(slice_[2])
        small = slices <= _MIG_SMALL and memory_gb not in _MIG_OLD_GB
        usable = round(memory_gb * (_MIG_SMALL_USABLE if small else _MIG_USABLE), 2)
        whole = known_gpus(text[: slice_.start()].strip("._-:"))
        capability = whole[0].capability if whole else None
        return (Gpu(gpu_type, usable, capability),)
    said = next((float(m[1] or m[2]) for m in _MEMORY.finditer(text)), None)
    plain = re.sub(r"[^A-Z0-9]", "", _MAKERS.sub("", _MEMORY.sub("", text)).upper())
    names = _ALIASES.get(plain, (plain,))
    found = [gpu for name in names for gpu in _versions(name)]
    if said is not None:
        found = [(sheet, gpu) for sheet, gpu in found if abs(sheet - said) <= _SAME * sheet][:1] or found
    elif plain and not found and (digits := re.fullmatch(r"([A-Z]+\d+[A-Z]?)(\d{2,3})", plain)):
        return known_gpus(f"{digits[1]}_{digits[2]}gb")  # a10080, v10032
    return tuple(gpu for _, gpu in sorted(found, key=lambda pair: pair[1].memory_gb))


def gpus_of(profile: Profile) -> tuple[Gpu, ...]:
    """Which GPU `profile` has: one, or several where its words leave it open (the smallest first), or none known."""
    candidates = known_gpus(profile.gpu_type) if profile.gpu_type else ()
    stated, capability = profile.gpu_memory_gb, profile.compute_capability
    if stated is None:
        candidates = tuple(g for g in candidates if sheet_gb(g) == _USUAL.get(g.name)) or candidates
        return tuple(_with(gpu, gpu.memory_gb, capability) for gpu in candidates)
    near = sorted(candidates, key=lambda gpu: abs(gpu.memory_gb - stated))
    if near and abs(near[0].memory_gb - stated) <= _SAME * stated:
        return (_with(near[0], min(stated, near[0].memory_gb), capability),)
    # A slice, or a card that is not in the table.
    family = candidates[0] if candidates else Gpu(profile.gpu_type or "GPU", stated, None)
    return (_with(family, round(stated * _USABLE, 2), capability),)


def sheet_gb(gpu: Gpu) -> float:
    """The figure by which people know this card, 80 of an H100; a slice's is its own memory."""
    near = [sheet for sheet, version in _versions(gpu.name) if abs(version.memory_gb - gpu.memory_gb) <= 0.5]
    return near[0] if near else round(gpu.memory_gb)


def _versions(name: str) -> list[tuple[float, Gpu]]:
    for vendor, table in ((NVIDIA, _NVIDIA), (AMD, _AMD)):
        if name in table:
            capability, versions = table[name]
            return [(sheet, Gpu(name, usable, capability, vendor)) for sheet, usable in versions]
    return []


def _with(gpu: Gpu, memory_gb: float, capability: float | None) -> Gpu:
    return Gpu(gpu.name, memory_gb, gpu.capability if capability is None else capability, gpu.vendor)
