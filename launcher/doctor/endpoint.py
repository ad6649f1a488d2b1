"""What an endpoint would meet at this site: the database of its state, and each offer on each of its profiles.

Makes nothing: no file, no table, no job. Without offers and without `endpoint.state` there is nothing to look at.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from launcher.doctor.checks import Check, fail, ok, warn
from launcher.errors import LauncherError
from launcher.fleet.offers import offers_of, wanted_of
from launcher.fleet.places import store_url
from launcher.fleet.scene import Offer
from launcher.planning import Request, make_plan
from launcher.settings.schema import Settings


def check_endpoint(settings: Settings) -> Iterator[Check]:
    """The state as whoever asks would have it, then the offers."""
    if settings.offers or settings.endpoint.state:
        yield _state(settings)
        yield from _port(settings)
    try:
        offers = offers_of(settings)
    except LauncherError as error:
        yield fail("offers", error.message, error.hint or "Correct it.")
        return
    for offer in offers.values():
        yield _offer(offer, settings)


def _state(settings: Settings) -> Check:
    from launcher.fleet.database import looked_at  # SQLAlchemy, which no other check needs

    about = "endpoint.state"
    try:
        where = looked_at(store_url(settings))
    except LauncherError as error:
        fix = (error.hint or "").removeprefix("Ask the site to install it: ")  # that is who reads this
        if "psycopg" in error.message:
            return fail(about, error.message, fix)
        # It may well be that only the user whose endpoint it is can open it.
        return warn(about, f"cannot be used by you: {error.message}", fix)
    return ok(about, f"is {where} for you.")


def _port(settings: Settings) -> Iterator[Check]:
    about, host, port = "endpoint.port", settings.endpoint.host, settings.endpoint.port
    if not port:
        return  # a free one is chosen
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the gateway does
            tried.bind(address)
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        why = "is in use, perhaps by your own gateway" if used else f"cannot be had: {error.strerror}"
        fix = "See launcher gateway status. If it is another's, choose another, or 0: a free one, chosen once and kept."
        yield warn(about, f"{port} of {host} {why}.", fix)
    else:
        yield ok(about, f"{port} of {host} is free on this machine.")


def _offer(offer: Offer, settings: Settings) -> Check:
    about = f"offers.{offer.name}"
    here = [where.profile for where in offer.profiles if where.profile in settings.planned_here]
    for profile in here:
        try:
            request = Request(offer.model, **wanted_of(offer, profile, settings))
            make_plan(request, settings, door="python")
        except LauncherError as error:
            return fail(
                about, f"cannot be started on {profile}: {error.message}", error.hint or "Correct it."
            )
    if not here:
        return ok(about, "is started by the launchers of other clusters, which were not asked.")
    return ok(about, f"can be started on {', '.join(here)}.")
