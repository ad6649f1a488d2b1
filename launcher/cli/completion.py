"""`launcher completion`: what makes bash, zsh or fish complete commands, options, sessions, models and profiles.

Owns the three short scripts and the answer they ask for: the words that may stand where the cursor is, from the same
parsers that read the command line. It asks no scheduler, and an error means that nothing is offered.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher.cli.parser import ALIASES, INTERNAL, MODULES, parser
from launcher.errors import LauncherError, RequestError

EXAMPLES = """\
examples:
  echo 'eval "$(launcher completion bash)"' >> ~/.bashrc
  echo 'eval "$(launcher completion zsh)"' >> ~/.zshrc
  launcher completion fish > ~/.config/fish/completions/launcher.fish
"""
BASH = """\
# Completion of launcher for bash.
_launcher() {
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" completion words "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null)
}
complete -o default -F _launcher launcher
"""
ZSH = """\
#compdef launcher
# Completion of launcher for zsh.
_launcher() {
    local -a found
    found=("${(@f)$("${words[1]}" completion words $((CURRENT - 1)) "${words[@]}" 2>/dev/null)}")
    if [[ -n "${found[*]}" ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
if (( $+functions[compdef] )); then compdef _launcher launcher; fi
"""
FISH = """\
# Completion of launcher for fish.
function __launcher_words
    set -l line (commandline -opc) (commandline -ct)
    $line[1] completion words (math (count $line) - 1) $line 2>/dev/null
end
complete -c launcher -a '(__launcher_words)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
# What may stand for an option or an operand, by its destination or what the help calls it.
_KINDS = {
    "profile": "profiles", "environment": "environments", "cluster": "clusters", "session": "sessions",
    "sessions": "sessions", "record": "sessions", "operands": "models", "models": "models", "model": "models",
    "ID": "sessions", "MODEL": "models", "RUN": "runs",
}  # fmt: skip
# Nothing else is given to a shell.
_PLAIN = re.compile(r"[A-Za-z0-9_.-][A-Za-z0-9_./@+:,-]{0,199}")


def options(own: argparse.ArgumentParser) -> None:
    """Add them."""
    own.epilog = EXAMPLES
    own.usage = "%(prog)s {bash,zsh,fish}"
    own.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")
    own.add_argument("line", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Print the script, or for it the words that fit."""
    if arguments.shell == "words":
        place, *line = arguments.line or ["0"]
        for word in words(line, int(place)) if place.isdigit() else ():
            print(word)
        return 0
    if arguments.line:
        raise RequestError(
            f'"{arguments.line[0][:60]}" is one word too many.',
            f"Write only: launcher completion {arguments.shell[:60]}",
        )
    if arguments.shell not in SCRIPTS:
        raise RequestError(
            f'"{arguments.shell[:60]}" is no shell that can be helped.',
            f"Choose one of: {', '.join(SCRIPTS)}.",
        )
    print(SCRIPTS[arguments.shell], end="")
    return 0


def words(line: Sequence[str], place: int) -> list[str]:
    """The words that may stand at `place` of `line`, which begins with the program, and begin as what is there."""
    line = [*line, ""][: place + 1]
    current, before = line[-1] if place < len(line) else "", list(line[1:place])
    option, ahead = None, ""
    # bash divides --profile=gpu into three words, zsh and fish do not.
    if before and current == "=":
        option, current = before[-1], ""
    elif len(before) > 1 and before[-1] == "=":
        option, before = before[-2], before[:-2]
    elif current.startswith("--") and "=" in current:
        option, _, current = current.partition("=")
        ahead = f"{option}="
    try:
        found = _offered(before, current, option)
    except (LauncherError, OSError):
        found = []
    return sorted(
        f"{ahead}{word}" for word in {*found} if word.startswith(current) and _PLAIN.fullmatch(word)
    )


def _offered(before: list[str], current: str, option: str | None) -> Iterable[str]:
    while before[:1] == ["--cluster"] and len(before) > 1:
        before = before[2:]
    if before == ["--cluster"]:
        return _values("clusters")
    if not before:
        return [*(name for name in MODULES if name not in INTERNAL), *ALIASES, "--help", "--version"]
    command = ALIASES.get(before[0], before[0])
    if command in INTERNAL or command not in MODULES:
        return []
    own, rest = _innermost(parser(command), [command, *before[1:]])
    known = own._option_string_actions
    if option is None and rest and (action := known.get(rest[-1])) is not None and action.nargs is None:
        option = rest[-1]
    if option is not None:
        return _of(known[option]) if option in known else []
    if current.startswith("-"):
        return known
    return _operands(own, rest)


def _innermost(own: argparse.ArgumentParser, line: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of the last command in `line`, such as that of `config show`, and the words behind it."""
    for action in own._actions:
        if isinstance(action, argparse._SubParsersAction):
            for place, word in enumerate(line):
                if word in action.choices:
                    return _innermost(action.choices[word], line[place + 1 :])
    return own, line


def _operands(own: argparse.ArgumentParser, rest: list[str]) -> Iterable[str]:
    known, given, skip = own._option_string_actions, 0, False
    for word in rest:
        if skip or word.startswith("-"):
            skip = not skip and word in known and known[word].nargs is None
        else:
            given += 1
    places = [action for action in own._actions if not action.option_strings]
    if not places:
        return []
    action = places[min(given, len(places) - 1)]
    if given >= len(places) and action.nargs not in ("*", "+"):
        return []
    return [] if given and action.dest == "operands" and action is places[0] else _of(action)


def _of(action: argparse.Action) -> Iterable[str]:
    if action.choices is not None:
        return map(str, action.choices)
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    kind = _KINDS.get(action.dest) or _KINDS.get(metavar)
    return _values(kind) if kind else []


def _values(kind: str) -> Iterable[str]:
    from launcher.settings.layers import load

    settings = load()
    if kind == "sessions":
        from launcher.sessions.registry import entries

        return [paths.root.name for paths in entries(Path(settings.places.sessions))]
    if kind == "runs":
        from launcher.api.batch_runs import FOLDER

        return os.listdir(Path(settings.places.sessions) / FOLDER)
    if kind == "models":
        from launcher.models.near import known_names

        shown = [name for name, entry in settings.catalog.items() if not entry.hidden]
        return [*shown, *known_names(settings)]
    named: Iterable[str] = getattr(settings, kind)
    return named
