"""What an endpoint tells of itself: its models, FIRST's lists, who asks, its state, its metrics.

Only what the holder of the key may use, and never a prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.fleet.choice import Lane
from launcher.fleet.paths import Asked
from launcher.fleet.seen import Fleet, ModelSeen
from launcher.gateway import answers
from launcher.gateway.answers import Answer
from launcher.gateway.keys import Holder
from launcher.sessions.status import LAUNCHING, PENDING, READY, UNHEALTHY

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from launcher.fleet.sight import Sighted

_SPEECH = (("audio", "audio/transcriptions"),)
_TEXT = (
    ("chat", "chat/completions"),
    ("completion", "completions"),
    ("embedding", "embeddings"),
    ("batches", "batches"),
)
_RETRY_S, _SHORTEST_RETRY_S, _LONGEST_RETRY_S = 5, 2, 60


@dataclass(slots=True)
class Counts:
    """What became of requests whose replica failed: `moved` on to another one; `lost`, which the client was told."""

    moved: int = 0
    lost: int = 0


def model_entry(model: ModelSeen) -> dict[str, Any]:
    """One entry of `/v1/models`: OpenAI's fields, then ours."""
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created),
        "owned_by": model.framework,
        "state": model.state,
        "clusters": list(model.clusters),
        "framework": model.framework,
    }


def models(found: Sequence[ModelSeen], asked: Asked) -> Answer:
    """`/v1/models`, or the entry of one."""
    if not asked.model:
        return answers.json_answer(200, {"object": "list", "data": [model_entry(one) for one in found]})
    for one in found:
        if asked.model == one.name or asked.model in one.served:
            return answers.json_answer(200, model_entry(one))
    return no_model(asked.model, found)


def no_model(name: str, found: Sequence[ModelSeen]) -> Answer:
    """Nobody has that model, as far as the holder may know."""
    there = ", ".join(one.name for one in found[:10]) or "none"
    message = f'There is no model "{name[:100]}" here. Your key may use: {there}.'
    return answers.refused(404, message, "model_not_found")


def no_cluster(name: str, clusters: Sequence[str]) -> Answer:
    """FIRST's path names a cluster that is not there."""
    message = f'There is no cluster "{name[:100]}" here, only {", ".join(clusters) or "none"}.'
    return answers.refused(404, message, "cluster_not_found")


def misplaced(model: ModelSeen, asked: Asked) -> Answer | None:
    """What is wrong with the cluster and framework in the path, for that model."""
    if asked.cluster is not None and asked.cluster not in model.clusters:
        where = ", ".join(model.clusters) or "no cluster"
        message = f'"{model.name}" is not on cluster "{asked.cluster[:100]}", but on {where}.'
        return answers.refused(404, message, "model_not_found")
    if asked.framework is not None and asked.framework != model.framework:
        message = f'"{model.name}" runs on {model.framework}, not on "{asked.framework[:100]}".'
        return answers.refused(404, message, "model_not_found")
    return None


