"""`launcher keys`: a new key alone on standard output, what is known of all, and taking one away."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from launcher.api import Launcher, Session
from launcher.cli.parser import SESSION, add_command, whole
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.sessions.keys import NamedKey
from launcher.sessions.status import Status

EXAMPLES = """\
examples:
  launcher keys new tiny-chat-3f9a --name alice --expires 3d
  launcher keys new tiny-chat-3f9a --name course --requests-per-minute 60 --tokens-per-minute 20000
  key=$(launcher keys new tiny-chat-3f9a --name script)      standard output is the key alone
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add its commands."""
    commands = parser.add_subparsers(dest="keys_command", metavar="COMMAND", required=True)
    new = add_command(commands, "new", "make a key and print it, this once", EXAMPLES)
    new.add_argument("session", metavar="ID", help=SESSION)
    new.add_argument("--name", metavar="NAME", required=True, help="what the key is called")
    new.add_argument("--expires", metavar="SPAN", help="how long it is valid: 90m, 12h, 3d, 2w; else no end")
    new.add_argument(
        "--requests-per-minute", type=whole, metavar="N", help="how many requests; more get 429 for a while"
    )
    new.add_argument(
        "--tokens-per-minute", type=whole, metavar="N", help="how many tokens, prompts and answers together"
    )
    listed = add_command(
        commands, "ls", "list the keys of a session", "example:\n  launcher keys ls tiny-chat-3f9a"
    )
    listed.add_argument("session", metavar="ID", help=SESSION)
    revoke = add_command(
        commands, "revoke", "take a key away", "example:\n  launcher keys revoke tiny-chat-3f9a alice"
    )
    revoke.add_argument("session", metavar="ID", help=SESSION)
    revoke.add_argument("name", metavar="NAME", help="what the key is called")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    session = Launcher().session(arguments.session)
    if arguments.keys_command == "new":
        return _new(session, arguments)
    if arguments.keys_command == "revoke":
        return _revoke(session, arguments)
    return _list(session, arguments)


def _new(session: Session, arguments: argparse.Namespace) -> int:
    key, secret = session.keys.new(
        arguments.name,
        expires=arguments.expires,
        requests_per_minute=arguments.requests_per_minute,
        tokens_per_minute=arguments.tokens_per_minute,
    )
    if arguments.json:
        return print_json({"id": session.id, **_described(key), "key": secret})
    print(
        f'The key "{key.name}" of session {session.id} is valid until {_until(session, key)}. It is shown only now:',
        file=sys.stderr,
    )
    print(secret)
    return 0


def _until(session: Session, key: NamedKey) -> str:
    own = Status.read(session.paths.status)
    end = own.ends_at if own is not None else None
    if key.expires_at is None:
        return "the session ends"
    if end is not None and end >= key.expires_at:
        return _minute(key.expires_at)
    when = f" ({_minute(end)})" if end is not None else ""
    return f"{_minute(key.expires_at)}, or until the session ends{when}"


def _list(session: Session, arguments: argparse.Namespace) -> int:
    keys = list(session.keys)
    if arguments.json:
        return print_json({"id": session.id, "keys": [_described(key) for key in keys]})
    if not keys:
        print(f"Session {session.id} has only its own key.")
        return 0
    own = Status.read(session.paths.status)
    over = own is not None and own.ended
    rows = [
        [
            key.name,
            _minute(key.created_at),
            _expires(key, over),
            str(key.requests_per_minute or ""),
            str(key.tokens_per_minute or ""),
        ]
        for key in keys
    ]
    print(table(rows, head=["Name", "Created", "Expires", "Requests/min", "Tokens/min"]))
    return 0


def _revoke(session: Session, arguments: argparse.Namespace) -> int:
    key = session.keys.revoke(arguments.name)
    if arguments.json:
        return print_json({"id": session.id, **_described(key)})
    print(f'The key "{one_line(key.name)}" of session {session.id} is revoked.')
    return 0


def _expires(key: NamedKey, over: bool) -> str:
    if key.expired:
        return "expired"
    if over:
        return "the session is over"
    return "with the session" if key.expires_at is None else _minute(key.expires_at)


def _described(key: NamedKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "expired": key.expired,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
    }


def _minute(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(when))
