"""Write the parts of docs/ that the code already knows: `scripts/docs.py`, or with `--check` only compare.

Owns four things: the commands in docs/cli.md, the settings in docs/site.md, the reasons in docs/states.md, each between
two comments in its file, the rest of which is written by hand; and the JSON Schema of site.yml, a file of its own.
`tests/unit/test_docs.py` fails when one is old.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from launcher.cli.parser import AFTER_DASHES, INTERNAL, parser
from launcher.engines import causes as known
from launcher.sessions import state
from launcher.sessions.status import ENDINGS
from launcher.settings.explained import BLOCK_SAYS, LOCKS_SAY, SAYS
from launcher.settings.json_schema import json_schema
from launcher.settings.schema import BLOCKS, NAMED, UNBOUNDED

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- made by scripts/docs.py: {} -->", "<!-- end of what scripts/docs.py makes -->"

_TYPES = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
# Commands whose operands are more than one word says, and one that takes all that another one takes.
_OPERANDS = {"launch": "MODEL [KEY=VALUE …]", "run": "TASK MODEL [KEY=VALUE …]", "batch-launch": "[MODEL …]"}
_AS = {"run": "launch"}


def commands() -> str:
    """Every command with its arguments, options and examples."""
    top = parser()
    found = _below(top)
    people = {name: (says, of) for name, (says, of) in found.items() if name not in INTERNAL}
    listed = [(f"[`{n}`](#launcher-{n.replace(' ', '-')})", says) for n, (says, _) in people.items()]
    parts = [
        str(top.description),
        _table(["Command", "What it does"], listed),
        f"```text\n{(top.epilog or '').strip()}\n```",
    ]
    parts += [
        _command(name, of, as_=(_AS[name], people[_AS[name]][1]) if name in _AS else None)
        for name, (_, of) in people.items()
    ]
    parts.append(
        "## What the app and the job call\n\nNobody types these; they are listed for those who read logs."
    )
    parts.append(_table(["Command", "What it does"], [(f"`launcher {n}`", found[n][0]) for n in INTERNAL]))
    return "\n\n".join(parts)


def command_names() -> set[str]:
    """All commands, such as `launch` and `keys new`."""
    return {*_below(parser())}


def _below(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """The commands of `parser`, those of commands too (`keys new`), with what each does."""
    found: dict[str, tuple[str, argparse.ArgumentParser]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            says = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, of in action.choices.items():
                below = {f"{name} {inner}": command for inner, command in _below(of).items()}
                if not below or not _needs_another(of):
                    found[name] = (says[name], of)
                found |= below
    return found


def _needs_another(command: argparse.ArgumentParser) -> bool:
    """Whether `command` is nothing without a command of its own (`keys`), or does something by itself (`clusters`)."""
    return any(isinstance(a, argparse._SubParsersAction) and a.required for a in command._actions)


def _command(
    name: str, command: argparse.ArgumentParser, as_: tuple[str, argparse.ArgumentParser] | None = None
) -> str:
    shown = [a for a in command._actions if a.help != argparse.SUPPRESS and a.dest != "help"]
    operands = [a for a in shown if not a.option_strings and not isinstance(a, argparse._SubParsersAction)]
    options = [a for a in shown if a.option_strings]
    words = [f"{a.option_strings[0]} {a.metavar or ''}".rstrip() for a in options if a.required]
    words += [_OPERANDS[name]] if name in _OPERANDS else [_operand(a) for a in operands]
    if name in AFTER_DASHES:
        words.append(f"[-- {AFTER_DASHES[name]} …]")
    more = ""
    if as_ is not None:
        theirs = {tuple(a.option_strings) for a in as_[1]._actions}
        options = [a for a in options if tuple(a.option_strings) not in theirs]
        more = f"\n\nIt also takes all options of [launcher {as_[0]}](#launcher-{as_[0]})."
    rows = [(f"`{a.metavar}`", a.help or "") for a in operands] + [
        (_option(a), a.help or "") for a in options
    ]
    example = f"\n\n```text\n{command.epilog.strip()}\n```" if command.epilog else ""
    usage = " ".join(["launcher", *name.split(), "[OPTION …]", *words])
    return (
        f"## launcher {name}\n\n{command.description}\n\n```text\n{usage}\n```\n\n"
        f"{_table(['Argument', 'What it means'], rows)}{more}{example}"
    )


def _operand(action: argparse.Action) -> str:
    forms = {"?": "[{}]", "*": "[{} …]", "+": "{} …"}
    return forms.get(str(action.nargs), "{}").format(action.metavar)


def _option(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        value = f" {action.metavar or '|'.join(map(str, action.choices or ()))}"
    return f"`{', '.join(action.option_strings)}{value}`"


def settings() -> str:
    """Every key of the site file with its type and default."""
    defaults = yaml.safe_load(resources.files("launcher.settings").joinpath("defaults.yml").read_text())
    parts = []
    for block, type_ in (BLOCKS | NAMED).items():
        named = block in NAMED
        rows = []
        for field in dataclasses.fields(type_):
            if named and field.name == "name":
                continue
            default = _default(field) if named else _yaml(defaults[block][field.name])
            hint = typing.get_type_hints(type_)[field.name]
            rows.append(
                (
                    f"`{field.name}`",
                    _type(hint, field.metadata),
                    default,
                    SAYS[f"{block}.{field.name}"],
                )
            )
        parts.append(
            f"### {block}\n\n{BLOCK_SAYS[block]}\n\n{_table(['Key', 'Type', 'Default', 'Meaning'], rows)}"
        )
    lock = _table(["Key", "Type", "Default", "Meaning"], [("`locks`", "list of texts", "`[]`", LOCKS_SAY)])
    return "\n\n".join([*parts, f"### locks\n\n{lock}"])


def _type(hint: Any, metadata: Mapping[str, Any]) -> str:
    if choices := metadata.get("choices"):
        listed = " or ".join(f"`{choice}`" for choice in choices)
        return f"list of {listed}" if typing.get_origin(hint) is tuple else listed
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return f"list of {'paths' if 'path' in metadata else 'plain words' if 'pattern' in metadata else 'texts'}"
    if typing.get_origin(hint) is not None:
        return "block of fields" if typing.get_args(hint)[1] is object else "block of texts"
    bounds = f", at least {metadata['minimum']}" if "minimum" in metadata else ""
    if metadata.get("maximum", UNBOUNDED) != UNBOUNDED:
        bounds = f", {metadata['minimum']} to {metadata['maximum']}"
    if "path" in metadata:
        return "path"
    return f"{'plain word' if 'pattern' in metadata else _TYPES[hint]}{bounds}"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _yaml(list(field.default) if isinstance(field.default, tuple) else field.default)
    return "needed" if field.default_factory is dataclasses.MISSING else "empty"


def _yaml(value: object) -> str:
    if value is None or value in ("", []):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def endings() -> str:
    """The reasons that `launcher.sessions.status` knows."""
    rows = [(f"`{reason}`", s, message, hint or "–") for reason, (s, message, hint) in ENDINGS.items()]
    return _table(["Reason", "State", "What you read", "What to do"], rows)


def causes(whose: str, opening: str) -> str:
    """The causes that the log of `whose` tells: those of one reason below each other."""
    mine = [cause for cause in known.causes() if whose in cause.of]
    order = {cause.reason: place for place, cause in reversed(list(enumerate(mine)))}
    rows = [
        (f"`{cause.reason}`", _sentence(cause.says), _sentence(cause.hint), _sentence(cause.form or "–"))
        for cause in sorted(mine, key=lambda cause: order[cause.reason])
    ]
    return _table(["Reason", opening, "What to do", "In the form"], rows)


def _sentence(text: str) -> str:
    return re.sub(r"\{\w+\}", "…", text)


def waits() -> str:
    """Why a job waits, in Slurm's word and ours."""
    rows = [
        (f"`{word.lower()}`", f"The job waits in the queue: {says}.") for word, says in state._WAITS.items()
    ]
    return _table(["Reason", "What you read"], rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines.append(["---"] * len(lines[0]))
    lines += [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def schema() -> str:
    """The JSON Schema of the site's file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


WHOLE = {"launcher/settings/site.schema.json": schema}
MADE: dict[str, dict[str, Callable[[], str]]] = {
    "docs/cli.md": {"commands": commands},
    "docs/site.md": {"settings": settings},
    "docs/states.md": {
        "waits": waits,
        "endings": endings,
        "causes": lambda: causes("vllm", "vLLM stopped after … s (…): …"),
        "speech causes": lambda: causes("whisper", "The Whisper server stopped after … s (…): …"),
        "job causes": lambda: causes("job", "The job ended: …"),
        "refusals": lambda: causes("sbatch", "Slurm refused the job: …"),
    },
    **{name: {} for name in WHOLE},
}


def current(name: str) -> str:
    """The file `name` as it should be; raises ValueError where one of its places is missing."""
    if name in WHOLE:
        return WHOLE[name]()
    text = (ROOT / name).read_text(encoding="utf-8")
    for part, make in MADE[name].items():
        begin = BEGIN.format(part)
        if text.count(begin) != 1:
            raise ValueError(f"{name} must have the line {begin} once.")
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(END)
        if not found:
            raise ValueError(f"{name} has no line {END} after {begin}.")
        text = f"{before}{begin}\n\n{make()}\n\n{END}{after}"
    return text


def main() -> int:
    """Write what is old; with --check only name it, and exit 1."""
    asked = argparse.ArgumentParser(description=(inspect.getdoc(sys.modules[__name__]) or "").splitlines()[0])
    asked.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is old")
    check = asked.parse_args().check
    old = [name for name in MADE if (ROOT / name).read_text(encoding="utf-8") != current(name)]
    for name in old:
        print(f"{name} is {'old: run scripts/docs.py' if check else 'written'}")
        if not check:
            (ROOT / name).write_text(current(name), encoding="utf-8")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
