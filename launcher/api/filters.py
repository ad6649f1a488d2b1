"""Which sessions are meant: `state=READY,model=tiny-chat`, as `status --filter` and `cleanup --filter` take it.

Owns the keys and what they are compared with. Blackfish's names for them and its states are understood too.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.errors import RequestError, did_you_mean
from launcher.sessions.plan import Plan
from launcher.sessions.status import FAILED, LAUNCHING, PENDING, READY, SHUTDOWN, UNHEALTHY, Status

STATES = (PENDING, LAUNCHING, READY, UNHEALTHY, SHUTDOWN, FAILED)
# Blackfish's states; docs/states.md has the whole table. Each is a state of ours, one of them with a reason.
_FOREIGN_STATES = {
    "SUBMITTED": PENDING, "STARTING": LAUNCHING, "HEALTHY": READY, "STOPPED": SHUTDOWN, "TIMEOUT": "time-limit",
}  # fmt: skip
_FOREIGN_KEYS = {"status": "state", "job_id": "job", "image": "engine", "model_name": "model"}
# What Blackfish calls the images that its services run.
_FOREIGN_ENGINES = {"text_generation": "vllm", "speech_recognition": "whisper"}
_MOST = 4000


@dataclass(frozen=True, slots=True)
class Filter:
    """Sessions that have, for each key, one of its values; without keys: all of them."""

    wanted: Mapping[str, tuple[str, ...]]

    def fits(self, plan: Plan, status: Status) -> bool:
        """Whether the session with this plan and status is meant."""
        return all(
            any(_is(value, _VALUES[key](plan, status)) for value in values)
            for key, values in self.wanted.items()
        )


def parse(text: str | None) -> Filter:
    """The filter written as `key=value,key=value`; several values of one key mean any of them.

    `*` and `?` stand for other letters, upper and lower case are one. Raises RequestError for an unknown key or state.
    """
    text = text or ""
    if len(text) > _MOST:  # the rest of it would choose fewer
        raise RequestError(f"A filter has at most {_MOST} characters.", "Choose by fewer words, or with *.")
    wanted: dict[str, list[str]] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = (word.strip() for word in part.partition("="))
        key = _FOREIGN_KEYS.get(key.lower(), key.lower())
        if key not in _VALUES:
            near = did_you_mean(key, _VALUES) or f"Use one of: {', '.join(_VALUES)}."
            raise RequestError(f'Sessions cannot be chosen by "{key[:60]}".', near)
        if not equals or not value:
            raise RequestError(f'"{part.strip()[:60]}" is no filter.', f"Write {key}=VALUE.")
        wanted.setdefault(key, []).append(_checked(key, value))
    return Filter({key: tuple(values) for key, values in wanted.items()})


def _checked(key: str, value: str) -> str:
    if key == "engine":
        return _FOREIGN_ENGINES.get(value.lower().replace("-", "_"), value)
    if key != "state":
        return value
    state = _FOREIGN_STATES.get(value.upper(), value)
    if state != "time-limit" and not any(fnmatch.fnmatchcase(known, state.upper()) for known in STATES):
        raise RequestError(f'There is no state "{value[:60]}".', f"The states are: {', '.join(STATES)}.")
    return state


def _is(value: str, found: tuple[str | None, ...]) -> bool:
    return any(fnmatch.fnmatchcase(word.lower(), value.lower()) for word in found if word is not None)


# For each key, what a session has that its value may be.
_VALUES: dict[str, Callable[[Plan, Status], tuple[Any, ...]]] = {
    "id": lambda plan, _: (plan.id,),
    "name": lambda plan, _: (plan.name,),
    "model": lambda plan, _: (plan.model.id, plan.model.id.rpartition("/")[2], plan.model.served_name),
    "state": lambda _, status: (
        (status.state, "time-limit") if status.reason == "time-limit" else (status.state,)
    ),
    "reason": lambda _, status: (status.reason,),
    "job": lambda _, status: (status.job_id, (status.job_id or "").partition("+")[0]),  # of a batch, too
    "engine": lambda plan, _: (plan.engine,),
    "profile": lambda plan, _: (plan.resources.profile,),
    "partition": lambda plan, _: (plan.resources.partition,),
    "cluster": lambda plan, _: (plan.cluster.name,),
}
KEYS = tuple(_VALUES)
