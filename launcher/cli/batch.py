"""`launcher batch`: a file of requests in, a file of answers out; how far that is, going on, ending it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher
from launcher.cli.launch_options import add_some
from launcher.cli.parser import add_command, whole
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError, RequestError

if TYPE_CHECKING:
    from launcher.api.batch_runs import BatchRun
    from launcher.batch.report import Status
    from launcher.cli.bars import Bars

EXAMPLES = """\
examples:
  launcher batch run requests.jsonl                      a job of its own with the model that the lines name
  launcher batch run requests.jsonl -o answers.jsonl --model org/model --profile gpu-small --hours 8 --detach
  launcher batch run requests.jsonl --model org/model -- --max-num-seqs 64      what stands after -- goes to the engine
  launcher batch run requests.jsonl --session tiny-chat-3f9a2c1b
  launcher batch run requests.jsonl --url https://host/v1 --key-file ~/.key
  launcher batch status requests.jsonl
  launcher batch resume requests.jsonl

A line is OpenAI's: {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": …}}
Whatever is killed, the same command, or resume, goes on: each custom_id is answered exactly once.
"""
_ALL = """\
examples:
  launcher batch run requests.jsonl                      a file of requests, by a job of its own
  launcher batch chat --prompt-file p.txt --input-dir letters -o answers --session tiny-chat-3f9a2c1b
  launcher batch status requests.jsonl
"""
_RUN = "the run's id, the beginning of it, or its input or output"
LAUNCH = (
    "profile", "revision", "hours", "time", "environment", "partition", "account", "qos", "constraint", "reservation",
    "gpu_type", "gpus", "cpus", "memory_gb", "max_model_len", "name",
)  # fmt: skip


def options(parser: argparse.ArgumentParser) -> None:
    """Add its commands."""
    from launcher.cli import batch_chat

    parser.epilog = _ALL
    commands = parser.add_subparsers(dest="batch_command", metavar="COMMAND", required=True)
    run = add_command(commands, "run", "answer the requests of a file", EXAMPLES)
    run.add_argument(
        "input", metavar="INPUT.jsonl", help="the requests, one JSON object a line, as OpenAI has them"
    )
    run.add_argument(
        "-o", "--output", metavar="OUT", help="where the answers go (default: INPUT.answers.jsonl)"
    )
    add_sending(run, model="for a job of its own (default: the one that the first line names)")
    run.add_argument(
        "--endpoint", metavar="URL", help="refuse lines with another url, such as /v1/embeddings"
    )
    run.add_argument("--strict", action="store_true", help="send nothing where any line is wrong")
    batch_chat.options(commands)
    for name, text in (
        ("status", "show how far a run is"),
        ("resume", "go on with a run that was broken off"),
        ("cancel", "end a run; what is answered stays"),
    ):
        own = add_command(commands, name, text, f"example:\n  launcher batch {name} requests.jsonl")
        own.add_argument("run", metavar="RUN", help=_RUN)
        if name == "resume":
            own.add_argument("--session", metavar="ID", help="with this session instead")
            own.add_argument("--url", metavar="URL", help="with this address instead")
            add_following(own)
    add_command(commands, "ls", "list all runs", "example:\n  launcher batch ls --json")
    rm = add_command(
        commands, "rm", "forget runs; their answers and error files stay where they are",
        "examples:\n  launcher batch rm requests.jsonl\n  launcher batch rm --older-than 30d",
    )  # fmt: skip
    rm.add_argument("run", nargs="*", metavar="RUN", help=_RUN)
    rm.add_argument(
        "--older-than", metavar="SPAN", help="all that have not gone on for so long: 12h, 30d, 2w"
    )


def add_sending(parser: argparse.ArgumentParser, *, model: str) -> None:
    """Give `parser` what answers, and how it is asked; `model` is the help of --model."""
    parser.add_argument("--model", metavar="M", help=model)
    parser.add_argument("--session", metavar="ID", help="ask this session of yours instead")
    parser.add_argument("--url", metavar="URL", help="ask this address instead")
    parser.add_argument(
        "--window", type=whole, metavar="N", default=None, help="requests in flight (default: 256)"
    )
    parser.add_argument(
        "--retries", type=whole, metavar="N", default=None,
        help="how often a request is tried again after an answer 500, 504, 408, 409 or 425 (default: 5); 429, 502, 503"
        " and lost connections are waited out for as long as the session lives",
    )  # fmt: skip
    add_following(parser)
    add_some(parser.add_argument_group("for a job of its own, as for launcher launch"), LAUNCH)


def add_following(parser: argparse.ArgumentParser) -> None:
    """Give `parser` what happens once it runs."""
    parser.add_argument(
        "--key-file", metavar="FILE", help="the key for --url (default: LAUNCHER_API_KEY or OPENAI_API_KEY)"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--wait", action="store_true", help="stay until it is over (the default)")
    either.add_argument("--detach", action="store_true", help="submit its job and leave")


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    if arguments.batch_command == "chat":
        from launcher.cli import batch_chat

        return batch_chat.run(arguments)
    launcher = Launcher()
    if arguments.batch_command == "run":
        return carried(_begun(launcher, arguments), arguments)
    if arguments.batch_command == "ls":
        return _list(launcher, arguments.json)
    if arguments.batch_command == "rm":
        return _remove(launcher, arguments)
    from launcher.api.batch_runs import find

    batch = find(launcher, arguments.run)
    if arguments.batch_command == "status":
        return _shown(batch, batch.status(), arguments.json)
    if arguments.batch_command == "cancel":
        return _shown(batch, batch.cancel(), arguments.json)
    if arguments.session or arguments.url:
        batch.answered_by(session=arguments.session, url=arguments.url)
    return carried(batch, arguments)


def sending(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_sending` has asked, for `launcher.api.batch_runs.begin`."""
    names = ("model", "session", "url", "window", "retries", *LAUNCH)
    said = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return {**said, "engine_args": tuple(arguments.engine_args)} if arguments.engine_args else said


