"""`GET /metrics`: the gateway's counters as text for Prometheus, before the engine's own.

Loads the Prometheus library when it is first asked: most sessions are never scraped, and its megabytes would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from launcher.gateway.usage import BOUNDS, Histogram, Usage

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LE = [*map(str, BOUNDS), "+Inf"]


def render(usage: Usage, report: Mapping[str, object] | None, engine: bytes) -> bytes:
    """Our metrics, then `engine`, the text that the engine itself gives, unchanged; no `report`: it is no session."""
    from prometheus_client import generate_latest

    return generate_latest(_Ours(usage, report)) + engine


class _Ours:
    """What prometheus_client calls a collector."""

    def __init__(self, usage: Usage, report: Mapping[str, object] | None) -> None:
        self._usage = usage
        self._report = report

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        if self._report is not None:
            yield from self._session(self._report)

    def _counters(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        usage = self._usage
        requests = CounterMetricFamily(
            "launcher_gateway_requests",
            "Requests for the engine that have ended; 499: the client left, 502: no answer, or it broke off.",
            labels=("key", "route", "status"),
        )
        prompt = CounterMetricFamily(
            "launcher_gateway_prompt_tokens", "Prompt tokens, as the engine says.", labels=("key",)
        )
        completion = CounterMetricFamily(
            "launcher_gateway_completion_tokens", "Completion tokens, as the engine says.", labels=("key",)
        )
        audio = CounterMetricFamily(
            "launcher_gateway_audio_seconds",
            "Seconds of audio transcribed, as the engine says.",
            labels=("key",),
        )
        for name, of_key in usage.keys.items():
            for (route, status), count in of_key.ended.items():
                requests.add_metric((name, route, str(status)), count)
            prompt.add_metric((name,), of_key.prompt_tokens)
            completion.add_metric((name,), of_key.completion_tokens)
            audio.add_metric((name,), of_key.audio_s)
        yield requests
        yield prompt
        yield completion
        yield audio
        yield self._histogram("request", "From a request to the end of its answer.")
        yield self._histogram("first_byte", "From a request to the first byte of its answer's body.")
        yield GaugeMetricFamily(
            "launcher_gateway_in_flight", "HTTP requests that the engine works on.", usage.in_flight
        )
        yield GaugeMetricFamily("launcher_gateway_websockets", "Open WebSockets.", usage.websockets)
        yield GaugeMetricFamily(
            "launcher_gateway_last_activity_timestamp_seconds",
            "When somebody last used the engine.",
            usage.last_activity,
        )

    def _histogram(self, what: str, says: str) -> Metric:
        from prometheus_client.metrics_core import HistogramMetricFamily

        family = HistogramMetricFamily(f"launcher_gateway_{what}_seconds", says, labels=("key", "route"))
        for name, of_key in self._usage.keys.items():
            histograms: Mapping[str, Histogram] = getattr(of_key, f"{what}_s")
            for route, histogram in histograms.items():
                buckets = list(zip(_LE, map(float, accumulate(histogram.counts)), strict=True))
                family.add_metric((name, route), buckets, histogram.sum_s)
        return family

    def _session(self, report: Mapping[str, object]) -> Iterator[Metric]:
        from prometheus_client.metrics_core import GaugeMetricFamily

        idle = report.get("idle")
        yield GaugeMetricFamily(
            "launcher_session_ready",
            "Whether the session answers (1) or not (0).",
            report.get("state") == "READY",
        )
        for name, says, value in (
            ("ends_timestamp_seconds", "When the job's time is over.", report.get("ends_at")),
            (
                "idle_stop_timestamp_seconds",
                "When the session stops if nobody uses it.",
                idle.get("stops_at") if isinstance(idle, Mapping) else None,
            ),
            ("restarts", "How often the job was started again.", report.get("restarts")),
        ):
            if isinstance(value, int | float):
                yield GaugeMetricFamily(f"launcher_session_{name}", says, value)
