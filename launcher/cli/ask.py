"""`launcher ls-endpoints`, `ls-jobs` and `chat`: the endpoint from a shell, in FIRST's words."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher
from launcher.cli.parser import from_zero, number, whole
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import RequestError
from launcher.sessions.clock import moment

if TYPE_CHECKING:
    from launcher.fleet.client import Client

_CHAT = """\
examples:
  launcher chat --model big "Why is the sky blue?"
  launcher chat --model big --stream --temp 0.2 --max-tokens 400 < question.txt
"""
_TEXT_BYTES = 16 * 2**20


def options(parser: argparse.ArgumentParser) -> None:
    """Add those of the command that `parser` is of."""
    command = parser.prog.rpartition(" ")[2]
    if command == "ls-endpoints":
        parser.epilog = "example:\n  launcher ls-endpoints"
    elif command == "ls-jobs":
        parser.epilog = "examples:\n  launcher ls-jobs\n  launcher ls-jobs CLUSTER --json"
        parser.add_argument("cluster", metavar="CLUSTER", nargs="?", help="only those of this cluster")
    else:
        parser.epilog = _CHAT
        parser.add_argument("text", metavar="TEXT", nargs="?", help="the question (default: standard input)")
        parser.add_argument("--model", metavar="NAME", required=True, help="as launcher ls-endpoints has it")
        parser.add_argument("--system", metavar="TEXT", help="what the model is told before")
        parser.add_argument("--stream", action="store_true", help="print the answer as it is made")
        parser.add_argument(
            "--temp", "--temperature", dest="temp", type=from_zero(number), metavar="T", help="temperature"
        )
        parser.add_argument("--max-tokens", type=whole, metavar="N", help="the longest answer, in tokens")
        parser.add_argument(
            "--no-wait", action="store_true", help="do not wait for a model that must be started first"
        )


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    client = _client()
    match arguments.command:
        case "ls-endpoints":
            return _endpoints(client, as_json=arguments.json)
        case "ls-jobs":
            return _jobs(client, arguments.cluster, as_json=arguments.json)
        case _:
            return _chat(client, arguments)


def _client() -> Client:
    from launcher.fleet.client import Client
    from launcher.fleet.ticket import address, token

    settings = Launcher().settings
    ticket = token(settings)
    return Client(address(settings, ticket), ticket.key)


def _endpoints(client: Client, *, as_json: bool) -> int:
    if as_json:
        return print_json(client.get("/list-endpoints"))
    models = client.get("/status")["models"]
    if not models:
        print("There is no model that you may use. Whoever runs the endpoint names them in its settings.")
        return 0
    rows = [
        [
            one["name"],
            one["state"],
            ", ".join(one["clusters"]),
            one["framework"],
            str(len(one["replicas"]) or ""),
            str(one["waiting"] or ""),
            one["message"],
        ]
        for one in models
    ]
    print(f"Base URL: {one_line(client.url)}")
    head = ["Model", "State", "Cluster", "Engine", "Replicas", "Waiting", "Says"]
    print(table(rows, head=head, yielding=["Says", "Waiting", "Replicas"]))
    return 0


def _jobs(client: Client, cluster: str | None, *, as_json: bool) -> int:
    from urllib.parse import quote

    clusters = [cluster] if cluster is not None else list(client.get("/list-endpoints")["clusters"])
    found: dict[str, list[Any]] = {}
    for name in clusters:
        for kind, jobs in client.get(f"/{quote(name, safe='')}/jobs").items():
            if isinstance(jobs, list):
                found.setdefault(kind, []).extend(jobs)
    if as_json:
        return print_json(found)
    rows = [
        [
            kind,
            str(job.get("Models") or ""),
            str(job.get("Cluster") or ""),
            str(job.get("Job ID") or ""),
            str(job.get("Model Status") or ""),
            moment(job.get("Ends At"), seconds=False),
        ]
        for kind, jobs in found.items()
        for job in jobs
    ]
    if not rows:
        print("No jobs.")
        return 0
    print(table(rows, head=["Kind", "Model", "Cluster", "Job", "State", "Ends"], yielding=["Ends"]))
    return 0


def _chat(client: Client, arguments: argparse.Namespace) -> int:
    text = arguments.text if arguments.text is not None else _typed()
    if not text.strip():
        raise RequestError(
            "There is no question.", 'Write it behind the options, as in: launcher chat --model NAME "…"'
        )
    messages = [{"role": "user", "content": text}]
    if arguments.system is not None:
        messages.insert(0, {"role": "system", "content": arguments.system})
    stream = arguments.stream and not arguments.json
    chosen = {"temperature": arguments.temp, "max_tokens": arguments.max_tokens, "stream": stream or None}
    body = {
        "model": arguments.model,
        "messages": messages,
        **{name: value for name, value in chosen.items() if value is not None},
    }
    said: list[str] = []

    def tell(sentence: str) -> None:
        if sentence not in said[-1:]:
            said.append(sentence)
            print(one_line(sentence), file=sys.stderr, flush=True)

    answer: list[str] = []
    plain = sys.stdout.isatty()
    try:
        for piece in client.chat(body, wait=not arguments.no_wait, tell=tell):
            answer.append(piece)
            if not arguments.json:
                sys.stdout.write(_harmless(piece) if plain else piece)
                sys.stdout.flush()
    except KeyboardInterrupt:
        if said and not answer:
            print("The model goes on starting; it ends when nobody uses it.", file=sys.stderr)
        raise
    if arguments.json:
        return print_json({"model": arguments.model, "answer": "".join(answer)})
    print()
    return 0


def _typed() -> str:
    """What comes on standard input; nothing where that is closed."""
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        print("Type the question; Ctrl-D ends it.", file=sys.stderr)
    given = sys.stdin.buffer.read(_TEXT_BYTES + 1)
    if len(given) > _TEXT_BYTES:
        raise RequestError(f"The question is longer than {_TEXT_BYTES >> 20} MB.", "Ask about a part of it.")
    return given.decode("utf-8", "replace")


def _harmless(text: str) -> str:
    """Without what a terminal would obey: a model can write anything."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
