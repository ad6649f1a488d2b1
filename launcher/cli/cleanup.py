"""`launcher cleanup`: remove the files of sessions that are over."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher
from launcher.cli.asking import agreed
from launcher.cli.parser import SESSION, whole
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import StorageError
from launcher.models.disk import size
from launcher.sessions.clock import moment

if TYPE_CHECKING:
    from launcher.api.cleanup import Removal

EXAMPLES = """\
examples:
  launcher cleanup --dry-run                    show what would go, and how much it is
  launcher cleanup --older-than 30d --yes
  launcher cleanup --before-job-id 17480109 --model-name Qwen2.5-7B-Instruct
  launcher cleanup --keep-record                remove logs, keep the record of each session
  launcher rm --filters id=tiny-chat-3f9a2c1b   as Blackfish's users write it

A session that runs, or may run again, is never touched.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "sessions", nargs="*", metavar="ID", help=f"{SESSION} (default: all sessions that are over)"
    )
    parser.add_argument("--model", "--model-name", metavar="MODEL", help="only sessions of this model")
    parser.add_argument("--model-family", metavar="FAMILY", help="only of models such as FAMILY-7B-Instruct")
    parser.add_argument("--name", metavar="NAME", help="only sessions with this name")
    parser.add_argument("--state", metavar="STATE", help="only SHUTDOWN or only FAILED ones")
    parser.add_argument("--job-id", metavar="N", help="only the session of this job")
    parser.add_argument("--before-job-id", type=whole, metavar="N", help="only of jobs with a smaller number")
    parser.add_argument("--older-than", metavar="SPAN", help="only what ended longer ago: 90m, 12h, 30d, 2w")
    parser.add_argument("--filter", "--filters", metavar="KEY=VALUE,...", help="as for launcher status")
    parser.add_argument(
        "--keep-record", action="store_true", help="remove only logs and scripts; keep the record"
    )
    parser.add_argument("--dry-run", action="store_true", help="show it, and remove nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask; needed where there is no terminal")


def run(arguments: argparse.Namespace) -> int:
    """Show what would go, ask, and remove it."""
    from launcher.api.cleanup import Choice, planned, remove

    launcher = Launcher()
    wanted = Choice(
        tuple(arguments.sessions), arguments.model, arguments.model_family, arguments.name, arguments.state,
        arguments.job_id, arguments.before_job_id, arguments.older_than, arguments.filter,
    )  # fmt: skip
    found = planned(launcher, wanted)
    going = [one for one in found if one.kept is None]
    if not arguments.json:
        _print(found)
    if going and not arguments.dry_run:
        if not arguments.yes and not agreed(
            f"Remove {'the logs of ' if arguments.keep_record else ''}{_count(len(going))}?",
            may_ask=not arguments.json,
        ):
            print("Nothing is removed.")
            return 1
        found = remove(launcher, found, keep_record=arguments.keep_record)
        if not arguments.json:
            _print_removed(found, going)
    if arguments.json:
        gone = [one for one in found if (one.kept is None if arguments.dry_run else one.removed)]
        print_json(
            {
                "dry_run": arguments.dry_run,
                "removed": [_described(one) for one in gone],
                "kept": [_described(one) for one in found if one.kept is not None],
                "bytes": sum(one.bytes for one in gone),
            }
        )
    failed = {one.id for one in found if one.kept is not None} & {one.id for one in going}
    return StorageError.exit_code if failed else 0


def _print(found: list[Removal]) -> None:
    going = [one for one in found if one.kept is None]
    if going:
        rows = [
            [
                one.id,
                one.model,
                one.state,
                one.job_id or "",
                moment(one.ended_at, seconds=False),
                size(one.bytes),
                str(one.path),
            ]
            for one in going
        ]
        head = ["ID", "Model", "State", "Job", "Ended", "Size", "Folder"]
        print(table(rows, head=head, yielding=("Folder", "Job", "Model")))
    else:
        print("There is nothing to remove.")
    if any(one.entry_only for one in going):
        print(
            "Of Open OnDemand's sessions only the entry in this list goes; the folder is deleted with the card."
        )
    for one in found:
        if one.kept is not None:
            print(f"{one_line(one.id)} stays. {one_line(one.kept)}")
    if going:
        print(f"{_count(len(going))}, {size(sum(one.bytes for one in going))}")


def _print_removed(found: list[Removal], going: list[Removal]) -> None:
    gone = [one for one in found if one.removed]
    print(f"Removed {_count(len(gone))}: {size(sum(one.bytes for one in gone))} are free again.")
    meant = {one.id for one in going}
    for one in found:
        if one.kept is not None and one.id in meant:
            print(f"{one_line(one.id)} stays. {one_line(one.kept)}", file=sys.stderr)


def _described(one: Removal) -> dict[str, Any]:
    return {
        "id": one.id, "model": one.model, "state": one.state, "job_id": one.job_id, "ended_at": one.ended_at,
        "path": str(one.path), "bytes": one.bytes, "entry_only": one.entry_only, "kept": one.kept,
    }  # fmt: skip


def _count(number: int) -> str:
    return f"{number} session{'' if number == 1 else 's'}"
