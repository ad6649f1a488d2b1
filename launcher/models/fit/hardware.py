"""What a job gets to run a model on, as far as the site describes it."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.models.fit.gpus import Gpu, gpus_of
from launcher.settings.schema import Profile


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a job gets: `gpus` and `memory_gb` (None: not said) for each of `nodes` nodes.

    `gpu` is None where it is not described; `larger` are further versions that its name may mean as well.
    """

    name: str
    nodes: int
    gpus: int
    gpu: Gpu | None
    memory_gb: float | None
    gpus_max: int | None = None
    larger: tuple[Gpu, ...] = ()


def hardware(profile: Profile, gpus: int | None = None) -> Hardware:
    """The hardware of `profile`, with another number of GPUs where `gpus` says one.

    One node, whatever the profile says: whether a model may have more is the site's word.
    """
    kinds = gpus_of(profile)
    return Hardware(
        name=profile.name,
        nodes=1,
        gpus=profile.gpus if gpus is None else gpus,
        gpu=kinds[0] if kinds else None,
        memory_gb=profile.memory_gb,
        gpus_max=profile.gpus_max,
        larger=kinds[1:],
    )
