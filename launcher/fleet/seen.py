"""What the endpoint's front is told of models and replicas, and by whom. Plain data and two protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from launcher.fleet.choice import Lane
from launcher.gateway.answers import Answer
from launcher.gateway.keys import Holder

STARTABLE, STARTING, READY, LEAVING = "startable", "starting", "ready", "leaving"


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """A model that may be asked for: an offer, or a running session of the user's.

    `state` is one of the four above; `message` a sentence for people, `retry_s` how long it will still take to be ready
    (None: not known). `framework` is `vllm`, `whisper` or `simulated`; `served` are further names for it; `groups` may
    use it (none: everybody with a key); `offered` says that it is started when it is asked for.
    """

    name: str
    state: str
    message: str = ""
    retry_s: float | None = None
    clusters: tuple[str, ...] = ()
    framework: str = ""
    groups: frozenset[str] = frozenset()
    created: float = 0.0
    served: frozenset[str] = frozenset()
    offered: bool = True


class Fleet(Protocol):
    """Knows the replicas and starts more; everything but `wanted` returns at once."""

    def models(self) -> Sequence[ModelSeen]:
        """Every offer and every model of the user's running sessions, in the order to be listed."""

    def model(self, name: str) -> ModelSeen | None:
        """The model of that name, or with it among its further names."""

    def lanes(self, model: str) -> Sequence[Lane]:
        """The ready replicas of the model of that name, also those leaving; the same objects each time."""

    async def wanted(self, model: str, hold_s: float, own: bool) -> ModelSeen:
        """A model without a lane that is open to the key, its owner's `own` or not, is asked for.

        Starts exactly one job; returns when ready, or after `hold_s`.
        """

    def lost(self, lane: Lane) -> None:
        """It did not answer: look at it now."""

    def clusters(self) -> Sequence[str]:
        """The names of those that it looks at."""

    def jobs(self, cluster: str | None, own: bool) -> dict[str, Any]:
        """The jobs of one cluster, or of all, in FIRST's lists: running, queued, stopped, others.

        With a key that is not `own`, those of offers that the endpoint started, and of models that are not offered.
        """


class Access(Protocol):
    """Says who may use what, and how much."""

    def allowed(self, holder: Holder, model: ModelSeen) -> bool:
        """Whether the model is there at all for the holder."""

    def refusal(self, holder: Holder, model: ModelSeen) -> Answer | None:
        """None: the request may go on, and is counted. Else 403 or 429."""

    def spend(self, holder: Holder, model: str, tokens: int) -> None:
        """Count what an answer has used."""
