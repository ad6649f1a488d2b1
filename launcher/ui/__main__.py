"""`python -m launcher.ui --socket PATH --session DIR --gateway URL`: the page's own process.

Owns the process: its environment variables, its Unix socket (0600), its end. The key is read from the session's
directory and nowhere else.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import LauncherError, SessionError, StorageError
from launcher.sessions.paths import SessionPaths

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from launcher.ui.session import SessionFiles


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launcher.ui", description="Serve a session's page.")
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to listen on")
    parser.add_argument("--session", type=Path, required=True, help="the session's directory")
    parser.add_argument("--gateway", required=True, help="the session's gateway, e.g. http://127.0.0.1:41234")
    return parser.parse_args(argv)


def _set_environment(scratch: Path) -> None:
    """Gradio reads some fifty variables; the page's behaviour must not depend on a user's shell."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_TEMP_DIR=str(
            scratch
        ),  # its default, /tmp/gradio, belongs to whoever came first on a shared node
        HF_HUB_OFFLINE="1",
    )


def _listen(path: Path) -> socket.socket:
    """A listening Unix socket only this user can open; uvicorn's own would be 0666."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise StorageError(
            f"{path}: {error.strerror or error}.", "A socket's path may have 107 bytes."
        ) from error
    return listening


def _key(paths: SessionPaths) -> str:
    try:
        return paths.key.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SessionError(
            f"{paths.key}: {error.strerror}.", "The session writes it when it starts."
        ) from error


def _application(files: SessionFiles, gateway_url: str, key: str) -> ASGIApp:
    """The page for what the session's engine does."""
    if files.plan.engine == "whisper":
        from launcher.ui import transcribe

        return transcribe.application(files, gateway_url)
    from launcher.ui import chat
    from launcher.ui.client import Endpoint

    return chat.application(files, Endpoint(gateway_url, key, files.plan.model.served_name), gateway_url)


def main(argv: list[str] | None = None) -> int:
    """Serve the page until SIGTERM or SIGINT."""
    given = _arguments(argv)
    os.umask(0o077)
    scratch = given.socket.with_name("gradio")
    _set_environment(scratch)
    try:
        key = _key(SessionPaths(given.session))
        listening = _listen(given.socket)
        try:
            # After the checks: these two take four seconds.
            import uvicorn

            from launcher.ui.session import SessionFiles

            config = uvicorn.Config(
                _application(SessionFiles(given.session), given.gateway, key),
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=2,  # open pages hold a stream each and would hold us
            )
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            listening.close()
            given.socket.unlink(missing_ok=True)
    except LauncherError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
