"""The command line: reads arguments, calls `launcher.api`, prints. It decides nothing."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from launcher.cli.parser import ALIASES, JSON_OPTIONS, MODULES, parser
from launcher.errors import LauncherError, RequestError, StorageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the error's (launcher.errors), 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A model's name may not fit into a Latin-1 terminal.
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if argv is None else argv)
    given[:1] = [ALIASES.get(word, word) for word in given[:1]]
    # argparse cannot tell "-- ARGUMENT..." from further operands once options stand between them and MODEL.
    cut = given.index("--") if given[:1] in (["launch"], ["fit"]) and "--" in given else len(given)
    try:
        arguments = parser(given[0] if given else None).parse_args(given[:cut])
    except RequestError as error:
        return _tell(error, any(option in given[:cut] for option in JSON_OPTIONS), debug=False)
    arguments.engine_args = tuple(given[cut + 1 :])
    try:
        code: int = importlib.import_module(MODULES[arguments.command][0]).run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `launcher status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LauncherError as error:
        return _tell(error, arguments.json, arguments.debug)
    except OSError as error:
        where = error.filename or "The folder you are in"
        return _tell(StorageError(f"{where}: {error.strerror}."), arguments.json, arguments.debug)


def _tell(error: LauncherError, as_json: bool, debug: bool) -> int:
    if debug:
        raise error
    if as_json:
        import json

        print(json.dumps({"error": {"kind": error.kind, "message": error.message, "hint": error.hint}}))
    else:
        from launcher.cli.tables import RED, coloured, one_line

        print(f"{coloured('launcher:', RED, sys.stderr)} {one_line(str(error))}", file=sys.stderr)
    return error.exit_code
