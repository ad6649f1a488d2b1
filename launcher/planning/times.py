"""How long a session may run, and how long it may stand unused."""

from __future__ import annotations

import math

from launcher.errors import RequestError
from launcher.planning.request import Request
from launcher.settings.schema import Profile, Settings


def hours_of(request: Request, profile: Profile, settings: Settings, origins: dict[str, str]) -> float:
    """The hours: asked for, or the profile's, or the site's; raises RequestError above what is allowed."""
    most = settings.limits.hours
    if request.hours is None:
        key = f"profiles.{profile.name}.hours"
        origins["hours"] = settings.origin(key if profile.hours is not None else "session.hours")
        hours = min(profile.hours if profile.hours is not None else settings.session.hours, profile.hours_max)
        return min(hours, most) if most is not None else hours
    origins["hours"] = "request"
    if not math.isfinite(request.hours) or request.hours <= 0:
        raise RequestError(
            f"The hours must be more than 0, not {request.hours:g}.",
            f'Profile "{profile.name}" allows up to {profile.hours_max:g}.',
        )
    if request.hours > profile.hours_max:
        raise RequestError(
            f'Profile "{profile.name}" allows up to {profile.hours_max:g} hours, not {request.hours:g}.',
            "Ask for fewer hours or choose another profile.",
        )
    if most is not None and request.hours > most:
        raise RequestError(
            f"This site allows up to {most:g} hours for one session, not {request.hours:g}.",
            "Ask for fewer hours.",
        )
    return request.hours


def idle_minutes_of(request: Request, settings: Settings, origins: dict[str, str]) -> float:
    """After how many idle minutes the session stops, 0 for never; a locked limit is kept."""
    limit = settings.session.idle_minutes
    if request.idle_minutes is None:
        origins["idle_minutes"] = settings.origin("session.idle_minutes")
        return limit
    origins["idle_minutes"] = "request"
    if not math.isfinite(request.idle_minutes) or request.idle_minutes < 0:
        raise RequestError(
            f"The idle minutes must be 0 or more, not {request.idle_minutes:g}.",
            "0 means: never stop for that.",
        )
    if not (limit and settings.locked("session.idle_minutes")):
        return request.idle_minutes
    if request.idle_minutes == 0:
        raise RequestError(
            "An idle time of 0 means never, which this site does not allow.",
            f"Ask for at most {limit:g} minutes.",
        )
    if request.idle_minutes > limit:
        raise RequestError(
            f"This site allows at most {limit:g} idle minutes, not {request.idle_minutes:g}.",
            "Ask for fewer.",
        )
    return request.idle_minutes
