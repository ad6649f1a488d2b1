"""`launcher auth`: your own key for an endpoint: make or keep it, print it, forget it. FIRST's words for it."""

from __future__ import annotations

import argparse
import getpass
import sys
import time

from launcher.api import Launcher
from launcher.cli.parser import add_command
from launcher.cli.status import print_json
from launcher.errors import RequestError
from launcher.sessions.clock import clock

_LOGIN = """\
examples:
  launcher auth login                                  for your own endpoint
  launcher auth login --force                          a new key, and the one before is revoked
  launcher auth login --url http://HOST:PORT/v1        for another's; asks for the key that you were given
  launcher auth login --url http://HOST:PORT/v1 < key
"""
_EXAMPLES = """\
examples:
  launcher auth login
  export OPENAI_API_KEY=$(launcher auth get-access-token)
  launcher auth logout
"""
_KEY_LETTERS = 4096


def options(parser: argparse.ArgumentParser) -> None:
    """Add its commands."""
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="auth_command", metavar="COMMAND", required=True)
    login = add_command(commands, "login", "get ready to use an endpoint", _LOGIN)
    login.add_argument("--url", metavar="URL", help="another's endpoint, by the address that you were given")
    login.add_argument("--force", action="store_true", help="make a new key also where the one there is good")
    add_command(
        commands,
        "get-access-token",
        "print your key, and nothing else; it is renewed where that is needed",
        "example:\n  export OPENAI_API_KEY=$(launcher auth get-access-token)",
    )
    add_command(commands, "logout", "forget your key", "example:\n  launcher auth logout")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    if arguments.auth_command == "get-access-token":
        from launcher.cli.endpoint_keys import get_access_token

        return get_access_token(as_json=arguments.json)
    if arguments.auth_command == "logout":
        return _logout(as_json=arguments.json)
    return _login(arguments.url, force=arguments.force, as_json=arguments.json)


def _login(url: str | None, *, force: bool, as_json: bool) -> int:
    from launcher.fleet.client import Client
    from launcher.fleet.ticket import keep, token

    settings = Launcher().settings
    if url is None:
        known = token(settings, anew=force)
    else:
        Client(url, "")  # whether it is an address is said before a key is asked for
        Client(url, "")  # whether it is an address is said before a key is asked for
        key = _asked()
        who = Client(url, key).get("/whoami")
        ends = who.get("expires_at") if isinstance(who, dict) else None
        known = keep(settings, url, key, ends if isinstance(ends, int | float) else None)
    left_s = None if known.expires_at is None else max(0.0, known.expires_at - time.time())
    if as_json:
        return print_json({"url": known.url, "expires_at": known.expires_at})
    long = "until it is revoked" if left_s is None else f"for {clock(left_s)}"
    print(f"You are logged in: your key is good {long}. Print it: launcher auth get-access-token")
    return 0


def _asked() -> str:
    """The key that somebody gave, typed unseen or from standard input; never an argument, which others can see."""
    if sys.stdin.isatty():
        key = getpass.getpass("Key: ", sys.stderr)
    else:
        key = sys.stdin.readline(_KEY_LETTERS)
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise RequestError("That is not a key.", "Give it on standard input, or type it when asked.")
    return key


def _logout(*, as_json: bool) -> int:
    from launcher.fleet.ticket import drop

    there = drop(Launcher().settings)
    if as_json:
        return print_json({"forgotten": there})
    print("Your key is forgotten." if there else "There was no key.")
    return 0
