"""What the settings allow to be started, as the rules of `launcher.fleet.scale` want it.

Owns the translation from settings and its checks; how many replicas there are is decided there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from launcher.errors import SettingsError, did_you_mean
from launcher.fleet.scene import Offer, Where
from launcher.planning.request import Request
from launcher.settings.schema import Offered, Settings

# What an offer says in its own words, or what is each session's alone.
_NOT_LAUNCHED = {"model", "profile", "name", "hours", "idle_minutes", "page"}
_FIELDS = [field.name for field in dataclasses.fields(Request) if field.name not in _NOT_LAUNCHED]
# A session of an endpoint ends by itself only when no gateway has looked after it for long.
_OWN_IDLE_LEAST_MINUTES, _OWN_IDLE_FACTOR = 30.0, 2.0


def offers_of(settings: Settings) -> dict[str, Offer]:
    """The offers by name, in the order of the settings; raises SettingsError with the place of a mistake."""
    return {name: _offer(entry, settings) for name, entry in settings.offers.items()}


def engine_of(offer: Offer, settings: Settings) -> str:
    """The engine that will run it, as far as the settings tell."""
    for entry in settings.catalog.values():
        if offer.model in (entry.name, entry.id, *entry.aliases):
            return entry.engine
    return str(offer.wanted.get("engine") or "vllm")


def own_idle_minutes(offer: Offer, settings: Settings) -> float:
    """After how many idle minutes its sessions end by themselves: later than the endpoint would end them."""
    site = settings.session.idle_minutes
    locked = settings.locked("session.idle_minutes") and site > 0
    if offer.idle_s <= 0:
        return site if locked else 0.0
    minutes = max(_OWN_IDLE_LEAST_MINUTES, _OWN_IDLE_FACTOR * offer.idle_s / 60)
    return min(minutes, site) if locked else minutes


def wanted_of(offer: Offer, profile: str, settings: Settings) -> dict[str, Any]:
    """The fields of a request for one session of it on `profile`, but for the session's name."""
    wanted = {**offer.wanted, "profile": profile, "page": False}
    wanted["idle_minutes"] = own_idle_minutes(offer, settings)
    return wanted if offer.hours is None else {**wanted, "hours": offer.hours}


def _offer(entry: Offered, settings: Settings) -> Offer:
    return Offer(
        name=entry.name,
        model=entry.model or entry.name,
        profiles=_places(entry, settings),
        minimum=entry.minimum,
        maximum=entry.maximum,
        idle_s=entry.idle_minutes * 60,
        hours=entry.hours,
        in_flight_per_replica=entry.in_flight,
        groups=frozenset(entry.groups),
        tokens_per_minute=entry.tokens_per_minute,
        requests_per_minute=entry.requests_per_minute,
        wanted=_wanted(entry, settings),
    )


def _places(entry: Offered, settings: Settings) -> tuple[Where, ...]:
    names = entry.profiles
    if not names:
        usual = settings.session.profile or next(iter(settings.profiles))
        catalog = settings.catalog.get(entry.model or entry.name)
        names = catalog.profiles[:1] if catalog is not None and catalog.profiles else (usual,)
    return tuple(Where(name, settings.profiles[name].cluster) for name in names)


def _wanted(entry: Offered, settings: Settings) -> Mapping[str, object]:
    at = f"offers.{entry.name}.launch"
    for name in entry.launch:
        if name not in _FIELDS:
            hint = did_you_mean(name, _FIELDS, 1) or f"Known: {', '.join(_FIELDS)}."
            if name in _NOT_LAUNCHED:
                hint = f"Say it in offers.{entry.name} itself, or leave it out."
            raise SettingsError(f"{settings.where(at)}: {at}.{name[:60]} cannot be said there.", hint)
    # Lists of YAML are the tuples of a request.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.launch.items()}
