"""The installed site on the tests' Slurm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.site import Install, Site
from tests.slurm.cluster import Cluster


@pytest.fixture
def site(installed: Install, slurm: Cluster) -> Iterator[Site]:
    """A site of this test's own: its settings may be changed; its sessions are ended after it."""
    made = Site(installed, slurm)
    yield made
    for person in {slurm.people.alice, slurm.people.bob}:
        slurm.run_as(person, ["scancel", "--me", "--state=PENDING"])
        slurm.run_as(person, ["scancel", "--me"])
    made.remove()
