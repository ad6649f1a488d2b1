"""The benchmark of the endpoint: that it measures what it says, not how much that is."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.programs.front import ROOT


def test_the_overhead_of_the_gateway_is_measured() -> None:
    """FIRST 16: added latency, median and 99th percentile, and throughput with 1, 10 and 100 clients, to direct."""
    argv = (sys.executable, "-m", "benchmarks.routing", "--quick", "--sessions", "1")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["added"]) == {"1", "10", "100"}
    for added in found["added"].values():
        assert set(added) >= {"p50_ms", "p99_ms"}
        assert added["requests_per_s"] > 0
        assert added["direct_requests_per_s"] > 0
    for goal in ("P2", "P5"):
        assert {"value", "goal", "met"} <= set(found[goal])
    assert found["P2"]["value"] > 0
    assert "whole endpoint" in done.stdout
