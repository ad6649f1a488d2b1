"""The Whisper server as a process: gunicorn with one set of threads, on a Unix socket.

Owns the process: its arguments, its start, its end and what it logs. gunicorn's master only watches over the process
that has the model; when that one dies, the server ends too: the session shall say so, not start it again unseen.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.gthread import ThreadWorker

from launcher.errors import LauncherError
from launcher.whisper import heap
from launcher.whisper.clients import Clients
from launcher.whisper.places import Places
from launcher.whisper.server import Server, add_options

_SPARE = 8  # threads that answer /health, and those who must come again, while all requests run that may
_END_S = 2
_MAX_UPLOAD_GB = 20.0

log = logging.getLogger("launcher.whisper")


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until a signal ends it."""
    arguments = vars(_parser().parse_args(argv))
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    # A crafted model must not be completed from elsewhere; gunicorn takes SCRIPT_NAME for a prefix of every path.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop("SCRIPT_NAME", None)
    _Program(arguments).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launcher.whisper", allow_abbrev=False)
    parser.add_argument("--uds", type=Path, required=True, metavar="PATH", help="Unix socket to listen on")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="Whisper in CTranslate2's format"
    )
    parser.add_argument("--served-name", required=True, help="the model's name in requests and answers")
    parser.add_argument(
        "--scratch", type=Path, required=True, metavar="DIR", help="where uploads lie while they are read"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="let requests name files in this folder only; may be given again",
    )
    parser.add_argument(
        "--max-upload-gb", type=float, default=_MAX_UPLOAD_GB, help="largest upload (default: %(default)g)"
    )
    add_options(parser)
    return parser


class _Threads(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's threads, whose running requests are told when the server ends."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.app.clients is not None:
            self.app.clients.end()
        super().handle_exit(sig, frame)


class _Program(BaseApplication):  # type: ignore[misc] # nor this
    clients: Clients | None = None

    def __init__(self, arguments: dict[str, Any]) -> None:
        own = ("uds", "model", "served_name", "scratch", "folder", "max_upload_gb")
        self._own = {name: arguments.pop(name) for name in own}
        self._server = Server(**arguments)
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": [f"unix:{self._own['uds']}"],
            "umask": 0o177,  # of the socket
            "workers": 1,  # whatever WEB_CONCURRENCY says
            "worker_class": _Threads,
            "threads": self._server.max_requests + _SPARE,
            "timeout": 0,  # a transcript takes as long as it takes
            "graceful_timeout": _END_S,
            "keepalive": 5,  # longer than the gateway keeps a connection that is idle
            "worker_tmp_dir": str(self._own["scratch"]),
            "control_socket_disable": True,
            "loglevel": "warning",
            "child_exit": _end_with_it,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The WSGI application; runs in the process that will have the model."""
        from launcher.whisper.app import Service, make_app
        from launcher.whisper.fields import Offered
        from launcher.whisper.transcriber import Transcriber
        from launcher.whisper.uploads import Uploads

        own = self._own
        heap.keep()
        self.clients = Clients()
        try:
            transcriber = Transcriber(own["model"], self._server)
        except LauncherError as error:
            log.error("%s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        service = Service(
            transcriber=transcriber,
            offered=Offered(own["served_name"], transcriber.languages, transcriber.multilingual),
            uploads=Uploads(own["scratch"], int(own["max_upload_gb"] * 1e9)),
            folders=tuple(own["folder"]),
            clients=self.clients,
            places=Places(self._server.max_requests, lambda: transcriber.retry_after_s),
        )
        log.info("Listening on %s", own["uds"])
        return make_app(service)


def _end_with_it(arbiter: Arbiter, _worker: ThreadWorker) -> None:
    if arbiter.LISTENERS:  # else it is ending already
        raise HaltServer("the process with the model ended", 1)
