"""The commands, their options and their help with examples."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeAlias

from launcher.errors import RequestError, did_you_mean

# Any: argparse's class is invariant, and each module has a parser of the plain kind.
Commands: TypeAlias = "argparse._SubParsersAction[Any]"
_DESCRIPTION = (
    "Start a model as a job and use it: a page to chat or to transcribe, and an OpenAI-compatible endpoint "
    "with a private key."
)
_EXAMPLES = """\
examples:
  launcher launch tiny-chat                     start a session
  launcher launch org/model --profile gpu-small --hours 8 --wait
  launcher status                               all your sessions
  launcher stop tiny-chat-3f9a2c1b              the beginning of the id is enough

exit codes: 1 other, 2 a value you gave, 3 settings, 4 model, 5 scheduler, 6 session, 7 engine, 8 storage, 130 Ctrl-C
"""
_LAUNCH = """\
examples:
  launcher launch tiny-chat
  launcher launch org/model --profile gpu-small --hours 8 --wait
  launcher launch /shared/models/my-model --dry-run
  launcher launch org/model -- --max-model-len 16384      arguments after -- go to the engine
"""
_KEYS_NEW = """\
examples:
  launcher keys new tiny-chat-3f9a --name alice --expires 3d
  launcher keys new tiny-chat-3f9a --name course --requests-per-minute 60 --tokens-per-minute 20000
  key=$(launcher keys new tiny-chat-3f9a --name script)      standard output is the key alone
"""
# Commands with a module of their own, which has `options(parser)` and `run(arguments)`. It is only loaded when it is
# asked for: a hundred options that nobody looks at would slow every command down.
MODULES: dict[str, tuple[str, str]] = {
    "fit": ("launcher.cli.fit", "show whether a model fits on the hardware here, with the arithmetic"),
    "config": ("launcher.cli.config", "show the settings, check a file of them, or print their schema"),
    "models": ("launcher.cli.models", "list, download, check and remove models"),
    "resolve": ("launcher.cli.resolve", "show which copy of a model would be taken, and why"),
    "profiles": (
        "launcher.cli.where",
        "show the hardware one can ask for, what is idle, and when a job would start",
    ),
    "clusters": ("launcher.cli.where", "show the clusters: idle GPUs, cores, and what jobs wait for"),
    "transcribe": ("launcher.cli.transcribe", "transcribe recordings: files, folders, patterns"),
    "doctor": ("launcher.cli.doctor", "check what site.yml says against what is there; for a site's staff"),
}
# What the app's files and the job call; everything else is for people.
INTERNAL = ("serve", "offer", "plan", "ended")
_SESSION = "the id, the beginning of it, or the job's id"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One sentence and where to look, instead of the whole usage; argparse begins with "argument --hours: ".
        sentence = re.sub(r"^argument (\S+): ", r"\1 ", message)
        end = "" if sentence.endswith("?") else "."
        raise RequestError(f"{sentence[0].upper()}{sentence[1:]}{end}", f"See: {self.prog} --help")

    def parse_known_args(  # type: ignore[override] # its overloads only tell what `namespace` is made into
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        # What a command does not know is its own business: argparse would leave it to the parser of all commands.
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(self._unknown(rest[0]))
        return known, rest

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f'"{word[:80]}" is one word too many'
        option = word.partition("=")[0][:80]
        return f'unknown option "{option}"{_near(option, self._option_string_actions)}'

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        shown, names = str(value)[:80], [name for name in action.choices if name not in INTERNAL]
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, f'unknown command "{shown}"{_near(shown, names)}')
        raise argparse.ArgumentError(action, f'must be one of {", ".join(names)}, not "{shown}"')


def _near(word: str, known: Iterable[str]) -> str:
    return f". {near}" if (near := did_you_mean(word, known)) else ""


def number(text: str) -> float:
    """The number that an option was given, for argparse."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a number, not "{text[:80]}"') from None