def _begun(launcher: Launcher, arguments: argparse.Namespace) -> BatchRun:
    from launcher.api.batch_runs import begin

    return begin(
        launcher, arguments.input, arguments.output,
        endpoint=arguments.endpoint, strict=arguments.strict, **sending(arguments),
    )  # fmt: skip


def carried(batch: BatchRun, arguments: argparse.Namespace) -> int:
    """Carry `batch` from here, or have its job carry it, and say what came of it."""
    from launcher.api import batch_carry
    from launcher.batch.report import OVER
    from launcher.cli.bars import Bars

    bars = Bars(quiet=arguments.json)
    means = batch.means
    if not means.own:
        if arguments.detach:
            raise RequestError(
                "Only a job of its own goes on by itself.", "Leave out --detach, or name --model."
            )
        told: list[int] = []
        try:
            status = asyncio.run(_carried(batch, batch_carry.key_of(arguments.key_file), bars, told))
        except asyncio.CancelledError:  # asked twice
            bars.say(f"Broken off. Go on with: launcher batch resume {batch.id}")
            raise KeyboardInterrupt from None
        finally:
            bars.end()
        code = ended(batch, status, bars, as_json=arguments.json)
        return 130 if signal.SIGINT in told and status.state not in OVER else code
    _started(batch, bars)
    if arguments.detach:
        if not arguments.json:
            print(
                f"\nFollow it:  launcher batch status {batch.id}\nEnd it:     launcher batch cancel {batch.id}"
            )
            return 0
        return print_json(described(batch, batch.status()))
    try:
        status = batch_carry.follow(batch, show=lambda now: draw(bars, now), tell=bars.say)
    except KeyboardInterrupt:
        bars.end()
        bars.say(f"The run goes on in its job. End it with: launcher batch cancel {batch.id}")
        raise
    finally:
        bars.end()
    return ended(batch, status, bars, as_json=arguments.json)


async def _carried(batch: BatchRun, key: str | None, bars: Bars, told: list[int]) -> Status:
    from launcher.api.batch_carry import carry
    from launcher.cli.ends import stopping

    return await carry(batch, key=key, stop=stopping(told), show=lambda now: draw(bars, now))


def _started(batch: BatchRun, bars: Bars) -> None:
    from launcher.api.batch_carry import begun

    done = begun(batch)
    if done.faults:
        lines = "line is" if done.faults == 1 else "lines are"
        bars.say(f"{done.faults} {lines} wrong: see {batch.spec.errors}")
    if done.session is not None:
        what = f"is started for {done.left} requests" if done.new else "carries it already"
        bars.say(f"Session {done.session.id} {what}.")


