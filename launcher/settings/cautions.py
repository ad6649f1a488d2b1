"""What no rule forbids in sound settings, and hardly anybody means: for `launcher config check` and the doctor."""

from __future__ import annotations

from typing import NamedTuple

from launcher.settings.origins import DEFAULTS
from launcher.settings.schema import Offered, Profile, Settings


class Caution(NamedTuple):
    """`says` goes on where the dotted `key` ends."""

    key: str
    says: str
    advice: str


def cautions(settings: Settings) -> list[Caution]:
    """Profiles beyond what `limits` or `allow` lets anybody have, then what an endpoint can make nothing of."""
    found = [found for profile in settings.profiles.values() for found in _beyond(profile, settings)]
    found += [found for offer in settings.offers.values() for found in _too_long(offer, settings)]
    return [*found, *_groups(settings), *_port(settings)]


def _too_long(offer: Offered, settings: Settings) -> list[Caution]:
    at, hours, limit = f"offers.{offer.name}.hours", offer.hours, settings.limits.hours
    if hours is None:
        return []
    if limit is not None and hours > limit:
        says = f"is {hours:g}, more than limits.hours, {limit:g}: every start of it is refused."
        return [Caution(at, says, f"Write hours: {limit:g}, or raise limits.hours.")]
    found = []
    for name in offer.profiles:
        most = settings.profiles[name].hours_max
        if hours > most and not settings.clusters[settings.profiles[name].cluster].remote:
            says = f"is {hours:g}, more than hours_max of profile {name}, {most:g}: nothing is started there."
            found.append(Caution(at, says, f"Write hours: {most:g}, or take {name} out of its profiles."))
    return found


def _groups(settings: Settings) -> list[Caution]:
    found = []
    for name, group in settings.groups.items():
        opened = [offer.name for offer in settings.offers.values() if name in offer.groups]
        if not opened:
            says = "is named by no offer: it opens nothing."
            found.append(
                Caution(f"groups.{name}", says, f"Add groups: [{name}] to an offer, or take it out.")
            )
        elif not group.owners:
            says = f"names nobody: only keys made with --group {name} open {', '.join(opened[:3])}."
            found.append(
                Caution(f"groups.{name}.owners", says, "Unless that is meant, name the keys' owners.")
            )
    return found


def _port(settings: Settings) -> list[Caution]:
    port = settings.endpoint.port
    if not port or settings.site is None or settings.origins.get("endpoint.port") != settings.site:
        return []
    says = f"is {port} for every user: on each host only one of them can run an endpoint."
    return [Caution("endpoint.port", says, "Take it out: each user's is then chosen once and kept.")]


def _beyond(profile: Profile, settings: Settings) -> list[Caution]:
    found = []
    gpus, hours = settings.limits.gpus, settings.limits.hours
    at = f"profiles.{profile.name}"
    if gpus is not None and profile.gpus * profile.nodes > gpus:
        count = (
            f"{profile.gpus}" if profile.nodes == 1 else f"{profile.gpus} on each of {profile.nodes} nodes"
        )
        says = f"is {count}, more than limits.gpus, {gpus}: every session on it is refused."
        found.append(
            Caution(f"{at}.gpus", says, f"Write gpus: {gpus // profile.nodes}, or raise limits.gpus.")
        )
    allowed = settings.allow.nodes
    if profile.nodes > 1 and settings.clusters[profile.cluster].scheduler == "local":
        says = f"is {profile.nodes}, and its cluster is one machine: every session on it is refused."
        found.append(Caution(f"{at}.nodes", says, "Write nodes: 1."))
    elif profile.nodes > allowed:
        says = f"is {profile.nodes}, more than allow.nodes, {allowed}: no model gets it without --nodes {allowed}."
        found.append(Caution(f"{at}.nodes", says, f"Write nodes: {allowed}, or raise allow.nodes."))
    # The 24 hours of a profile that says none are nobody's word.
    written = settings.origins.get(f"{at}.hours_max", DEFAULTS) != DEFAULTS
    if hours is not None and written and profile.hours_max > hours:
        says = f"is {profile.hours_max:g}, more than limits.hours, {hours:g}, which is what users get."
        found.append(Caution(f"{at}.hours_max", says, f"Write hours_max: {hours:g}, or raise limits.hours."))
    return found
