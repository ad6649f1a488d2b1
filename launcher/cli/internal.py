"""What the app's files and the job call; nobody types these."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from launcher.api import Launcher


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    says = {
        "serve": "the session's directory",
        "rank": "the session's directory",
        "plan": "the staged directory",
        "ended": "the staged directory",
        "carry-batch": "the session's directory",
    }
    if (text := says.get(parser.prog.rpartition(" ")[2])) is not None:
        parser.add_argument("directory", metavar="DIRECTORY", help=text)
    if parser.prog.endswith(" serve"):
        parser.add_argument("--batch", action="store_true", help="all sessions launched with it")
    if parser.prog.endswith(" carry-batch"):
        parser.add_argument("--gateway", metavar="URL", help="where the session answers, from inside its job")
        parser.add_argument("--began", type=float, default=0.0, metavar="T", help="when the job began")
        parser.add_argument("--next", action="store_true", help="submit the job that comes after it instead")
    if parser.prog.endswith(" rank"):
        parser.add_argument(
            "--address", required=True, metavar="A", help="where the engine's first process is met"
        )
        parser.add_argument("--port", required=True, type=int, metavar="P", help="its port")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    command: Callable[[argparse.Namespace], int] = {
        "serve": _serve, "rank": _rank, "offer": _offer, "plan": _plan, "ended": _ended,
        "carry-batch": _carry_batch,
    }[arguments.command]  # fmt: skip
    return command(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    import asyncio

    from launcher.ondemand.card import keeper
    from launcher.serve.supervise import serve
    from launcher.sessions.paths import SessionPaths
    from launcher.sessions.plan import Plan

    root = Path(arguments.directory).absolute()
    if arguments.batch:
        from launcher.serve.members import carry

        return asyncio.run(carry(root))
    plan = Plan.read(SessionPaths(root).plan)
    return asyncio.run(serve(root, keeper(root, plan) if plan.door == "ondemand" else None))


def _rank(arguments: argparse.Namespace) -> int:
    import asyncio

    from launcher.serve.rank import take_part

    return asyncio.run(take_part(Path(arguments.directory).absolute(), arguments.address, arguments.port))


def _carry_batch(arguments: argparse.Namespace) -> int:
    import asyncio

    from launcher.api.batch_carry import go_on, inside
    from launcher.cli.ends import stopping

    root = Path(arguments.directory).absolute()
    if arguments.next:
        session = go_on(root)
        print(f"the next job: {session.id}" if session is not None else "no next job")
        return 0

    async def carried() -> int:
        status = await inside(root, arguments.gateway, arguments.began, stopping())
        print(f"{status.state} {status.code}: {status.answered} of {status.total}, {status.failed} errors")
        return 0

    try:
        return asyncio.run(carried())
    except asyncio.CancelledError:  # asked twice: what was in flight is asked for again by the next one
        return 130


def _offer(arguments: argparse.Namespace) -> int:
    from launcher.ondemand.offer import offer

    print(json.dumps(offer(Launcher())))
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from launcher.ondemand.plan import plan

    print(json.dumps(plan(Launcher(), sys.stdin.read(), Path(arguments.directory).absolute())))
    return 0


def _ended(arguments: argparse.Namespace) -> int:
    from launcher.ondemand.card import settled

    print(settled(Path(arguments.directory).absolute()), end="")
    return 0
