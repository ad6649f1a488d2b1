"""The simulated week: a day of it adds up, cuts no request, comes out the same again, and can be drawn."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.parts import world as simulated
from benchmarks.parts.world import Outcome
from benchmarks.week import CHOICES, DAY, plot, row, visits, world_of
from launcher.fleet import scale

DAYS = 0.5


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return [world_of(choice, DAYS, seed=3).run(DAYS * DAY) for choice in CHOICES]


def test_what_decides_is_what_the_endpoint_uses() -> None:
    assert vars(simulated)["decide"] is scale.decide


def test_half_a_day_adds_up_for_each_setting(outcomes: list[Outcome]) -> None:
    people = sum(visit.at_once == 1 for visit in visits(DAYS, 3))
    for choice, outcome in zip(CHOICES, outcomes, strict=True):
        told = row(choice, outcome)
        assert outcome.cut == 0
        assert outcome.answered > 1000
        assert 0 < outcome.answering_gpu_s() + outcome.starting_gpu_s() < outcome.gpu_s()
        assert 0 < told["idle_share"] < 1
        assert 0.9 * people <= told["talks"] <= people, "who came last may still wait"
        assert len(outcome.cold_waits) <= len(outcome.waits)


def test_a_longer_idle_limit_and_hot_models_cost_gpus_and_save_waits(outcomes: list[Outcome]) -> None:
    short, hot, _ = (row(choice, outcome) for choice, outcome in zip(CHOICES, outcomes, strict=True))
    assert short["gpu_hours"] < hot["gpu_hours"]
    assert short["talks_at_once_share"] < hot["talks_at_once_share"]


def test_the_same_seed_gives_the_same_day(outcomes: list[Outcome]) -> None:
    again = world_of(CHOICES[0], DAYS, seed=3).run(DAYS * DAY)
    assert again.waits == outcomes[0].waits
    assert again.gpu_s() == outcomes[0].gpu_s()


def test_the_plot_is_a_picture_with_a_name(outcomes: list[Outcome]) -> None:
    found = list(zip(CHOICES, outcomes, strict=True))
    drawn = ElementTree.fromstring(plot(found, [row(*one) for one in found], DAYS))
    assert drawn.findtext("{http://www.w3.org/2000/svg}title")
    assert "NaN" not in ElementTree.tostring(drawn, encoding="unicode")
