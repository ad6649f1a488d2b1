"""Write the parts of docs/ that the code already knows: `scripts/docs.py`, or with `--check` only compare.

Owns three things: the commands in docs/cli.md, the settings in docs/site.md, the reasons in docs/states.md. Each stands
between two comments in its file, the rest of which is written by hand. `tests/unit/test_docs.py` fails when one is old.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from launcher.cli.parser import INTERNAL, parser
from launcher.engines.vllm_causes import CAUSES
from launcher.sessions import state
from launcher.sessions.status import ENDINGS
from launcher.settings import schema

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- made by scripts/docs.py: {} -->", "<!-- end of what scripts/docs.py makes -->"

BLOCKS: Mapping[str, tuple[type, str]] = {
    "session": (schema.SessionDefaults, "What a session gets when its user leaves it open."),
    "network": (schema.Network, "The one open port."),
    "places": (
        schema.Places,
        "Folders. `~` is the user's home, and variables such as `$USER` stand for their values.",
    ),
    "models": (
        schema.ModelPlaces,
        "Where weights are looked for, in this order: `folders`, then `cache`. `~` and variables as in `places`.",
    ),
    "allow": (
        schema.Allow,
        "What users may do. Only the site's file can say it; without a site's file, the user's own can.",
    ),
    "clusters": (schema.Cluster, "Slurm installations, by name."),
    "profiles": (schema.Profile, "Named hardware requests, by name; the form lists them in this order."),
    "environments": (
        schema.Environment,
        "Where vLLM comes from, by name. `~` and variables hold in `path`, `image`, `binds` and `setup`.",
    ),
    "catalog": (schema.CatalogModel, "Models that the form offers, by name."),
}
NAMED = ("clusters", "profiles", "environments", "catalog")
LOCKS = "Keys that a user's own settings and `LAUNCHER_…` variables may not change, as dotted names."

SAYS: Mapping[str, str] = {
    "session.profile": "The profile when none is asked for; empty: the first one.",
    "session.hours": "Hours, when neither the request nor the profile says.",
    "session.idle_minutes": "Stop when unused for so long; 0: never. Locked, it is also the most to ask for.",
    "session.start_timeout_minutes": "How long the first answer may take, not counting the queue.",
    "session.engine_restarts": "How often a session starts its engine again after a crash; 0: never.",
    "session.page": "Whether there is a chat page behind *Connect*.",
    "network.bind": "The address that the gateway binds.",
    "network.host": "The name that clients are told; empty: the node's own. `{node}` in it is the short one.",
    "places.sessions": "Sessions, one folder each. Login and compute nodes must see it.",
    "places.cache": "Compile caches of the engines, kept between sessions.",
    "places.runtime": "Node-local folder for sockets; empty: `$SLURM_TMPDIR`, `$TMPDIR` or `/tmp`.",
    "models.folders": "Shared folders: Hugging Face cache layout, or a plain folder for each model.",
    "models.cache": "The user's own Hugging Face cache.",
    "allow.models": "`any`, or `catalog`: only what the catalog lists.",
    "allow.trust_remote_code": "May a user run Python code that comes with a model?",
    "allow.pickle_weights": "May a user load weights that can run code (`.bin`, `.pt`)?",
    "allow.engine_args": "May a user pass further arguments to the engine?",
    "clusters.scheduler": "`slurm`, or `local`: this machine, without a queue. The form shows only Slurm clusters.",
    "clusters.ondemand": "The cluster's ids in Open OnDemand's `clusters.d`; empty: its name here.",
    "clusters.login_host": "Where a laptop's ssh goes, for the tunnel line on the card.",
    "profiles.cluster": "One of `clusters`.",
    "profiles.description": "What the form shows; empty: the profile's name.",
    "profiles.partition": "Slurm's `--partition`.",
    "profiles.nodes": "Slurm's `--nodes`.",
    "profiles.gpus": "GPUs per node (`--gres=gpu:…`).",
    "profiles.gpu_type": "The GPUs' type in Slurm, such as `a100`.",
    "profiles.gpu_memory_gb": "Memory of one GPU in GB, shown in the form.",
    "profiles.cpus": "Slurm's `--cpus-per-task`.",
    "profiles.memory_gb": "Memory per node in GiB (`--mem`).",
    "profiles.hours": "Hours when none are asked for; empty: `session.hours`.",
    "profiles.hours_max": "The most hours that may be asked for.",
    "profiles.environment": "One of `environments`; empty: the site's first one. A model's own goes before it.",
    "profiles.account": "Slurm's `--account`.",
    "profiles.qos": "Slurm's `--qos`.",
    "profiles.constraint": "Slurm's `--constraint`.",
    "profiles.reservation": "Slurm's `--reservation`.",
    "profiles.sbatch_args": "Further options of sbatch, one `--name=value` each.",
    "environments.kind": "What it is.",
    "environments.path": "`venv`: its folder; empty: the launcher's own venv.",
    "environments.modules": "`module`: the modules to load, in this order.",
    "environments.image": "`container`: the image's file.",
    "environments.runtime": "`container`: the program that runs it.",
    "environments.binds": "`container`: further folders it sees. Model, cache and sockets are bound anyway.",
    "environments.env": "Environment variables of the engine.",
    "environments.setup": "`module`: a file that defines `module`, where the usual ones in `/etc/profile.d` do not.",
    "catalog.title": "What the form shows; empty: the id or the name.",
    "catalog.id": "Its id on the hub, such as `org/name`, looked for in the folders of `models`.",
    "catalog.path": "Or the folder that holds the weights; `~` and variables hold.",
    "catalog.revision": "A branch, a tag or a commit; empty: `main`.",
    "catalog.aliases": "Further names by which users may ask for it.",
    "catalog.engine": "`vllm` or `simulated`.",
    "catalog.engine_args": "Arguments of the engine; the user's own come after them.",
    "catalog.env": "Environment variables of the engine, for this model.",
    "catalog.profiles": "The profiles it runs on, the usual one first; empty: all.",
    "catalog.environment": "The environment it needs; it goes before the profile's.",
    "catalog.hidden": "Leave it out of the form; its name still works.",
}  # fmt: skip
_TYPES = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}


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
    parts += [_command(name, of) for name, (_, of) in people.items()]
    parts.append(
        "## What the app and the job call\n\nNobody types these; they are listed for those who read logs."
    )
    parts.append(_table(["Command", "What it does"], [(f"`launcher {n}`", found[n][0]) for n in INTERNAL]))
    return "\n\n".join(parts)


def _below(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """The commands of `parser`, those of commands too (`keys new`), with what each does."""
    found: dict[str, tuple[str, argparse.ArgumentParser]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            says = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, of in action.choices.items():
                below = {f"{name} {inner}": command for inner, command in _below(of).items()}
                found |= below or {name: (says[name], of)}
    return found


def _command(name: str, command: argparse.ArgumentParser) -> str:
    operands = [action for action in command._actions if not action.option_strings]
    options = [action for action in command._actions if action.option_strings and action.dest != "help"]
    shown = [f"{a.option_strings[0]} {a.metavar}" for a in options if a.required]
    shown += [f"[{a.metavar}]" if a.nargs == "?" else str(a.metavar) for a in operands]
    tail = " [-- ENGINE_ARGUMENT …]" if name == "launch" else ""
    rows = [(f"`{a.metavar}`", a.help or "") for a in operands] + [(_option(a), _help(a)) for a in options]
    example = f"\n\n```text\n{command.epilog.strip()}\n```" if command.epilog else ""
    return (
        f"## launcher {name}\n\n{command.description}\n\n"
        f"```text\nlauncher {name} [OPTION …] {' '.join(shown)}{tail}\n```\n\n"
        f"{_table(['Argument', 'What it means'], rows)}{example}"
    )


def _option(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        value = f" {action.metavar or '|'.join(map(str, action.choices or ()))}"
    return f"`{', '.join(action.option_strings)}{value}`"


def _help(action: argparse.Action) -> str:
    if action.help:
        return action.help
    return f"instead of the profile's {action.dest.replace('_', ' ')}"


def settings() -> str:
    """Every key of the site file with its type and default."""
    defaults = yaml.safe_load(resources.files("launcher.settings").joinpath("defaults.yml").read_text())
    parts = []
    for block, (type_, says) in BLOCKS.items():
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
        parts.append(f"### {block}\n\n{says}\n\n{_table(['Key', 'Type', 'Default', 'Meaning'], rows)}")
    lock = _table(["Key", "Type", "Default", "Meaning"], [("`locks`", "list of texts", "`[]`", LOCKS)])
    return "\n\n".join([*parts, f"### locks\n\n{lock}"])


def _type(hint: Any, metadata: Mapping[str, Any]) -> str:
    if choices := metadata.get("choices"):
        return " or ".join(f"`{choice}`" for choice in choices)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return "list of texts"
    if typing.get_origin(hint) is not None:
        return "block of texts"
    bounds = f", at least {metadata['minimum']}" if "minimum" in metadata else ""
    if "maximum" in metadata:
        bounds = f", {metadata['minimum']} to {metadata['maximum']}"
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


def causes() -> str:
    """The reasons that vLLM's log gives."""
    rows = [
        (f"`{cause.reason}`", _sentence(cause.message), _sentence(cause.hint)) for cause in _by_reason(CAUSES)
    ]
    return _table(["Reason", "vLLM stopped after … s (…): …", "What to do"], rows)


def _by_reason(found: Iterable[Any]) -> list[Any]:
    order = {cause.reason: place for place, cause in reversed(list(enumerate(CAUSES)))}
    return sorted(found, key=lambda cause: order[cause.reason])


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


MADE = {
    "docs/cli.md": {"commands": commands},
    "docs/site.md": {"settings": settings},
    "docs/states.md": {"waits": waits, "endings": endings, "causes": causes},
}


def current(name: str) -> str:
    """The file `name` as it should be; raises ValueError where one of its places is missing."""
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
