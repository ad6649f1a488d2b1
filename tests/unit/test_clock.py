"""Spans of time as people say them."""

from __future__ import annotations

import pytest

from launcher.sessions.clock import clock


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h 0 min"),
        (48 * 3600 - 1, "47 h 59 min"),
        (72 * 3600 - 1, "71 h 59 min"),
        (72 * 3600, "3 days 0 h"),
        (14 * 86400 - 60, "13 days 23 h"),
    ],
)
def test_a_span_is_said_in_the_units_that_fit(seconds: float, said: str) -> None:
    assert clock(seconds) == said
