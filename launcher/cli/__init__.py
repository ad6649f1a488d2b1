"""The command line: reads arguments, calls `launcher.api`, prints. It decides nothing."""

from __future__ import annotations

import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence

from launcher.cli.parser import AFTER_DASHES, ALIASES, JSON_OPTIONS, MODULES, parser
from launcher.errors import LauncherError, RequestError, StorageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the error's (launcher.errors), 130 after Ctrl-C."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # launcher status >&-
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the end
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A model's name may not fit into a Latin-1 terminal.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # while a command was being loaded; later ones are told in `_caught`
        code = 130
    if argv is None and code == 130:
        # A second Ctrl-C would be a traceback of the program's own end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _main(given: list[str]) -> int:
    """Run one command, here or on another cluster."""
    if given[:1] == ["help"]:
        given = [*given[1:2], "--help"]
    given[:1] = [ALIASES.get(word, word) for word in given[:1]]
    if given and (given[0].partition("=")[0] == "--cluster" or os.environ.get("LAUNCHER_CLUSTER")):
        from launcher.cli.cluster import elsewhere

        return _caught(lambda: elsewhere(given, _here), _asks_json(given), debug="--debug" in given)
    if given[:1] not in (["status"], ["list"], ["details"]):
        return _here(given)
    # These keep all that they make to their end: to look for garbage meanwhile is an eighth of their time.
    usual = gc.get_threshold()
    gc.set_threshold(100_000)
    try:
        return _here(given)
    finally:
        gc.set_threshold(*usual)


def _here(given: list[str]) -> int:
    """Run one command of this machine."""
    # argparse cannot tell "-- ARGUMENT..." from further operands once options stand between them and MODEL.
    cut = given.index("--") if given[:1] and given[0] in AFTER_DASHES and "--" in given else len(given)
    try:
        arguments = parser(given[0] if given else None).parse_args(given[:cut])
    except RequestError as error:
        return _tell(error, _asks_json(given[:cut]), debug=False)
    arguments.engine_args = (*getattr(arguments, "engine_args", ()), *given[cut + 1 :])

    def run() -> int:
        if arguments.command in ("launch", "run", "batch-launch"):
            from launcher.cli.cluster import for_profile

            if (there := for_profile(arguments, given, _here)) is not None:
                return there
        code: int = importlib.import_module(MODULES[arguments.command][0]).run(arguments)
        return code

    return _caught(run, arguments.json, arguments.debug)


def _asks_json(words: Sequence[str]) -> bool:
    return any(option in words for option in JSON_OPTIONS)


def _caught(run: Callable[[], int], as_json: bool, debug: bool) -> int:
    try:
        code = run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `launcher status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LauncherError as error:
        return _tell(error, as_json, debug)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | PermissionError)
        where = error.filename or ("The folder you are in" if gone else "What it writes to")
        return _tell(StorageError(f"{where}: {error.strerror}."), as_json, debug)


def _tell(error: LauncherError, as_json: bool, debug: bool) -> int:
    if debug:
        raise error
    if as_json:
        import json

        told = {name: getattr(error, name) for name in ("kind", "message", "hint", "reason", "quote", "log")}
        try:
            print(json.dumps({"error": told}), flush=True)
        except OSError:  # nothing can be told there: launcher status --json > /dev/full
            return _tell(error, False, debug)
    else:
        from launcher.cli.tables import RED, coloured, one_line

        print(f"{coloured('launcher:', RED, sys.stderr)} {one_line(str(error))}", file=sys.stderr)
        for line in (error.quote or "").splitlines():
            print(f"  > {one_line(line)}", file=sys.stderr)
    return error.exit_code
