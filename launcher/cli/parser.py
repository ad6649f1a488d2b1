"""The commands, their options and their help with examples."""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
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
  launcher --cluster della status               the same on another cluster, over ssh

exit codes: 1 other, 2 a value you gave, 3 settings, 4 model, 5 scheduler, 6 session, 7 engine, 8 storage, 130 Ctrl-C
"""
# Each command is a module with `options(parser)` and `run(arguments)`. It is only loaded when it is asked for: a
# hundred options that nobody looks at would slow every command down.
MODULES: dict[str, tuple[str, str]] = {
    "launch": ("launcher.cli.launch", "start a session of a model"),
    "batch-launch": ("launcher.cli.batch_launch", "start several sessions as one job, all or none"),
    "run": ("launcher.cli.run", "start a session as Blackfish's users do: run text-generation MODEL"),
    "status": ("launcher.cli.status", "show one session, or all"),
    "wait": ("launcher.cli.wait", "wait until a session is ready"),
    "connect": (
        "launcher.cli.connect",
        "give a session an address on this machine, through ssh where needed",
    ),
    "logs": ("launcher.cli.logs", "show the end of a session's log"),
    "metrics": ("launcher.cli.metrics", "show what a session does now: tokens a second, requests, caches"),
    "top": ("launcher.cli.top", "watch all your sessions on the whole screen; stop them, open their logs"),
    "stop": ("launcher.cli.stop", "end a session"),
    "details": ("launcher.cli.details", "show everything that is known of a session"),
    "list": ("launcher.cli.catalog", "list the models that the site offers, or what a session of one gets"),
    "cleanup": ("launcher.cli.cleanup", "remove the files of sessions that are over"),
    "record": ("launcher.cli.record", "show what a session ran on, or say it in words for a paper"),
    "rerun": ("launcher.cli.rerun", "start the same session again from its record, and say what differs"),
    "keys": ("launcher.cli.keys", "make, list and revoke further keys of a session, or keys of the endpoint"),
    "auth": ("launcher.cli.auth", "get ready to use an endpoint, and print your key for it"),
    "usage": ("launcher.cli.usage", "show what was used at the endpoint in a month"),
    "ls-endpoints": ("launcher.cli.ask", "list the models of the endpoint and their states"),
    "ls-jobs": ("launcher.cli.ask", "list the jobs of the endpoint's models"),
    "chat": ("launcher.cli.ask", "ask a model of the endpoint"),
    "gateway": (
        "launcher.cli.gateway",
        "run one address for all your sessions, which starts the models that are asked for",
    ),
    "transcribe": ("launcher.cli.transcribe", "transcribe recordings: files, folders, patterns"),
    "batch": ("launcher.cli.batch", "answer a file of requests, each exactly once; go on after any kill"),
    "models": ("launcher.cli.models", "list, download, check and remove models"),
    "resolve": ("launcher.cli.resolve", "show which copy of a model would be taken, and why"),
    "fit": ("launcher.cli.fit", "show whether a model fits on the hardware here, with the arithmetic"),
    "profiles": (
        "launcher.cli.where",
        "show the hardware one can ask for, what is idle, and when a job would start",
    ),
    "clusters": (
        "launcher.cli.where",
        "show the clusters: idle GPUs, cores, and what jobs wait for; set up one to be used over ssh",
    ),
    "files": ("launcher.cli.files", "list, fetch, send and show files of a cluster that is used over ssh"),
    "environments": (
        "launcher.cli.environments",
        "show where the engines' programs come from, and whether they are there",
    ),
    "config": ("launcher.cli.config", "show the settings, check a file of them, or print their schema"),
    "completion": (
        "launcher.cli.completion",
        "print what makes a shell complete commands, options and names",
    ),
    "doctor": ("launcher.cli.doctor", "check what site.yml says against what is there; for a site's staff"),
    "connection": (
        "launcher.cli.connection",
        "tell launcher connect, on another machine, where a session is",
    ),
    "serve": ("launcher.cli.internal", "run a session; this is what its job calls"),
    "rank": ("launcher.cli.internal", "run a model's part on another node; a session of several calls this"),
    "offer": ("launcher.cli.internal", "print Open OnDemand's form; form.yml.erb calls this"),
    "plan": (
        "launcher.cli.internal",
        "plan Open OnDemand's session; submit.yml.erb calls this with the form on standard input",
    ),
    "carry-batch": ("launcher.cli.internal", "send the batch run of a session; its job calls this"),
    "ended": (
        "launcher.cli.internal",
        "print why Open OnDemand's session is over; completed.html.erb calls this",
    ),
    "over-ssh": (
        "launcher.cli.over_ssh",
        "answer the launcher of another machine, which calls this over ssh",
    ),
}
# Other words for a command, for those who come from vec-inf and Blackfish, or try what other programs know.
ALIASES = {
    "version": "--version",
    "shutdown": "stop",
    "ls": "status",
    "model": "models",
    "rm": "cleanup",
    "prune": "cleanup",
    "image": "environments",
}
# What the app's files and the job call; everything else is for people.
INTERNAL = ("serve", "rank", "offer", "plan", "carry-batch", "ended", "over-ssh", "connection")
# Commands that take whatever stands behind `--` as it is, in `engine_args`, and what that is.
AFTER_DASHES = {
    **dict.fromkeys(("launch", "run", "fit", "batch"), "ENGINE_ARGUMENT"),
    **dict.fromkeys(("connect", "over-ssh"), "COMMAND"),
}
# One switch; the second is vec-inf's name for it.
JSON_OPTIONS = ("--json", "--json-mode")
SESSION = "the id, the beginning of it, or the job's id"
# What argparse says, in words that say what to do.
_SAID = (
    (r"^(\S+) expected one argument$", r"\1 needs a value"),
    (r"^(\S+) ignored explicit argument '(.*)'$", r'\1 takes no value, such as "\2"'),
    (r"^(\S+) not allowed with argument ", r"\1 is not allowed with "),
)


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **more: Any) -> None:
        # argparse asks shutil, which loads all of Python's archives, and asks it for every command's usage.
        more.setdefault("width", _terminal_columns() - 2)
        super().__init__(prog, **more)


def _terminal_columns() -> int:
    """As shutil.get_terminal_size: what COLUMNS says, else the terminal, else 80."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One sentence and where to look, instead of the whole usage; argparse begins with "argument --hours: ".
        of = re.fullmatch(r"argument ([^\s/]+)\S*: (.*)", message, re.DOTALL)
        sentence = f"{of[1]} {of[2]}" if of else f"{message[0].upper()}{message[1:]}"
        for theirs, ours in _SAID:
            sentence = re.sub(theirs, ours, sentence)
        end = "" if sentence.endswith("?") else "."
        raise RequestError(f"{sentence}{end}", f"See: {self.prog} --help")

    def parse_known_args(  # type: ignore[override] # its overloads only tell what `namespace` is made into
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        # What a command does not know is its own business: argparse would leave it to the parser of all commands.
        passed: tuple[str, ...] = ()
        first = args[0].partition("=")[0] if args and self.prog == "launcher" else ""
        if first.startswith("-") and first not in self._option_string_actions:
            self.error(self._unknown(first))  # before a COMMAND is missed: launcher --hlep
        if args is not None and any(action.nargs in ("*", "+") for action in self._get_positional_actions()):
            args, passed = self._divided(args)
        known, rest = super().parse_known_args(args, namespace)
        if passed:
            known.engine_args = passed
        if rest:
            self.error(self._unknown(rest[0]))
        return known, rest

    def _divided(self, words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
        # argparse takes operands that options stand between for one word too many.
        from launcher.cli.words import UnknownOptionError, divided

        try:
            return divided(words, self, engine=self.get_default("engine_args") is not None)
        except argparse.ArgumentError as error:
            self.error(str(error))
        except UnknownOptionError as error:
            near = f". {error.near}" if error.near else ""
            self.error(f'unknown option "{error.option[:80]}"{near}')

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            behind = AFTER_DASHES.get(self.prog.rpartition(" ")[2]) == "COMMAND"
            hint = ". A command stands behind two dashes: launcher connect ID -- COMMAND" if behind else ""
            return f'"{word[:80]}" is one word too many{hint}'
        option = word.partition("=")[0][:80]
        if option in (*JSON_OPTIONS, "--debug"):  # all commands have them
            return f"{option} stands behind the command, as in: launcher status {option}"
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


def from_zero(read: Callable[[str], float]) -> Callable[[str], float]:
    """`number` or `whole`, where one below zero means nothing."""

    def checked(text: str) -> float:
        if not (found := read(text)) >= 0:  # also not a number
            raise argparse.ArgumentTypeError(f'must be 0 or more, not "{text[:80]}"')
        return found

    return checked


def parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; when the command is known, only with what `wanted` needs."""
    # Our sentences are English, and gettext would look for each of argparse's words in four folders that are not there.
    vars(argparse)["_"] = str
    top = _Parser(
        prog="launcher",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    # Taken off before anything is parsed (launcher.cli.cluster); here for --help.
    top.add_argument(
        "--cluster",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="run the command on that cluster, over ssh",
    )
    top.set_defaults(json=False, debug=False)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    for name, (module, text) in MODULES.items():
        if wanted in MODULES and name != wanted:
            continue
        own = add_command(commands, name, text)
        if wanted in (None, name):
            importlib.import_module(module).options(own)
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
        formatter_class=_Help,
    )
    # SUPPRESS: a default of `show` would undo what stands before it in `launcher config --json show`.
    for words, does in (
        (JSON_OPTIONS, "print one JSON object and nothing else"),
        (("--debug",), "show the traceback of an error"),
    ):
        found.add_argument(*words, action="store_true", default=argparse.SUPPRESS, help=does)
    return found


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        import launcher

        print(f"launcher {launcher.__version__}")
        parser.exit()
