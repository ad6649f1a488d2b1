"""What a session has done and does now: its gateway's and its engine's counters as the rows that people know.

Owns one reading of `GET /metrics` and the figures that one or two readings give. The names are those of vLLM's own
`v1/metrics/loggers.py` (0.32), the older names of its V0 engine where only that had the figure; an engine without
metrics of its own (Whisper) is described by what its gateway counted.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.errors import SessionError
from launcher.sessions.connection import Connection
from launcher.sessions.status import READY, UNHEALTHY, Status

if TYPE_CHECKING:
    from launcher.api.session import Session

EVERY_S = 2.0
_APART_S = 1.0  # long enough for a rate, short enough to wait for
_TIMEOUT_S = 6.0  # the gateway itself waits five seconds for its engine, then says what it knows
_LONGEST_BYTES = 16 * 2**20
_FRESH_S = 30.0  # the session writes its status every ten seconds while it lives
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?")
# Each letter is looked at once: an engine's answer may be anything, and as long as that.
_LABEL = re.compile(r'(?<!\w)(\w++)="((?:[^"\\]++|\\.)*+)"')
_GATEWAY = "launcher_gateway_"
# They cost the model nothing.
_NOT_ASKING = frozenset(("/v1/models", "/version", "/ping", "/load", "/metrics"))
_UNDONE = frozenset(("abort", "error"))  # vLLM's FinishReason; all others gave an answer
_CLIENT_LEFT = "499"

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of a session; None where neither its engine nor its gateway reports one.

    Throughputs are tokens (seconds of audio) a second between two readings, latencies means in seconds since the
    engine started, shares are from 0 to 1. The names are those of vec-inf's `get_metrics` where it has the figure.
    """

    prompt_tokens_per_sec: float | None = None
    generation_tokens_per_sec: float | None = None
    requests_running: float | None = None
    requests_waiting: float | None = None
    requests_swapped: float | None = None
    gpu_cache_usage: float | None = None
    cpu_cache_usage: float | None = None
    avg_request_latency: float | None = None
    total_prompt_tokens: float | None = None
    total_generation_tokens: float | None = None
    successful_requests_total: float | None = None
    failed_requests_total: float | None = None
    time_to_first_token_s: float | None = None
    prefix_cache_hit_rate: float | None = None
    audio_s_per_s: float | None = None
    total_audio_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of one `GET /metrics`, taken apart, and when it was read (a monotonic clock's seconds)."""

    at: float
    samples: Mapping[str, tuple[tuple[Labels, float], ...]]

    def total(self, name: str, where: Callable[[Labels], bool] | None = None) -> float | None:
        """The sum of a metric over all of its labels (or those that `where` accepts), None where it has no sample."""
        found = [value for labels, value in self.samples.get(name, ()) if where is None or where(labels)]
        return sum(found) if found else None

    def mean(self, name: str) -> float | None:
        """The mean over all of its labels, which are the engines of one session."""
        found = [value for _, value in self.samples.get(name, ())]
        return sum(found) / len(found) if found else None


def parsed(text: str, at: float) -> Reading:
    """The samples of Prometheus' text format; lines that are none are passed over."""
    samples: dict[str, list[tuple[Labels, float]]] = {}
    for line in text.split("\n"):  # a name may hold what Python takes for the end of a line
        found = None if line.startswith("#") else _SAMPLE.fullmatch(line.strip())
        if found is None:
            continue
        try:
            value = float(found[3])
        except ValueError:
            continue
        if value == value:  # a NaN says that nothing was measured
            labels = dict(_LABEL.findall(found[2] or ""))
            samples.setdefault(found[1], []).append((labels, value))
    return Reading(at, {name: tuple(values) for name, values in samples.items()})


def figures(now: Reading, before: Reading | None = None) -> Metrics:
    """What `now` says, and since `before` each second; a counter that went back (a new engine) gives no rate."""
    if not any(name.startswith("vllm:") for name in now.samples):
        return _of_gateway(now, before)
    queries, hits = (now.total(f"vllm:prefix_cache_{what}_total") for what in ("queries", "hits"))
    cache = now.mean("vllm:kv_cache_usage_perc")
    return Metrics(
        prompt_tokens_per_sec=_rate(now, before, "vllm:prompt_tokens_total"),
        generation_tokens_per_sec=_rate(now, before, "vllm:generation_tokens_total"),
        requests_running=now.total("vllm:num_requests_running"),
        requests_waiting=now.total("vllm:num_requests_waiting"),
        requests_swapped=now.total("vllm:num_requests_swapped"),  # V0 only: V1 recomputes instead
        gpu_cache_usage=cache if cache is not None else now.mean("vllm:gpu_cache_usage_perc"),
        cpu_cache_usage=now.mean("vllm:cpu_cache_usage_perc"),
        avg_request_latency=_mean_s(now, "vllm:e2e_request_latency_seconds"),
        total_prompt_tokens=now.total("vllm:prompt_tokens_total"),
        total_generation_tokens=now.total("vllm:generation_tokens_total"),
        successful_requests_total=now.total(
            "vllm:request_success_total", lambda labels: labels.get("finished_reason") not in _UNDONE
        ),
        failed_requests_total=_asked(now, _failed),
        time_to_first_token_s=_mean_s(now, "vllm:time_to_first_token_seconds"),
        prefix_cache_hit_rate=hits / queries if queries and hits is not None else None,
    )


def _of_gateway(now: Reading, before: Reading | None) -> Metrics:
    # Tokens are told only where some were counted: a transcription has none.
    prompt, generated = (now.total(f"{_GATEWAY}{what}_tokens_total") for what in ("prompt", "completion"))
    audio = now.total(f"{_GATEWAY}audio_seconds_total")
    return Metrics(
        requests_running=now.total(f"{_GATEWAY}in_flight"),
        avg_request_latency=_mean_s(now, f"{_GATEWAY}request_seconds", _asking),
        total_prompt_tokens=prompt or None,
        total_generation_tokens=generated or None,
        successful_requests_total=_asked(now, lambda labels: labels.get("status", "") < "4"),
        failed_requests_total=_asked(now, _failed),
        audio_s_per_s=_rate(now, before, f"{_GATEWAY}audio_seconds_total") if audio else None,
        total_audio_s=audio or None,
    )


def _asking(labels: Labels) -> bool:
    return labels.get("route") not in _NOT_ASKING


def _failed(labels: Labels) -> bool:
    status = labels.get("status", "")
    return status >= "4" and status != _CLIENT_LEFT


def _asked(now: Reading, where: Callable[[Labels], bool]) -> float | None:
    # A gateway that nobody has asked has no sample yet, and a count of none all the same.
    if f"{_GATEWAY}in_flight" not in now.samples:
        return None
    return now.total(f"{_GATEWAY}requests_total", lambda labels: _asking(labels) and where(labels)) or 0.0


def _rate(now: Reading, before: Reading | None, name: str) -> float | None:
    value, former = now.total(name), before.total(name) if before is not None else None
    if value is None or former is None or before is None or value < former or now.at <= before.at:
        return None
    return (value - former) / (now.at - before.at)


def _mean_s(now: Reading, name: str, where: Callable[[Labels], bool] | None = None) -> float | None:
    spent_s, count = now.total(f"{name}_sum", where), now.total(f"{name}_count", where)
    return spent_s / count if spent_s is not None and count else None


def read(connection: Connection, timeout_s: float = _TIMEOUT_S) -> Reading:
    """One reading through the session's gateway with its key; raises SessionError where none comes in time."""
    until = time.monotonic() + timeout_s
    try:
        # http.client asks no proxy, which would be given the key.
        with closing(
            http.client.HTTPConnection(connection.host, connection.port, timeout=timeout_s)
        ) as asked:
            asked.request("GET", "/metrics", headers={"Authorization": f"Bearer {connection.key}"})
            answer = asked.getresponse()
            body = bytearray()
            while piece := answer.read1(1 << 16):
                body += piece
                if time.monotonic() > until:
                    raise TimeoutError
                if len(body) > _LONGEST_BYTES:
                    raise SessionError(
                        f"Session {connection.id} reports more metrics than can be read.", "Ask fewer."
                    )
    except TimeoutError:
        raise _silent(connection, f"no answer within {timeout_s:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise _silent(connection, str(error) or type(error).__name__) from error
    if answer.status != 200:
        raise _silent(connection, f"its gateway says {answer.status}")
    return parsed(body.decode("utf-8", "replace"), time.monotonic())


def _silent(connection: Connection, why: str) -> SessionError:
    return SessionError(
        f"Session {connection.id} does not report its metrics: {why}.",
        f"Look at: launcher status {connection.id}",
    )


def reachable(session: Session, status: Status | None = None) -> Connection:
    """The connection of a session that is ready; raises SessionError with its state where it is not.

    Without `status` the session's own word is taken while it is fresh, so that a view that looks every two seconds
    does not ask the scheduler. A connection of a session that is not alive is never used: its port may be another's.
    """
    if status is None:
        own = Status.read(session.paths.status)
        fresh = own is not None and own.job_id == session.job_id and time.time() - own.updated_at < _FRESH_S
        status = own if own is not None and fresh and not own.ended else session.status()
    connection = session.connection if status.state in (READY, UNHEALTHY) else None
    if connection is None:
        raise SessionError(
            f"Session {session.id} is {status.state} and has no metrics: {status.message}",
            status.hint if status.ended else f"Wait for it: launcher wait {session.id}",
        )
    return connection


def now(session: Session) -> Metrics:
    """The figures of a ready session now; takes a second, because throughputs need two readings."""
    connection = reachable(session, session.status())
    before = read(connection)
    time.sleep(_APART_S)
    return figures(read(connection), before)


def stream(session: Session) -> Iterator[Metrics]:
    """The figures every two seconds, the first at once and without throughputs, until the session is over.

    While it does not answer (its engine is started again, its job was put back into the queue), all are None. Raises
    SessionError where the session was not ready at the beginning.
    """
    connection: Connection | None = reachable(session, session.status())
    before: Reading | None = None
    while True:
        reading = None
        with suppress(SessionError):
            reading = read(connection) if connection is not None else None
        yield figures(reading, before) if reading is not None else Metrics()
        before = reading
        time.sleep(EVERY_S)
        try:
            connection = reachable(session)
        except SessionError:
            connection = None  # its port may be somebody else's by now
            if session.status().ended:
                return
