"""`launcher transcribe`: files, folders and patterns of recordings in, transcripts beside them out."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from launcher.cli.launch_options import add_some
from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError

if TYPE_CHECKING:
    from launcher.cli.bars import Bars
    from launcher.sessions.status import Status
    from launcher.transcripts import Report, Result
    from launcher.transcripts.standing import Standing
    from launcher.transcripts.work import Work

_EXAMPLES = """\
examples:
  launcher transcribe talk.mp3                          talk.srt, talk.txt and talk.json beside it
  launcher transcribe interviews --format srt,vtt --output-dir transcripts
  launcher transcribe 'archive/**/*.wav' --language de --words --model large-v3
  launcher transcribe interviews --dry-run              what would be done, and by which session

What is broken off, by Ctrl-C, a kill, a time limit or a lost node, goes on when the same command runs again. Finished
files are passed over, changed ones are done again, and a transcript that you corrected is never replaced unasked.
Give a name that begins with a dash as ./-name.
"""
_LAUNCH = (
    "profile", "revision", "hours", "environment", "partition", "account", "qos", "constraint", "reservation",
    "gpu_type", "gpus", "cpus", "memory_gb",
)  # fmt: skip
_MOST_MARKS = 20
_MOST_TEXT = 60
_LONGEST_COMMAND = 1000
_NOT_COMPLETE = LauncherError.exit_code


def options(parser: ArgumentParser) -> None:
    """Add the arguments of `launcher transcribe`."""
    parser.epilog = _EXAMPLES
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder, or a pattern in quotes")
    parser.add_argument(
        "--output-dir", metavar="D", help="where the transcripts go, in the same tree (default: beside)"
    )
    parser.add_argument(
        "--format", metavar="F,…", default=None, help="some of srt,vtt,txt,json,tsv (default: srt,txt,json)"
    )
    parser.add_argument("--model", metavar="M", help="a catalog name, an id such as org/name, or a path")
    parser.add_argument("--session", metavar="ID", help="use this session; else one of yours, or a new one")
    parser.add_argument(
        "--language", metavar="L", help="of all recordings: de or German (default: found out)"
    )
    parser.add_argument("--translate", action="store_true", help="into English")
    parser.add_argument("--words", action="store_true", help="the time of each word, in json")
    parser.add_argument("--prompt", metavar="TEXT", help="names and words that occur, in a sentence or two")
    parser.add_argument("--hotwords", metavar="WORDS", help="words to listen for")
    parser.add_argument(
        "--overwrite", action="store_true", help="do finished ones again; replace what is there"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--keep", action="store_true", help="leave the session running at the end")
    group = parser.add_argument_group(
        "for a session that it starts, as for launcher launch; where its hours end, the next one goes on"
    )
    add_some(group, _LAUNCH)


def run(arguments: Namespace) -> int:
    """Transcribe; 0 when every recording has its transcripts."""
    from launcher.cli.bars import Bars
    from launcher.transcripts import USUAL, Interrupted, prepare

    bars = Bars(quiet=arguments.json)
    names = (
        "output_dir",
        "model",
        "session",
        "language",
        "translate",
        "words",
        "prompt",
        "hotwords",
        "overwrite",
    )
    work = prepare(
        *arguments.paths,
        formats=USUAL if arguments.format is None else arguments.format,
        keep=arguments.keep,
        tell=bars.say,
        show=bars.show,
        starting=_Starting(bars),
        **{name: getattr(arguments, name) for name in (*names, *_LAUNCH)},
    )
    if arguments.dry_run:
        return _dry_run(work, as_json=arguments.json)
    _end_like_ctrl_c()
    try:
        report = work.run()
    except Interrupted as interrupted:
        bars.end()
        _print(interrupted.report, as_json=arguments.json)
        bars.say(f"Broken off. Go on with: {same_command()}")
        raise
    finally:
        bars.end()
    _print(report, as_json=arguments.json)
    if report.trouble is not None:
        bars.say(f"{report.trouble} Go on with: {same_command(session=False)}")
        return report.trouble.exit_code
    return 0 if report.complete else _NOT_COMPLETE


class _Starting:
    """Each step of a session that starts, as `launcher wait` shows it, on standard error."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._id = ""
        self._began = 0.0

    def __call__(self, status: Status) -> None:
        if status.ended:
            return  # what comes of that is said in a sentence
        if status.id != self._id:
            self._id, self._began = status.id, time.monotonic()
        where = f"{status.state} {status.phase}" if status.phase else status.state
        self._bars.say(f"{time.monotonic() - self._began:6.1f} s  {where:<18} {status.message}")


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_described(report)))
        return
    if report.results:
        head = ["Recording", "Length", "Language", "Words", "Marks", "State", "Took"]
        print(table([_row(result) for result in report.results], head=head))
    else:
        print("There is no recording to transcribe.")
    for result in report.results:
        if result.message:
            print(f"{one_line(result.path)}: {one_line(result.message)}")
    _print_marks(report)
    if report.passed_over:
        print(
            f"{report.passed_over} of the files named are transcripts by their ending, and were passed over."
        )
    if report.session is not None and report.kept:
        print(f"Session {report.session} goes on. Stop it with: launcher stop {report.session}")