def whole(text: str) -> int:
    """The whole number that an option was given."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a whole number, not "{text[:80]}"') from None


def parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; when the command is known, only with what `wanted` needs."""
    top = _Parser(
        prog="launcher",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    top.set_defaults(json=False, debug=False)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return add_command(commands, name, text, epilog)

    _launch(command("launch", "start a session of a model", _LAUNCH))

    status = command(
        "status", "show one session, or all", "example:\n  launcher status tiny-chat-3f9a --json"
    )
    status.add_argument("session", nargs="?", metavar="ID", help=_SESSION)
    status.add_argument("--all", action="store_true", help="also those that ended more than a day ago")

    wait = command(
        "wait", "wait until a session is ready", "example:\n  launcher wait tiny-chat-3f9a --timeout 600"
    )
    wait.add_argument("session", metavar="ID", help=_SESSION)
    wait.add_argument(
        "--timeout", type=number, metavar="S", help="seconds to wait once the job runs; the queue is free"
    )

    logs = command("logs", "show the end of a session's log", "example:\n  launcher logs tiny-chat-3f9a -f")
    logs.add_argument("session", metavar="ID", help=_SESSION)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the session ends")
    logs.add_argument(
        "-n", "--lines", type=whole, default=100, metavar="N", help="how many lines (default: 100)"
    )
    logs.add_argument(
        "--of", choices=("engine", "gateway", "page", "job"), default="engine", help="which log"
    )

    stop = command("stop", "end a session", "example:\n  launcher stop tiny-chat-3f9a")
    stop.add_argument("session", metavar="ID", help=_SESSION)
    stop.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")

    keys = command("keys", "make, list and revoke further keys of a session")
    _keys(keys.add_subparsers(dest="keys_command", metavar="COMMAND", required=True))

    for name, (module, text) in MODULES.items():
        own = command(name, text)
        if wanted in (None, name):
            importlib.import_module(module).options(own)

    serve = command("serve", "run a session; this is what its job calls")
    serve.add_argument("directory", metavar="DIRECTORY", help="the session's directory")
    command("offer", "print Open OnDemand's form; form.yml.erb calls this")
    plan = command(
        "plan", "plan Open OnDemand's session; submit.yml.erb calls this with the form on standard input"
    )
    plan.add_argument("directory", metavar="DIRECTORY", help="the staged directory")
    ended = command("ended", "print why Open OnDemand's session is over; completed.html.erb calls this")
    ended.add_argument("directory", metavar="DIRECTORY", help="the staged directory")
    return top


def add_command(
    commands: Commands, name: str, text: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Add one command, or a command's own command, with what all of them have."""
    found: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # SUPPRESS: a default of `show` would undo what stands before it in `launcher config --json show`.
    for option, does in (
        ("--json", "print one JSON object and nothing else"),
        ("--debug", "show the traceback of an error"),
    ):
        found.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=does)
    return found


def _keys(commands: Commands) -> None:
    new = add_command(commands, "new", "make a key and print it, this once", _KEYS_NEW)
    new.add_argument("session", metavar="ID", help=_SESSION)
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
    listed.add_argument("session", metavar="ID", help=_SESSION)
    revoke = add_command(
        commands, "revoke", "take a key away", "example:\n  launcher keys revoke tiny-chat-3f9a alice"
    )
    revoke.add_argument("session", metavar="ID", help=_SESSION)
    revoke.add_argument("name", metavar="NAME", help="what the key is called")


def _launch(launch: argparse.ArgumentParser) -> None:
    launch.usage = "%(prog)s [OPTION ...] MODEL [-- ENGINE_ARGUMENT ...]"
    launch.add_argument("model", metavar="MODEL", help="a catalog name, an id such as org/name, or a path")
    launch.add_argument("--profile", metavar="NAME", help="the hardware, by the site's name for it")
    launch.add_argument("--revision", metavar="R", help="branch, tag or commit of the model")
    launch.add_argument("--hours", type=number, metavar="H", help="how long it may run")
    launch.add_argument(
        "--idle-minutes", type=number, metavar="M", help="stop when unused for so long; 0: never"
    )
    launch.add_argument(
        "--name", metavar="NAME", help="a name for the session, seen by everybody in the queue"
    )
    launch.add_argument("--environment", metavar="NAME", help="where the engine's program comes from")
    launch.add_argument(
        "--max-model-len", type=whole, metavar="N", help="tokens of the longest request, answer included"
    )
    launch.add_argument(
        "--no-fit-check",
        dest="fit_check",
        action="store_false",
        help="start it even if it does not seem to fit; choose nothing",
    )
    launch.add_argument(
        "--no-page", action="store_true", help="no page to chat or transcribe, only the endpoint"
    )
    launch.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that comes with the model"
    )
    hardware = launch.add_argument_group("instead of what the profile says")
    for name, text in (
        ("partition", "Slurm's partition"),
        ("account", "the account to charge"),
        ("qos", "Slurm's quality of service"),
        ("constraint", "features that the nodes must have"),
        ("reservation", "a reservation to run in"),
        ("gpu-type", "the kind of GPU, by Slurm's name for it"),
    ):
        hardware.add_argument(f"--{name}", metavar="NAME", help=text)
    hardware.add_argument("--nodes", type=whole, metavar="N", help="how many nodes")
    hardware.add_argument("--gpus", type=whole, metavar="N", help="GPUs on each node")
    hardware.add_argument("--cpus", type=whole, metavar="N", help="cores on each node")
    hardware.add_argument("--memory-gb", type=number, metavar="GB", help="memory on each node")
    launch.add_argument("--wait", action="store_true", help="wait until it is ready")
    launch.add_argument("--dry-run", action="store_true", help="print the exact script and submit nothing")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        import launcher

        print(f"launcher {launcher.__version__}")
        parser.exit()
