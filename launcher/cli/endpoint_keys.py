"""`launcher keys … --endpoint`: the named keys of the endpoint: made, listed with the time left, rotated, revoked."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import RequestError, did_you_mean
from launcher.sessions.clock import clock, moment, span_s

if TYPE_CHECKING:
    from launcher.fleet.issued import Issued
    from launcher.fleet.store import Store
    from launcher.settings.schema import Settings


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    settings = Launcher().settings
    match arguments.keys_command:
        case "get-access-token":
            return get_access_token(as_json=arguments.json)
        case "new":
            return _new(settings, arguments)
        case "rotate":
            return _rotate(settings, arguments)
        case "revoke":
            return _revoke(settings, arguments)
        case _:
            return _list(settings, as_json=arguments.json)


def get_access_token(*, as_json: bool) -> int:
    """Print the user's own key alone; it is made, or renewed, where that is needed."""
    from launcher.fleet.ticket import token

    ticket = token(Launcher().settings)
    if as_json:
        return print_json({"key": ticket.key, "expires_at": ticket.expires_at})
    print(ticket.key)
    return 0


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[Store]:
    from launcher.fleet.places import store_url
    from launcher.fleet.store import Store

    with contextlib.closing(Store(store_url(settings))) as store:
        yield store


def _new(settings: Settings, arguments: argparse.Namespace) -> int:
    from launcher.fleet import issued

    _known("group", arguments.group, _groups(settings))
    for name in set(arguments.model or ()) - set(settings.offers):
        # A session that is running may be named too; a slip of the hand is nearly always near to an offer.
        if (near := did_you_mean(name, settings.offers)) is not None:
            raise RequestError(f'There is no model "{name[:80]}".', near)
        print(
            f'No offer is called "{one_line(name[:80])}": the key opens a running session that serves it.',
            file=sys.stderr,
        )
    with _store(settings) as store:
        made, secret = issued.new(
            store,
            arguments.name,
            owner=arguments.owner or arguments.name,
            lifetime_s=_lifetime_s(arguments.expires, settings),
            groups=arguments.group,
            models=arguments.model,
            requests_per_minute=arguments.requests_per_minute,
            tokens_per_minute=arguments.tokens_per_minute,
        )
    return _tell(made, secret, as_json=arguments.json)


def _rotate(settings: Settings, arguments: argparse.Namespace) -> int:
    from launcher.fleet import issued

    grace_s = 0.0 if arguments.grace is None else span_s(arguments.grace)
    lifetime_s = None if arguments.expires is None else _lifetime_s(arguments.expires, settings)
    with _store(settings) as store:
        made, secret = issued.rotate(store, arguments.name, lifetime_s=lifetime_s, grace_s=grace_s)
    if made.former_until is not None and not arguments.json:
        print(f"The secret before it is good until {_minute(made.former_until)}.", file=sys.stderr)
    return _tell(made, secret, as_json=arguments.json)


def _tell(made: Issued, secret: str, *, as_json: bool) -> int:
    if as_json:
        return print_json({**_described(made), "key": secret})
    end = made.key.expires_at
    until = "it is revoked" if end is None else _minute(end)
    print(
        f'The key "{made.name}" of {made.owner} is valid until {until}. It is shown only now:',
        file=sys.stderr,
    )
    print(secret)
    return 0


def _revoke(settings: Settings, arguments: argparse.Namespace) -> int:
    from launcher.fleet import issued

    with _store(settings) as store:
        gone = issued.revoke(store, arguments.name, force=arguments.force)
    if arguments.json:
        return print_json(_described(gone))
    print(f'The key "{one_line(gone.name)}" of {one_line(gone.owner)} is revoked.')
    return 0


def _list(settings: Settings, *, as_json: bool) -> int:
    from launcher.fleet import issued

    with _store(settings) as store:
        found = issued.listed(store)
    if as_json:
        return print_json({"keys": [_described(one) for one in found]})
    if not found:
        print("The endpoint has no keys yet. Make one: launcher keys new --endpoint --name NAME")
        return 0
    rows = [
        [
            one.name,
            one.owner,
            _left(one),
            " ".join(sorted(one.groups)),
            "all" if one.models is None else " ".join(sorted(one.models)),
            str(one.key.requests_per_minute or ""),
            str(one.key.tokens_per_minute or ""),
            "" if one.used_at is None else _minute(one.used_at),
        ]
        for one in found
    ]
    head = ["Name", "Owner", "Time left", "Groups", "Models", "Requests/min", "Tokens/min", "Last used"]
    print(table(rows, head=head, yielding=["Last used", "Groups"]))
    return 0


def _left(one: Issued) -> str:
    if one.left_s is None:
        return "no end"
    return clock(one.left_s) if one.left_s else "expired"


def _groups(settings: Settings) -> set[str]:
    return {*settings.groups, *(group for offer in settings.offers.values() for group in offer.groups)}


def _known(what: str, named: Iterable[str], known: Iterable[str]) -> None:
    """A slip of the hand in a name would be a key that opens nothing."""
    names = sorted(known)
    for name in named:
        if name not in names:
            all_of = f"The settings name: {', '.join(names)}." if names else "The settings name none."
            raise RequestError(f'There is no {what} "{name[:80]}".', did_you_mean(name, names) or all_of)


def _lifetime_s(expires: str | None, settings: Settings) -> float | None:
    if expires is None:
        return settings.endpoint.key_hours * 3600
    return None if expires == "never" else span_s(expires)


def _described(one: Issued) -> dict[str, Any]:
    return {
        "name": one.name,
        "owner": one.owner,
        "created_at": one.key.created_at,
        "expires_at": one.key.expires_at,
        "expires_in_s": None if one.left_s is None else round(one.left_s),
        "expired": one.key.expired,
        "groups": sorted(one.groups),
        "models": None if one.models is None else sorted(one.models),
        "requests_per_minute": one.key.requests_per_minute,
        "tokens_per_minute": one.key.tokens_per_minute,
        "used_at": one.used_at,
    }


def _minute(when: float) -> str:
    return f"{moment(when, seconds=False)} {time.strftime('%Z', time.localtime(when))}"