def ended(batch: BatchRun, status: Status, bars: Bars, *, as_json: bool) -> int:
    """Say what came of a run; 0 when every line is answered."""
    from launcher.batch.report import COMPLETED, OVER, cost, first_error

    code = 0 if status.state == COMPLETED and not status.failed else LauncherError.exit_code
    if as_json:
        print_json(described(batch, status))
        return code
    print(cost(status))
    if status.answered:
        texts = batch.texts
        print(f"Answers: {one_line(batch.spec.output if texts is None else texts.target)}")
    if status.failed:
        print(f"Errors:  {one_line(batch.spec.errors)}")
        if first := first_error(batch.spec.errors):
            print(f"First:   {one_line(first)}")
    if status.state not in OVER:
        bars.say(f"{status.message} Go on with: launcher batch resume {batch.id}")
    elif status.message:
        bars.say(status.message)
    return code


def described(batch: BatchRun, status: Status) -> dict[str, Any]:
    """A run for JSON."""
    spec = batch.spec
    return {
        "id": batch.id, "input": spec.input, "output": spec.output, "errors": spec.errors, "window": spec.window,
        **status.to_dict(), "sessions": batch.sessions,
    }  # fmt: skip


def _shown(batch: BatchRun, status: Status, as_json: bool) -> int:
    from launcher.batch.report import cost
    from launcher.sessions.clock import clock

    if as_json:
        return print_json(described(batch, status))
    rows = [
        ("Run", batch.id), ("State", status.state), ("", status.message), ("Done", cost(status)),
        ("Rate", f"{status.rate:.1f} a second, {clock(status.left_s)} left" if status.left_s is not None else ""),
        ("Session", status.session or ""), ("Input", batch.spec.input), ("Answers", batch.spec.output),
        ("Errors", batch.spec.errors if status.failed else ""),
    ]  # fmt: skip
    print(table([row for row in rows if row[1]], head=["Batch run", ""]))
    return 0


def _list(launcher: Launcher, as_json: bool) -> int:
    from launcher.api.batch_runs import every

    found = [(batch, batch.status()) for batch in every(launcher)]
    if as_json:
        return print_json({"runs": [described(batch, status) for batch, status in found]})
    if not found:
        print("There is no batch run. Begin one with: launcher batch run FILE", file=sys.stderr)
        return 0
    rows = [
        [
            batch.id,
            s.state,
            str(s.total),
            str(s.answered),
            str(s.failed),
            s.session or "",
            _near(batch.spec.output),
        ]
        for batch, s in found
    ]
    print(table(rows, head=["Run", "State", "Lines", "Answered", "Errors", "Session", "Answers"]))
    return 0


def _near(path: str) -> str:
    """`path` as it is called from here, where it is below the current folder."""
    inside = os.path.relpath(path)
    return path if inside.startswith(os.pardir) else inside


def draw(bars: Bars, status: Status) -> None:
    """Draw how far a run is: its share, pace, tokens and what is left, and what it waits for."""
    from launcher.batch.report import RUNNING
    from launcher.sessions.clock import clock

    def lines(blocks: str) -> list[str]:
        share = status.done / status.total if status.total else 0.0
        full = int(share * 30)
        said = [f"{status.done} of {status.total}", f"{status.rate:.1f}/s"]
        if status.completion_tokens and status.seconds > 0:
            said.append(f"{status.completion_tokens / status.seconds:.0f} tokens/s")
        if status.failed:
            said.append(f"{status.failed} errors")
        if status.left_s is not None:
            said.append(f"{clock(status.left_s)} left")
        bar = f"{blocks[0] * full}{blocks[1] * (30 - full)} {', '.join(said)}"
        return [bar, one_line(status.message)] if status.message else [bar]

    bars.draw(lines)
    if status.state == RUNNING and status.message:  # nothing comes back; a job that waits has said so
        bars.notice(status.message)


def _remove(launcher: Launcher, arguments: argparse.Namespace) -> int:
    from launcher.api.batch_removal import chosen, remove

    runs = chosen(launcher, arguments.run, arguments.older_than)
    outputs = {one.id: one.spec.output for one in runs}
    gone = remove(launcher, runs)
    if arguments.json:
        return print_json({"removed": gone, "kept": [name for name in outputs if name not in gone]})
    for name, output in outputs.items():
        told = f"is forgotten. Its answers stay: {one_line(output)}" if name in gone else "goes on again."
        print(f"{name} {told}")
    if not runs:
        print("There is nothing to remove.")
    return 0
