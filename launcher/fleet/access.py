"""Who may use which model of the endpoint, and how much: lists of models, groups, requests and tokens a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from launcher.gateway import answers
from launcher.gateway.answers import Answer
from launcher.gateway.keys import Holder
from launcher.gateway.limits import ALONE, Budget, Share

_LONGEST_RETRY_S = 60


class Guarded(Protocol):
    """A model that may be asked for; `groups` may use it, none: everybody with a key."""

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> frozenset[str]: ...


def allowed(holder: Holder, model: Guarded) -> bool:
    """Whether the model is there for the holder: its key names it or no models, and one of its groups may use it.

    The own key of whoever runs the gateway is not held up by groups.
    """
    if holder.models is not None and model.name not in holder.models:
        return False
    return holder.own or not model.groups or not model.groups.isdisjoint(holder.groups)


class Access:
    """Checks requests against keys and models; `limits` are a model's requests and tokens a minute, of all keys.

    `share` says among how many gateways they are divided.
    """

    def __init__(
        self, limits: Mapping[str, tuple[int | None, int | None]], share: Share | None = None
    ) -> None:
        self._models = {
            name: Budget(requests, tokens, share=share or ALONE)
            for name, (requests, tokens) in limits.items()
            if requests is not None or tokens is not None
        }

    def allowed(self, holder: Holder, model: Guarded) -> bool:
        """Whether the model is there for the holder."""
        return allowed(holder, model)

    def refusal(self, holder: Holder, model: Guarded) -> Answer | None:
        """None: the request may go on, and is counted. Else 403, or 429 with Retry-After; nothing is counted then."""
        if not allowed(holder, model):
            message = (
                f'This key may not use the model "{model.name}". GET /v1/models lists those that it may.'
            )
            return answers.refused(403, message, "model_not_allowed")
        budget = self._models.get(model.name)
        if budget is not None and (wait_s := budget.admit()) > 0:
            return _too_many(f'The model "{model.name}"', wait_s)
        if holder.budget is not None and (wait_s := holder.budget.admit()) > 0:
            if budget is not None:
                budget.give_back()
            return _too_many(f'The key "{holder.name}"', wait_s)
        return None

    def spend(self, holder: Holder, model: str, tokens: int) -> None:
        """Count what an answer has used against the model's limit; the key's is the gateway's to count."""
        if (budget := self._models.get(model)) is not None:
            budget.spend(tokens)


def _too_many(who: str, wait_s: float) -> Answer:
    wait = max(1, round(wait_s + 0.5))
    message = f"{who} has reached its limit of this minute. Try again in {wait} s."
    return answers.refused(
        429, message, "rate_limit_exceeded", {"Retry-After": str(min(wait, _LONGEST_RETRY_S))}
    )
