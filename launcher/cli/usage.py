"""`launcher usage`: what was used at the endpoint in a month, by key, model, owner or cluster. There are no prompts."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time

from launcher.api import Launcher
from launcher.cli.status import print_json
from launcher.cli.tables import table
from launcher.sessions.clock import clock

EXAMPLES = """\
examples:
  launcher usage                                this month, by key
  launcher usage --month 2026-11 --by model
  launcher usage --by owner --json
"""
# As launcher.fleet.usage has them, which would load the database's library for --help.
BY = ("key", "model", "owner", "cluster")


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("--month", metavar="YYYY-MM", help="such as 2026-11 (default: this one)")
    parser.add_argument("--by", choices=BY, default="key", help="what each row is of (default: key)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from launcher.fleet.places import store_url
    from launcher.fleet.store import Store
    from launcher.fleet.usage import month, sums

    begin, end = month(arguments.month)
    with contextlib.closing(Store(store_url(Launcher().settings))) as store:
        found = sums(store, arguments.by, begin, end)
    named = time.strftime("%Y-%m", time.localtime(begin))
    if arguments.json:
        rows = [dataclasses.asdict(one) for one in found]
        return print_json({"month": named, "by": arguments.by, "usage": rows})
    if not found:
        print(f"Nothing was used in {named}.")
        return 0
    shown = [
        [
            one.name,
            f"{one.requests:,}",
            f"{one.errors:,}",
            f"{one.prompt_tokens:,}",
            f"{one.completion_tokens:,}",
            clock(one.audio_s) if one.audio_s else "",
            "" if one.first_byte_s is None else f"{one.first_byte_s:.2f} s",
            "" if one.seconds is None else f"{one.seconds:.2f} s",
        ]
        for one in found
    ]
    totals = (
        sum(one.requests for one in found),
        sum(one.errors for one in found),
        sum(one.prompt_tokens for one in found),
        sum(one.completion_tokens for one in found),
    )
    audio_s = sum(one.audio_s for one in found)
    shown.append(["total", *(f"{one:,}" for one in totals), clock(audio_s) if audio_s else "", "", ""])
    head = [
        arguments.by.capitalize(), "Requests", "Errors", "Tokens in", "Tokens out", "Audio", "First byte", "Answer"
    ]  # fmt: skip
    print(f"{named}, means of the times:")
    print(table(shown, head=head, yielding=["Audio", "First byte", "Errors"]))
    return 0