def _row(result: Result) -> list[str]:
    from launcher.sessions.clock import clock
    from launcher.transcripts.report import position

    return [
        result.path,
        "" if result.duration_s is None else position(result.duration_s),
        result.language or "",
        "" if result.words is None else str(result.words),
        str(len(result.marks) or ""),
        result.state,
        "" if not result.seconds else clock(result.seconds),
    ]


def _print_marks(report: Report) -> None:
    """The passages that a person should listen to."""
    from launcher.cli.bars import cut
    from launcher.transcripts.report import position

    marked = [(result.path, mark) for result in report.results for mark in result.marks]
    if not marked:
        return
    print("Listen to these again:")
    for path, mark in marked[:_MOST_MARKS]:
        text = one_line(mark.text)
        shown = text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"
        print(f"  {cut(one_line(path), 40)} {position(mark.start)} {' and '.join(mark.marks)}: {shown}")
    if len(marked) > _MOST_MARKS:
        print(f"  and {len(marked) - _MOST_MARKS} more; json and tsv have all of them.")


def _described(report: Report) -> dict[str, Any]:
    return {
        "recordings": [result.to_dict() for result in report.results],
        "complete": report.complete,
        "session": report.session,
        "session_goes_on": report.kept,
        "passed_over": report.passed_over,
        "seconds": round(report.seconds, 3),
        "error": _error(report.trouble),
    }


def _dry_run(work: Work, *, as_json: bool) -> int:
    session, trouble = "", None
    if work.left:
        try:
            session = work.would_use()
        except LauncherError as error:
            if not as_json:
                raise
            trouble = error
    if as_json:
        recordings = [_planned(standing) for standing in work.standings]
        troubles = [{"path": path, "message": why} for path, why in work.troubles]
        said = {"recordings": recordings, "troubles": troubles, "session": session, "error": _error(trouble)}
        print(json.dumps(said))
        return 0 if trouble is None else trouble.exit_code
    if work.standings:
        rows = [
            [s.recording.shown, ", ".join(s.formats), str(s.recording.folder), _state(s)]
            for s in work.standings
        ]
        print(table(rows, head=["Recording", "To write", "In", "State"]))
    for standing in work.standings:
        if standing.why:
            print(f"{one_line(standing.recording.shown)}: {one_line(standing.why)}")
    for path, why in work.troubles:
        print(f"{one_line(path)}: {one_line(why)}")
    print(one_line(session) or "There is nothing to do.")
    return 0


def _state(standing: Standing) -> str:
    from launcher.transcripts.report import position

    if standing.whole is not None:
        return "made from the json"
    if not standing.done_s:
        return standing.state
    length = f" of {position(standing.duration_s)}" if standing.duration_s else ""
    return f"begun, {position(standing.done_s)}{length}"


def _planned(standing: Standing) -> dict[str, Any]:
    recording = standing.recording
    return {
        "path": recording.shown, "state": standing.state, "message": standing.why,
        "outputs": [str(recording.output(ending)) for ending in standing.formats],
        "done_s": standing.done_s, "duration_s": standing.duration_s,
    }  # fmt: skip


def _error(trouble: LauncherError | None) -> dict[str, Any] | None:
    if trouble is None:
        return None
    return {"kind": trouble.kind, "message": trouble.message, "hint": trouble.hint}


def _end_like_ctrl_c() -> None:
    """A batch job's end, and a terminal that closes, shall leave as little behind as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) is signal.SIG_DFL:  # nohup has its reason
            signal.signal(end, interrupt)


def same_command(*, session: bool = True) -> str:
    """What to paste to go on: without --overwrite, which would do again what is done, and a `session` that is over."""
    words = [word for word in sys.argv[1:] if word != "--overwrite"]
    if not session:
        words = [word for word in words if not word.startswith("--session=")]
        if "--session" in words:
            at = words.index("--session")
            del words[at : at + 2]
    command = " ".join(["launcher", *map(quoted, words)])
    return command if len(command) <= _LONGEST_COMMAND else "the same command"


def quoted(word: str) -> str:
    """`word` for a shell, in printable characters whatever is in it (bash and zsh read $'…')."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(
        character if character.isprintable() and character not in "\\'" else _escaped(character)
        for character in word
    )
    return f"$'{escaped}'"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
