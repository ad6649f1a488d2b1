"""What no rule forbids in sound settings, and hardly anybody means: for `launcher config check` and the doctor."""

from __future__ import annotations

from typing import NamedTuple

from launcher.settings.origins import DEFAULTS
from launcher.settings.schema import Profile, Settings


class Caution(NamedTuple):
    """`says` goes on where the dotted `key` ends."""

    key: str
    says: str
    advice: str


def cautions(settings: Settings) -> list[Caution]:
    """Profiles that offer more than `limits` or `allow` lets anybody have, in the order of the settings."""
    return [found for profile in settings.profiles.values() for found in _beyond(profile, settings)]


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
