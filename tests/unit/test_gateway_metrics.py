"""The text for Prometheus, read by the library's own parser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from launcher.gateway.metrics import render
from launcher.gateway.usage import BOUNDS, Usage

ROOT = Path(__file__).resolve().parents[2]
CHAT = "/v1/chat/completions"
ENGINE = (
    b"# HELP vllm:num_requests_running Number of requests.\n# TYPE vllm:num_requests_running gauge\n"
    b'vllm:num_requests_running{engine="0",model_name="tiny \\"chat\\""} 2.0\n'
)
REPORT = {"state": "READY", "ends_at": 4e9, "restarts": 1, "idle": {"limit_s": 60.0, "stops_at": 3e9}}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def usage() -> Usage:
    """Two chats of alice (0.2 and 40 s), a refused one of the session's own key, one that runs."""
    clock = Clock()
    counted = Usage(clock=clock)
    for seconds in (0.2, 40.0):
        call = counted.begin("alice", CHAT)
        clock.now += seconds / 2
        call.first_byte()
        clock.now += seconds / 2
        call.end(200, (11, 7))
    counted.begin("session", "/v1/secret-name").end(404, (0, 0))
    counted.begin("session", CHAT)
    return counted


def parsed(text: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Each sample's value by its name and labels; fails for a name that comes twice or a sample that does."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation, family.name
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in values, sample
            values[labels] = sample.value
    return found


def test_requests_tokens_and_errors_by_key(usage: Usage) -> None:
    found = parsed(render(usage, REPORT, b""))
    assert found["launcher_gateway_requests_total"] == {
        (("key", "alice"), ("route", CHAT), ("status", "200")): 2.0,
        (("key", "session"), ("route", "other"), ("status", "404")): 1.0,
    }
    assert found["launcher_gateway_prompt_tokens_total"] == {
        (("key", "alice"),): 22.0,
        (("key", "session"),): 0.0,
    }
    assert found["launcher_gateway_completion_tokens_total"][(("key", "alice"),)] == 14.0
    assert found["launcher_gateway_in_flight"] == {(): 1.0}
    assert found["launcher_gateway_websockets"] == {(): 0.0}


@pytest.mark.parametrize(("what", "sum_s"), [("request", 40.2), ("first_byte", 20.1)])
def test_durations_as_histograms(what: str, sum_s: float, usage: Usage) -> None:
    found = parsed(render(usage, REPORT, b""))
    alice = (("key", "alice"), ("route", CHAT))
    buckets = {
        float(dict(labels)["le"]): value
        for labels, value in found[f"launcher_gateway_{what}_seconds_bucket"].items()
        if ("key", "alice") in labels
    }
    assert list(buckets) == [*BOUNDS, float("inf")]
    assert list(buckets.values()) == sorted(buckets.values()), "counts of a Prometheus histogram add up"
    assert buckets[0.25] == 1.0
    assert buckets[60.0] == buckets[float("inf")] == 2.0
    assert found[f"launcher_gateway_{what}_seconds_count"][alice] == 2.0
    assert found[f"launcher_gateway_{what}_seconds_sum"][alice] == pytest.approx(sum_s)


def test_the_session_itself() -> None:
    found = parsed(render(Usage(), REPORT, b""))
    assert found["launcher_session_ready"] == {(): 1.0}
    assert found["launcher_session_ends_timestamp_seconds"] == {(): 4e9}
    assert found["launcher_session_idle_stop_timestamp_seconds"] == {(): 3e9}
    assert found["launcher_session_restarts"] == {(): 1.0}


@pytest.mark.parametrize(
    "report", [{}, {"state": "UNHEALTHY", "ends_at": None, "idle": None}, {"ends_at": "soon", "idle": 7}]
)
def test_what_is_not_known_is_left_out(report: dict[str, object]) -> None:
    found = parsed(render(Usage(), report, b""))
    assert found["launcher_session_ready"] == {(): 0.0}
    assert "launcher_session_ends_timestamp_seconds" not in found
    assert "launcher_session_idle_stop_timestamp_seconds" not in found


def test_the_engines_own_text_follows_unchanged(usage: Usage) -> None:
    text = render(usage, REPORT, ENGINE)
    assert text.endswith(b"\n" + ENGINE)
    found = parsed(text)
    assert list(found["vllm:num_requests_running"].values()) == [2.0]
    assert "launcher_session_ready" in found
    ours = render(usage, REPORT, b"")
    assert all(
        line.startswith((b"launcher_", b"# HELP launcher_", b"# TYPE launcher_"))
        for line in ours.splitlines()
    )


def test_the_library_is_loaded_by_the_first_scrape_only() -> None:
    code = (
        "import sys; from launcher.gateway.metrics import render; from launcher.gateway.usage import Usage\n"
        "before = 'prometheus_client' in sys.modules; render(Usage(), {}, b'')\n"
        "print(before, 'prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr
