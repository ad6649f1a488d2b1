"""`launcher models`: list the models of this machine, download one, check its bytes, remove it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.asking import agreed
from launcher.cli.parser import add_command
from launcher.cli.progress import Progress
from launcher.cli.tables import one_line
from launcher.errors import LauncherError, ModelError, RequestError, SessionError
from launcher.models.disk import size
from launcher.models.links import model_root
from launcher.settings.layers import load

if TYPE_CHECKING:
    from launcher.models.folders import Held
    from launcher.models.hub.download import Added
    from launcher.models.upkeep import Checked
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
_RM = """\
examples:
  launcher models rm org/name --revision v1.0
  launcher models rm org/name --all --yes       all revisions, and nobody is asked
"""
_VERIFY = """\
examples:
  launcher models verify org/name
  launcher models verify
  launcher models verify org/name --repair      fetch what is damaged from the hub again
"""


def options(parser: ArgumentParser) -> None:
    """Add the commands of `launcher models`."""
    parser.epilog = _EXAMPLES
    commands = parser.add_subparsers(dest="models_command", metavar="COMMAND", required=True)
    listed = add_command(commands, "ls", "list the models of this machine", _LS)
    listed.add_argument("word", nargs="?", metavar="WORD", help="only those whose name holds it")
    listed.add_argument(
        "--task", metavar="TASK", help="only of this kind: chat, embedding, transcription, ..."
    )
    listed.add_argument("--fits", metavar="PROFILE", help="only those that fit this hardware")
    listed.add_argument("--refresh", action="store_true", help="look at every folder anew")
    added = add_command(commands, "add", "download a model from the Hugging Face hub", _ADD)
    added.add_argument("model", metavar="MODEL", help="an id such as org/name, or a catalog name")
    added.add_argument("--revision", metavar="R", help="branch, tag or commit")
    added.add_argument(
        "--to", metavar="FOLDER", help="one of the folders of models (default: your own cache)"
    )
    removed = add_command(commands, "rm", "remove a model that you downloaded", _RM)
    removed.add_argument("model", metavar="MODEL", help="an id such as org/name")
    removed.add_argument("--revision", metavar="R", help="only this branch, tag or commit of it")
    removed.add_argument("--all", action="store_true", help="all its revisions, when there are several")
    removed.add_argument("--yes", action="store_true", help="do not ask; needed where there is no terminal")
    removed.add_argument(
        "--from", dest="folder", metavar="FOLDER", help="where, when it is in several folders"
    )
    checked = add_command(
        commands, "verify", "read models from end to end and compare them with their hashes", _VERIFY
    )
    checked.add_argument(
        "model", nargs="?", metavar="MODEL", help="an id or a name (default: every model here)"
    )
    checked.add_argument(
        "--from", dest="folder", metavar="FOLDER", help="only the copy there, when it is in several folders"
    )
    checked.add_argument(
        "--repair", action="store_true", help="fetch from the hub again what is damaged or missing"
    )


def run(arguments: Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    if arguments.models_command == "ls":
        from launcher.cli.listing import ls

        return ls(arguments, load())
    command = {"add": _add, "rm": _rm, "verify": _verify}[arguments.models_command]
    return command(arguments, load())


def _add(arguments: Namespace, settings: Settings) -> int:
    from launcher.models.hub.download import add
    from launcher.models.index import forget

    shown = Progress(quiet=arguments.json)
    try:
        added = add(arguments.model, settings, shown, revision=arguments.revision, to=arguments.to)
    except KeyboardInterrupt:
        shown.end()
        print("Broken off. Run the same command again, it continues.", file=sys.stderr)
        raise
    finally:
        shown.end()
    forget(added.path, settings)
    start, trouble = _next_step(arguments, settings)
    if arguments.json:
        print(
            json.dumps(
                {
                    "id": added.id, "revision": added.revision, "path": str(added.path), "folder": str(added.folder),
                    "bytes": added.bytes, "files": added.files, "transferred": added.transferred,
                    "trouble": trouble,
                }
            )
        )  # fmt: skip
        return 0
    came = f", {size(added.transferred)} of it came now" if added.transferred else ", all of it was there"
    print(
        f"{one_line(added.id)} at {added.revision[:8]} is in {one_line(str(added.folder))}: {size(added.bytes)}{came}."
    )
    print(f"Start it:  {start}" if trouble is None else f"It cannot be started: {one_line(trouble)}")
    return 0


def _next_step(arguments: Namespace, settings: Settings) -> tuple[str, str | None]:
    """The command that starts what was added, and why it would be refused, by the same checks; None if it would not."""
    from launcher.models.resolve import catalog_entry, resolve
    from launcher.models.snapshot import no_tokenizer
    from launcher.models.typed import typed

    model, revision = typed(arguments.model, arguments.revision)
    entry = catalog_entry(model, settings)
    command = (
        f"launcher launch {entry.name if entry else model}{f' --revision {revision}' if revision else ''}"
    )
    try:
        found = resolve(model, settings, revision)
    except LauncherError as error:
        return command, str(error)
    if found.snapshot is not None and not found.tokenizer:
        return command, str(no_tokenizer(found.snapshot, found.id))
    return command, None


def _rm(arguments: Namespace, settings: Settings) -> int:
    from launcher.models.index import forget
    from launcher.models.removal import removal, remove
    from launcher.models.typed import typed
    from launcher.models.upkeep import copies_of

    typed_model, revision = typed(arguments.model, arguments.revision)
    copies = copies_of(typed_model, settings, arguments.folder)
    _refuse_foreign(copies, settings)
    model, folder = copies[0].id, copies[0].folder
    gone = _chosen(copies, revision, every=arguments.all)
    root = model_root(copies[0].path) if copies[0].commit is not None else copies[0].path.parent
    planned = removal(model, root, None if gone == copies else [c.commit for c in gone if c.commit])
    _refuse_living(model, [copy.path for copy in gone])
    what = one_line(model if gone == copies else f"{model} at {_revision(gone[0])}")
    if not arguments.json:
        print(f"{one_line(str(root))}: {', '.join(map(_revision, gone))}, {size(planned.bytes)}")
    if not arguments.yes and not agreed(f"Remove {size(planned.bytes)}?", may_ask=not arguments.json):
        print("Nothing is removed.")
        return 1
    freed = remove(planned, Progress(quiet=arguments.json).notice)
    forget(root, settings)
    if arguments.json:
        print(json.dumps({"id": model, "removed": [str(copy.path) for copy in gone], "bytes": freed}))
        return 0
    print(f"{what} is removed from {one_line(str(folder))}: {size(freed)} are free again.")
    return 0


def _refuse_foreign(copies: list[Held], settings: Settings) -> None:
    """Raise RequestError unless all `copies` are in one folder and of the launcher's making."""
    from launcher.models.folders import HUB
    from launcher.models.resolve import SHIPPED
    from launcher.models.upkeep import CATALOG

    first = copies[0]
    if first.layout == CATALOG:
        shipped = first.path.is_relative_to(SHIPPED)
        whose = "ships with the launcher" if shipped else f"is at {first.path}, as the catalog says"
        where = "" if shipped else f" ({settings.where(f'catalog.{first.id}.path')})"
        raise RequestError(
            f'"{first.id}" {whose}{where}, so it is not removed.',
            "Only what `launcher models add` has made is removed.",
        )
    places = sorted({copy.folder for copy in copies})
    if len(places) > 1:
        raise RequestError(
            f'Model "{first.id}" is in {" and in ".join(map(str, places))}.', f"Add --from {places[0]}"
        )
    if foreign := next((copy for copy in copies if copy.layout != HUB), None):
        raise RequestError(
            f"{foreign.path} was not made by `launcher models add`, so it is not removed.",
            "Remove the folder yourself if it is no longer wanted.",
        )


def _chosen(copies: list[Held], revision: str | None, *, every: bool) -> list[Held]:
    """Which of one model's snapshots go; raises RequestError where that was not said."""
    from launcher.models.upkeep import at_revision

    if revision is not None:
        if every:
            raise RequestError("--all and a revision cannot both be meant.", "Leave one of them out.")
        return at_revision(copies, revision)
    if len(copies) > 1 and not every:
        shown = ", ".join(map(_revision, copies[:8]))
        more = f" and {len(copies) - 8} more" if len(copies) > 8 else ""
        raise RequestError(
            f'Model "{copies[0].id}" is here in {len(copies)} revisions: {shown}{more}.',
            "Say which with --revision, or --all for all of them.",
        )
    return copies


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
    from launcher.models.folders import folders_of, held
    from launcher.models.index import forget
    from launcher.models.upkeep import copies_of, mend_command, repair, verify

    if arguments.model is None:
        copies = [copy for folder in folders_of(settings) for copy in held(folder)]
    else:
        copies = copies_of(arguments.model, settings, arguments.folder)
    if arguments.model is None and arguments.folder is not None:
        raise RequestError("--from is for one model.", "Give its id too.")
    results: list[tuple[Held, Checked, Added | None, str | None]] = []
    shown = Progress(quiet=arguments.json)
    try:
        for copy in copies:
            if not arguments.json:
                shown.line(_named(copy))
            found = verify(copy, shown.more, pickle_weights=settings.allow.pickle_weights)
            mended, refused = None, None
            if found.broken and arguments.repair and mend_command(copy, settings):
                shown.end()
                shown = Progress(quiet=arguments.json)
                try:
                    mended = repair(copy, found, settings, shown)
                except LauncherError as error:
                    refused = str(error)
            if found.broken:
                forget(copy.path, settings)
            results.append((copy, found, mended, refused))
    finally:
        shown.end()
    left = [(copy, found) for copy, found, mended, _ in results if found.broken and mended is None]
    if arguments.json:
        print(json.dumps({"models": [_checked(*result, settings) for result in results]}))
        return ModelError.exit_code if left else 0
    for copy, found, mended, refused in results:
        _print_checked(copy, found, mended, refused)
    for copy, _ in left:
        if command := None if arguments.repair else mend_command(copy, settings):
            print(f"To mend it: {one_line(command)}")
        elif not arguments.repair or not mend_command(copy, settings):
            print(
                f"{one_line(str(copy.path))} is not for the launcher to mend: copy the model there again, or ask "
                "whoever keeps the folder."
            )
    return ModelError.exit_code if left else 0


def _print_checked(copy: Held, found: Checked, mended: Added | None, refused: str | None) -> None:
    name = _named(copy)
    if not found.broken:
        without = f" ({found.unknown} without a known hash: only complete)" if found.unknown else ""
        print(f"{name}: {found.files} files, {size(found.bytes)}, all right{without}")
        if found.note is not None:
            print(f"{name}: {one_line(found.note)}")
    for file, trouble in found.broken.items():
        print(f"{name}: {one_line(f'{file}: {trouble}' if file else trouble)}")
    if mended is not None:
        print(f"{name}: mended, {size(mended.transferred)} came from the hub.")
    if refused is not None:
        print(f"{name}: not mended. {one_line(refused)}")


def _checked(
    copy: Held, found: Checked, mended: Added | None, refused: str | None, settings: Settings
) -> dict[str, Any]:
    from launcher.models.upkeep import mend_command

    return {
        "id": found.id, "revision": found.revision, "path": str(found.path), "files": found.files,
        "bytes": found.bytes, "broken": found.broken, "without_hash": found.unknown, "note": found.note,
        "mend": mend_command(copy, settings) if found.broken and mended is None else None,
        "mended": mended is not None, "not_mended": refused,
    }  # fmt: skip


def _named(copy: Held) -> str:
    return one_line(f"{copy.id} {(copy.commit or '')[:8]}").rstrip()


def _revision(copy: Held) -> str:
    commit = (copy.commit or "")[:8]
    return f"{', '.join(copy.refs)} ({commit})" if copy.refs else commit or "a download that has not ended"
