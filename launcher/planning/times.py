"""How long a session may run, and how long it may stand unused."""

from __future__ import annotations

from launcher.errors import RequestError
from launcher.planning.request import Request
from launcher.settings.schema import Profile, Settings

TOO_MANY = 1e9  # beyond this a number is no number of hours, and may have thousands of digits


def hours_of(request: Request, profile: Profile, settings: Settings, origins: dict[str, str]) -> float:
    """The hours: asked for, or the profile's, or the site's; raises RequestError above what is allowed."""
    most = settings.limits.hours
    if request.hours is None:
        key = f"profiles.{profile.name}.hours"
        origins["hours"] = settings.origin(key if profile.hours is not None else "session.hours")
        return hours_by_default(profile, settings)
    origins["hours"] = "request"
    allowed = f'Profile "{profile.name}" allows up to {hours_words(profile.hours_max)}'
    if request.hours >= TOO_MANY:
        raise RequestError(f"{allowed}; what was asked for is too large.", "Ask for fewer hours.")
    if not request.hours > 0:  # also not a number
        raise RequestError(
            f"The hours must be more than 0, not {max(request.hours, -TOO_MANY):g}.", f"{allowed}."
        )
    if request.hours > profile.hours_max:
        raise RequestError(
            f"{allowed}, not {request.hours:g}.",
            "Ask for fewer hours or choose another profile.",
        )
    if most is not None and request.hours > most:
        raise RequestError(
            f"This site allows up to {hours_words(most)} for one session, not {request.hours:g}.",
            "Ask for fewer hours.",
        )
    return request.hours


def hours_words(hours: float) -> str:
    """`1 hour`, `12 hours`."""
    return f"{hours:g} hour{'' if hours == 1 else 's'}"


def hours_by_default(profile: Profile, settings: Settings) -> float:
    """The hours that a session on `profile` gets when nobody asks for any."""
    hours = min(profile.hours if profile.hours is not None else settings.session.hours, profile.hours_max)
    return hours if settings.limits.hours is None else min(hours, settings.limits.hours)


def idle_minutes_of(request: Request, settings: Settings, origins: dict[str, str]) -> float:
    """After how many idle minutes the session stops, 0 for never; a locked limit is kept."""
    limit = settings.session.idle_minutes
    if request.idle_minutes is None:
        origins["idle_minutes"] = settings.origin("session.idle_minutes")
        return limit
    origins["idle_minutes"] = "request"
    if request.idle_minutes >= TOO_MANY:
        raise RequestError("The idle minutes are too large.", "0 means: never stop for that.")
    if not request.idle_minutes >= 0:  # also not a number
        raise RequestError(
            f"The idle minutes must be 0 or more, not {max(request.idle_minutes, -TOO_MANY):g}.",
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
