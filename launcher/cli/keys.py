"""`launcher keys`: a new key alone on standard output, what is known of all, and taking one away.

Of a session here; what stands behind `--endpoint` is `launcher.cli.endpoint_keys`'s.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from launcher.api import Launcher, Session
from launcher.cli.parser import SESSION, add_command, whole
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import RequestError
from launcher.sessions.keys import NamedKey
from launcher.sessions.status import Status

EXAMPLES = """\
examples:
  launcher keys new tiny-chat-3f9a --name alice --expires 3d
  launcher keys new tiny-chat-3f9a --name course --requests-per-minute 60 --tokens-per-minute 20000
  key=$(launcher keys new tiny-chat-3f9a --name script)      standard output is the key alone
  launcher keys new --endpoint --name alice --group course --expires 3d
  launcher keys new --endpoint --name bob --model big --tokens-per-minute 20000
"""
_TOKEN = """\
example:
  export OPENAI_API_KEY=$(launcher keys get-access-token)
"""
_ENDPOINT = "of the endpoint (launcher gateway) instead of a session"


def options(parser: argparse.ArgumentParser) -> None:
    """Add its commands."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(dest="keys_command", metavar="COMMAND", required=True)
    new = add_command(commands, "new", "make a key and print it, this once", EXAMPLES)
    _of(new)
    new.add_argument("--name", metavar="NAME", required=True, help="what the key is called")
    new.add_argument(
        "--expires",
        metavar="SPAN",
        help="how long it is valid: 90m, 12h, 3d, 2w; else as long as the session, or endpoint.key_hours; "
        "an endpoint's may be never",
    )
    new.add_argument(
        "--requests-per-minute", type=whole, metavar="N", help="how many requests; more get 429 for a while"
    )
    new.add_argument(
        "--tokens-per-minute", type=whole, metavar="N", help="how many tokens, prompts and answers together"
    )
    new.add_argument("--owner", metavar="USER", help="who is counted, with --endpoint (default: the name)")
    new.add_argument(
        "--group", metavar="NAME", action="append", default=[], help="whose models it opens, with --endpoint"
    )
    new.add_argument(
        "--model", metavar="NAME", action="append", help="the only models it opens, with --endpoint"
    )
    listed = add_command(
        commands,
        "ls",
        "list the keys of a session, or of the endpoint with the time left",
        "examples:\n  launcher keys ls tiny-chat-3f9a\n  launcher keys ls --endpoint",
    )
    _of(listed)
    rotate = add_command(
        commands,
        "rotate",
        "give a key of the endpoint a new secret",
        "example:\n  launcher keys rotate --endpoint alice --grace 1h",
    )
    rotate.add_argument("--endpoint", action="store_true", required=True, help=_ENDPOINT)
    rotate.add_argument("name", metavar="NAME", help="what the key is called")
    rotate.add_argument("--grace", metavar="SPAN", help="how long the secret before it is still good")
    rotate.add_argument("--expires", metavar="SPAN", help="how long it is valid; else as long as before")
    revoke = add_command(
        commands,
        "revoke",
        "take a key away",
        "examples:\n  launcher keys revoke tiny-chat-3f9a alice\n"
        "  launcher keys revoke --endpoint --force alice",
    )
    _of(revoke)
    revoke.add_argument("name", metavar="NAME", help="what the key is called")
    revoke.add_argument(
        "--force", action="store_true", help="an endpoint's key that was used within the last hour, too"
    )
    add_command(
        commands,
        "get-access-token",
        "print your own key for the endpoint, and nothing else; it is made or renewed where that is needed",
        _TOKEN,
    )


def _of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="ID", nargs="?", help=SESSION)
    parser.add_argument("--endpoint", action="store_true", help=_ENDPOINT)


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    if arguments.keys_command == "get-access-token" or arguments.endpoint:
        if getattr(arguments, "session", None) is not None:
            raise RequestError(
                f'"{arguments.session[:80]}" is one word too many: --endpoint stands for a session.',
                f"See: launcher keys {arguments.keys_command} --help",
            )
        from launcher.cli import endpoint_keys

        return endpoint_keys.run(arguments)
    if arguments.session is None:
        raise RequestError("Whose keys?", "Name a session, or write --endpoint.")
    for option in ("owner", "group", "model", "force"):
        if getattr(arguments, option, None):
            raise RequestError(
                f"--{option} is for keys of the endpoint.", "Write --endpoint instead of a session."
            )
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
