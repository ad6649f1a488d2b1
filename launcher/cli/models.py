"""`launcher models`: list the models of this machine, download one, check its bytes, remove it."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.progress import Progress, size
from launcher.cli.tables import one_line, table
from launcher.errors import ModelError, RequestError, SessionError
from launcher.settings.layers import load

if TYPE_CHECKING:
    from launcher.models.folders import Held
    from launcher.models.index import Kept
    from launcher.settings.schema import Settings

_EXAMPLES = """\
examples:
  launcher models ls                            what is here, and on which profiles it fits
  launcher models add org/name                  download it into your own cache
  launcher models add org/name --revision v1.0 --to /shared/models
  launcher models verify org/name               read every byte again
  launcher models rm org/name
"""
_LS = """\
examples:
  launcher models ls
  launcher models ls qwen --task chat
  launcher models ls --fits gpu-small
"""
_ADD = """\
examples:
  launcher models add org/name
  launcher models add org/name --revision v1.0 --to /shared/models

What is broken off goes on when the same command runs again. The token for gated models is taken from the file that
`hf auth login` writes, when only you can read it, and from nowhere else.
"""
_RM = "example:\n  launcher models rm org/name --revision v1.0\n"
_VERIFY = "examples:\n  launcher models verify org/name\n  launcher models verify\n"


def options(parser: ArgumentParser) -> None:
    """Add the commands of `launcher models`."""
    parser.epilog = _EXAMPLES
    common = type(parser)(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="models_command", metavar="COMMAND", required=True)

    def command(name: str, text: str, epilog: str) -> ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog,
            parents=[common],
            allow_abbrev=False,
            formatter_class=parser.formatter_class,
        )

    listed = command("ls", "list the models of this machine", _LS)
    listed.add_argument("word", nargs="?", metavar="WORD", help="only those whose name holds it")
    listed.add_argument(
        "--task", metavar="TASK", help="only of this kind: chat, embedding, transcription, ..."
    )
    listed.add_argument("--fits", metavar="PROFILE", help="only those that fit this hardware")
    listed.add_argument("--refresh", action="store_true", help="look at every folder anew")
    added = command("add", "download a model from the Hugging Face hub", _ADD)
    added.add_argument("model", metavar="MODEL", help="an id such as org/name, or a catalog name")
    added.add_argument("--revision", metavar="R", help="branch, tag or commit")
    added.add_argument(
        "--to", metavar="FOLDER", help="one of the folders of models (default: your own cache)"
    )
    removed = command("rm", "remove a model that you downloaded", _RM)
    removed.add_argument("model", metavar="MODEL", help="an id such as org/name")
    removed.add_argument("--revision", metavar="R", help="only this branch, tag or commit of it")
    removed.add_argument(
        "--from", dest="folder", metavar="FOLDER", help="where, when it is in several folders"
    )
    checked = command("verify", "read models from end to end and compare them with their hashes", _VERIFY)
    checked.add_argument(
        "model", nargs="?", metavar="MODEL", help="an id or a name (default: every model here)"
    )


def run(arguments: Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    command = {"ls": _ls, "add": _add, "rm": _rm, "verify": _verify}[arguments.models_command]
    return command(arguments, load())


def _ls(arguments: Namespace, settings: Settings) -> int:
    from launcher.models.index import kept

    if arguments.fits is not None and arguments.fits not in settings.profiles:
        raise RequestError(
            f'There is no profile "{arguments.fits[:80]}".', f"There are: {', '.join(settings.profiles)}."
        )
    found = kept(settings, refresh=arguments.refresh)
    if arguments.word is not None:
        found = [model for model in found if arguments.word.lower() in model.id.lower()]
    if arguments.task is not None:
        found = [model for model in found if _task(model) == arguments.task]
    verdicts = [_verdicts(model, settings) for model in found]
    if arguments.fits is not None:
        pairs = [(m, v) for m, v in zip(found, verdicts, strict=True) if v.get(arguments.fits) == "fits"]
        found, verdicts = [m for m, _ in pairs], [v for _, v in pairs]
    if arguments.json:
        print(json.dumps({"models": [_described(m, v) for m, v in zip(found, verdicts, strict=True)]}))
        return 0
    if not found:
        print("No models. Download one with: launcher models add org/name")
        return 0
    rows = sorted(
        [
            _task(model), model.id, _revision(model), size(model.bytes), _ago(model.used_at),
            model.trouble or _fits(fits), _shown_folder(model.folder),
        ]
        for model, fits in zip(found, verdicts, strict=True)
    )  # fmt: skip
    for number in range(len(rows) - 1, 0, -1):
        if rows[number][0] == rows[number - 1][0]:
            rows[number][0] = ""
    print(table(rows, head=["Task", "Model", "Revision", "Size", "Last used", "Fits", "In"]))
    total = sum(model.bytes for model in found)
    print(f"{len(found)} model{'s' if len(found) != 1 else ''}, {size(total)}")
    return 0


def _verdicts(model: Kept, settings: Settings) -> dict[str, str]:
    from launcher.models.fit.verdict import fit, hardware

    facts = model.facts
    if facts is None or model.trouble is not None:
        return {}
    return {name: fit(facts, hardware(profile)).verdict for name, profile in settings.profiles.items()}


def _fits(verdicts: dict[str, str]) -> str:
    fits = [name for name, verdict in verdicts.items() if verdict == "fits"]
    perhaps = [f"({name})" for name, verdict in verdicts.items() if verdict == "fits-if"]
    return " ".join([*fits, *perhaps]) or ("none" if "does-not-fit" in verdicts.values() else "?")


def _add(arguments: Namespace, settings: Settings) -> int:
    from launcher.models.hub.download import add

    shown = Progress(quiet=arguments.json)
    try:
        added = add(arguments.model, settings, shown, revision=arguments.revision, to=arguments.to)
    except KeyboardInterrupt:
        shown.end()
        print("Broken off. Run the same command again, it continues.", file=sys.stderr)
        raise
    finally:
        shown.end()
    if arguments.json:
        print(
            json.dumps(
                {
                    "id": added.id, "revision": added.revision, "path": str(added.path), "folder": str(added.folder),
                    "bytes": added.bytes, "files": added.files, "transferred": added.transferred,
                }
            )
        )  # fmt: skip
        return 0
    came = f", {size(added.transferred)} of it came now" if added.transferred else ", all of it was there"
    print(
        f"{one_line(added.id)} at {added.revision[:8]} is in {one_line(str(added.folder))}: {size(added.bytes)}{came}."
    )
    print(f"Start it:  launcher launch {one_line(added.id)}")
    return 0


def _rm(arguments: Namespace, settings: Settings) -> int:
    from launcher.models.folders import HUB
    from launcher.models.upkeep import remove

    copies = _copies(arguments.model, settings, arguments.folder)
    places = sorted({copy.folder for copy in copies})
    if len(places) > 1:
        raise RequestError(
            f'Model "{arguments.model}" is in {" and in ".join(map(str, places))}.', f"Add --from {places[0]}"
        )
    if any(copy.layout != HUB for copy in copies):
        raise RequestError(
            f"{copies[0].path} was not made by `launcher models add`, so it is not removed.",
            "Remove the folder yourself if it is no longer wanted.",
        )
    root = copies[0].path.parent if copies[0].commit is None else copies[0].path.parent.parent
    commits = None
    if arguments.revision is not None:
        commits = [copy.commit for copy in _at(copies, arguments.revision) if copy.commit is not None]
    gone = [copy.path for copy in copies if commits is None or copy.commit in commits]
    _refuse_living(arguments.model, gone)
    freed = remove(arguments.model, root, commits)
    if arguments.json:
        print(json.dumps({"id": arguments.model, "removed": [str(path) for path in gone], "bytes": freed}))
        return 0
    print(
        f"{one_line(arguments.model)} is removed from {one_line(str(places[0]))}: {size(freed)} are free again."
    )
    return 0


def _refuse_living(model: str, snapshots: list[Path]) -> None:
    from launcher.api import Launcher

    launcher = Launcher()
    using = [
        s for s in launcher.sessions() if s.plan.model.snapshot and Path(s.plan.model.snapshot) in snapshots
    ]
    for session, status in zip(using, launcher.statuses(using), strict=True):
        if not status.ended:
            raise SessionError(
                f'Model "{model}" is used by session {session.id}, which is {status.state}.',
                f"Stop it first: launcher stop {session.id}",
            )


def _verify(arguments: Namespace, settings: Settings) -> int:
    from launcher.models.folders import held
    from launcher.models.near import folders_of
    from launcher.models.upkeep import verify

    if arguments.model is None:
        copies = [copy for folder in folders_of(settings) for copy in held(folder)]
    else:
        copies = _copies(arguments.model, settings, None)
    shown = Progress(quiet=arguments.json)
    results = []
    try:
        for copy in copies:
            if not arguments.json:
                shown.line(f"{one_line(copy.id)} {(copy.commit or '')[:8]}".rstrip())
            results.append(verify(copy, shown.more, pickle_weights=settings.allow.pickle_weights))
    finally:
        shown.end()
    broken = [result for result in results if result.broken]
    if arguments.json:
        print(
            json.dumps(
                {
                    "models": [
                        {
                            "id": r.id, "revision": r.revision, "path": str(r.path), "files": r.files, "bytes": r.bytes,
                            "broken": r.broken, "without_hash": r.unknown,
                        }
                        for r in results
                    ]
                }
            )
        )  # fmt: skip
        return ModelError.exit_code if broken else 0
    for result in results:
        name = f"{one_line(result.id)} {(result.revision or '')[:8]}".rstrip()
        if not result.broken:
            without = f" ({result.unknown} without a known hash: only complete)" if result.unknown else ""
            print(f"{name}: {result.files} files, {size(result.bytes)}, all right{without}")
        for file, trouble in result.broken.items():
            print(f"{name}: {one_line(f'{file}: {trouble}' if file else trouble)}")
    if broken:
        print("Remove what is broken (launcher models rm), then download it again: launcher models add MODEL")
    return ModelError.exit_code if broken else 0


def _copies(model: str, settings: Settings, folder: str | None) -> list[Held]:
    from launcher.models.folders import find
    from launcher.models.near import NAME, advice, folders_of, known_names
    from launcher.models.resolve import catalog_entry

    entry = catalog_entry(model, settings)
    wanted = entry.id if entry is not None and entry.id is not None else model
    if not NAME.fullmatch(wanted):
        raise RequestError(f'"{wanted[:80]}" is not a model.', "Give an id such as org/name.")
    places = folders_of(settings)
    if folder is not None:
        place = Path(os.path.abspath(os.path.expanduser(folder)))
        if place not in places:
            raise RequestError(
                f"{place} is not a folder of models.", f"Give one of: {', '.join(map(str, places))}."
            )
        places = [place]
    copies = [copy for place in places for copy in find(place, wanted)]
    if not copies:
        searched = ", ".join(map(str, places))
        raise ModelError(
            f'Model "{model}" is not in {searched}.', advice(model, known_names(settings), settings)
        )
    return copies


def _at(copies: list[Held], revision: str) -> list[Held]:
    found = [
        copy for copy in copies
        if copy.commit and (revision in copy.refs or (len(revision) >= 7 and copy.commit.startswith(revision)))
    ]  # fmt: skip
    if len(found) != 1:
        here = ", ".join(", ".join([*copy.refs, (copy.commit or "")[:8]]) for copy in copies)
        raise ModelError(
            f'Model "{copies[0].id}" is not here at revision "{revision[:80]}".', f"Here are: {here}."
        )
    return found


def _described(model: Kept, verdicts: dict[str, str]) -> dict[str, Any]:
    facts = model.facts
    return {
        "id": model.id, "revision": model.revision, "refs": list(model.refs), "path": str(model.path),
        "folder": str(model.folder), "layout": model.layout, "bytes": model.bytes, "task": _task(model),
        "parameters": facts.parameters if facts else None, "context": facts.context if facts else None,
        "quantization": facts.quantization if facts else None, "trouble": model.trouble, "used_at": model.used_at,
        "modified_at": model.modified_at, "fits": verdicts,
    }  # fmt: skip


def _task(model: Kept) -> str:
    facts = model.facts
    return facts.task if facts else "unknown"


def _revision(model: Kept) -> str:
    return ", ".join(model.refs) or (model.revision or "")[:8]


def _shown_folder(folder: Path) -> str:
    home = os.path.expanduser("~")
    text = str(folder)
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


def _ago(when: float | None) -> str:
    return "" if when is None else time.strftime("%Y-%m-%d", time.localtime(when))