def not_there(model: ModelSeen) -> Answer:
    """No replica answers now: 503, when to come again, and how far the start is."""
    left_s = None if model.retry_s is None else max(0, round(model.retry_s))
    message = model.message or f'"{model.name}" is {model.state}.'
    if left_s:
        message += f" About {left_s} s are left."
    error = answers.error_body(message, "server_error", "model_starting" if model.offered else "model_gone")
    told: Any = error["error"]
    told.update(param="model", state=model.state, estimate_s=left_s)
    retry_s = min(max(left_s or _RETRY_S, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)
    return answers.json_answer(503, error, {"Retry-After": str(retry_s)})


def failed() -> Answer:
    """The replica went away, and the request cannot go to another one."""
    message = "The replica failed before it answered, and the request could not go to another one. Ask again."
    return answers.json_answer(502, answers.error_body(message, "server_error", "replica_lost"))


def unavailable() -> Answer:
    """A mistake of ours, or the state's trouble: the model may be there all the same, in a while."""
    message = "The endpoint could not look for a replica; its log says why. Ask again in some seconds."
    body = answers.error_body(message, "server_error", "model_unavailable")
    return answers.json_answer(503, body, {"Retry-After": str(_RETRY_S)})


def crowded() -> Answer:
    """Too many long requests are on their way for one more."""
    message = "Too many long requests are being sent at once. Ask again in some seconds."
    body = answers.error_body(message, "server_error", "overloaded")
    return answers.json_answer(503, body, {"Retry-After": str(_RETRY_S)}, close=True)


def stopping() -> Answer:
    """The endpoint ends, or is replaced by a new one."""
    body = answers.error_body("The endpoint is stopping.", "server_error", "endpoint_stopping")
    return answers.json_answer(503, body, {"Retry-After": str(_RETRY_S)}, close=True)


def whoami(holder: Holder) -> dict[str, Any]:
    """Whose key it is and how long it lasts; `username` is FIRST's word."""
    left_s = None if holder.expires_at is None else max(0, round(holder.expires_at - time.time()))
    return {
        "name": holder.name,
        "username": holder.owner or None,
        "groups": sorted(holder.groups),
        "models": sorted(holder.models) if holder.models is not None else None,
        "expires_at": holder.expires_at,
        "expires_in_s": left_s,
    }


def endpoints(found: Sequence[ModelSeen], root: str) -> dict[str, Any]:
    """FIRST's `/list-endpoints`: clusters, their frameworks, the models and paths of each; `root` is before them."""
    clusters: dict[str, Any] = {}
    for model in found:
        for name in model.clusters:
            cluster = clusters.setdefault(name, {"base_url": f"{root}/{name}", "frameworks": {}})
            paths = _SPEECH if model.framework == "whisper" else _TEXT
            framework = cluster["frameworks"].setdefault(
                model.framework,
                {"models": [], "endpoints": {kind: f"/{model.framework}/v1/{path}" for kind, path in paths}},
            )
            framework["models"].append(model.name)
    return {"clusters": clusters}


def jobs(sighted: Iterable[Sighted], models: Mapping[str, str]) -> dict[str, Any]:
    """FIRST's lists of jobs; `models` are the names by which sessions are asked for, by session."""
    found: dict[str, list[dict[str, Any]]] = {"running": [], "queued": [], "stopped": [], "others": []}
    for one in sighted:
        plan, status = one.session.plan, one.status
        kind = "stopped" if status.ended else "queued" if status.state == PENDING else "others"
        kind = "running" if status.state in (READY, LAUNCHING, UNHEALTHY) else kind
        found[kind].append(
            {
                "Models": models.get(one.id, one.served),
                "Framework": plan.engine,
                "Cluster": plan.cluster.name,
                "Model Status": status.state.lower(),
                "Job ID": status.job_id,
                "Session": one.id,
                "Host Name": status.host,
                "Message": status.message,
                "Ends At": status.ends_at,
            }
        )
    return {**found, "private-batch-running": [], "private-batch-queued": []}


def state(
    lanes: Callable[[str], Sequence[Lane]],
    found: Sequence[ModelSeen],
    counts: Counts,
    waiting: Mapping[str, int],
) -> dict[str, Any]:
    """`/status`: every model with its replicas, what runs on each and how fast; what moved and what was lost."""
    return {
        "state": "READY",
        "moved": counts.moved,
        "lost": counts.lost,
        "models": [
            {
                "name": model.name,
                "state": model.state,
                "message": model.message,
                "estimate_s": model.retry_s,
                "clusters": list(model.clusters),
                "framework": model.framework,
                "waiting": waiting.get(model.name, 0),
                "in_flight": sum(lane.in_flight for lane in lanes(model.name)),
                "replicas": [_replica(lane) for lane in lanes(model.name)],
            }
            for model in found
        ],
    }


def _replica(lane: Lane) -> dict[str, Any]:
    return {
        "id": lane.replica,
        "cluster": lane.cluster,
        "in_flight": lane.in_flight,
        "tokens_per_s": round(lane.speed, 1) if lane.speed is not None else None,
        "leaving": lane.leaving,
        "used_at": lane.used_at or None,
    }


def metrics(fleet: Fleet, counts: Counts, waiting: Mapping[str, int]) -> bytes:
    """What is the endpoint's alone, as text for Prometheus."""
    from prometheus_client import generate_latest

    return generate_latest(_Collector(fleet, counts, waiting))


class _Collector:
    """What prometheus_client calls a collector."""

    def __init__(self, fleet: Fleet, counts: Counts, waiting: Mapping[str, int]) -> None:
        self._fleet, self._counts, self._waiting = fleet, counts, waiting

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        yield CounterMetricFamily(
            "launcher_endpoint_moved", "Requests that another replica answered.", self._counts.moved
        )
        yield CounterMetricFamily(
            "launcher_endpoint_lost",
            "Requests whose replica failed and that were not answered.",
            self._counts.lost,
        )
        ready = GaugeMetricFamily("launcher_endpoint_ready", "Whether a replica answers.", labels=("model",))
        replicas = GaugeMetricFamily("launcher_endpoint_replicas", "Replicas that answer.", labels=("model",))
        flight = GaugeMetricFamily("launcher_endpoint_in_flight", "Requests on the way.", labels=("model",))
        held = GaugeMetricFamily(
            "launcher_endpoint_waiting", "Requests that wait for a start.", labels=("model",)
        )
        speed = GaugeMetricFamily(
            "launcher_endpoint_tokens_per_second",
            "Measured speed of one request.",
            labels=("model", "cluster", "replica"),
        )
        for model in self._fleet.models():
            lanes = self._fleet.lanes(model.name)
            ready.add_metric((model.name,), any(not lane.leaving for lane in lanes))
            replicas.add_metric((model.name,), len(lanes))
            flight.add_metric((model.name,), sum(lane.in_flight for lane in lanes))
            held.add_metric((model.name,), self._waiting.get(model.name, 0))
            for lane in lanes:
                if lane.speed is not None:
                    speed.add_metric((model.name, lane.cluster, lane.replica), lane.speed)
        yield from (ready, replicas, flight, held, speed)
