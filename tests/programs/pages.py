"""Pages of sessions, each a fork of one process that has imported Gradio, which takes six seconds.

Each line on standard input is a JSON list: the file for its output, then the arguments of `python -m launcher.ui`. Its
process id is printed. How a session itself starts its page is tested in tests/integration.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from launcher.ui import __main__ as page


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="iod") as scratch:
        page._set_environment(Path(scratch))  # before the imports, as each page does it again for itself
        # Only to be there: whatever was imported before the fork is every page's.
        import uvicorn  # noqa: F401

        from launcher.ui import chat, transcribe  # noqa: F401

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who have ended are nobody's to wait for
        for line in sys.stdin:
            output, *arguments = json.loads(line)
            child = os.fork()
            if child == 0:
                _become(output, arguments)
            print(child, flush=True)


def _become(output: str, arguments: list[str]) -> None:
    """The page itself; it leaves by os._exit, since the scratch folder is its parent's to remove."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, place)
        code = page.main(arguments)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
