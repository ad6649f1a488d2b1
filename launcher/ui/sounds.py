"""The sound of a file on the cluster, for the browser that transcribes it: `POST /sounds`, then `GET /sounds/ID`.

Owns which files may be heard: those that the session may transcribe, and of these only what begins as audio or video
does, so that this is no way to read other files. The path comes in a body and is then a random word: paths in an
address would be in the portal's log. Names are forgotten when the page's process ends, or after many others.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from launcher.whisper import cluster_files
from launcher.whisper.refusal import Refusal

_MOST = 500
_PATH_BYTES = 16 * 1024
# What a file begins with (at an offset), and what browsers call it; libmagic's audio and animation files have the same.
_BEGINNINGS = (
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xf1", "audio/aac"),
    (0, b"\xff\xf9", "audio/aac"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xfa", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\xff\xf2", "audio/mpeg"),
    (0, b"\xff\xe3", "audio/mpeg"),
    (4, b"ftyp", "video/mp4"),
    (4, b"moov", "video/quicktime"),
    (4, b"mdat", "video/quicktime"),
    (4, b"wide", "video/quicktime"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (8, b"AIFF", "audio/aiff"),
    (8, b"AIFC", "audio/aiff"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"#!AMR", "audio/amr"),
    (0, b"caff", "audio/x-caf"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-asf"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
)
_HEAD_BYTES = 16


def kind(head: bytes) -> str | None:
    """The media type of a file that begins with `head` (16 bytes); None for what is neither audio nor video."""
    return next((name for at, mark, name in _BEGINNINGS if head[at : at + len(mark)] == mark), None)


class Sounds:
    """The ASGI application of both routes; audio may lie in `folders`, or anywhere if there are none."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._paths: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        _, _, name = request.url.path.partition("/sounds")
        try:
            # A further key of the session, which somebody else may have, is none to its owner's files.
            if request.headers.get("x-launcher-own") != "1":
                raise Refusal(403, "Only the session's own key may read files of the cluster.", "not_own_key")
            if request.method == "POST" and not name:
                await self._answer(await self._named(request), scope, receive, send)
            elif request.method in ("GET", "HEAD") and (path := self._paths.get(name[1:])) is not None:
                await self._play(path, scope, receive, send)
            else:
                raise Refusal(404, "This sound is not known here. Choose the file again.", "not_found")
        except Refusal as refusal:
            await self._answer(JSONResponse(refusal.body(), refusal.status), scope, receive, send)

    async def _answer(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        response.headers["Cache-Control"] = "no-store"
        await response(scope, receive, send)

    async def _named(self, request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _PATH_BYTES:
                raise Refusal(413, "The path is too long.", "too_long", param="path")
        try:
            path = json.loads(body)["path"]
        except (ValueError, KeyError, TypeError, RecursionError):
            path = None
        if not isinstance(path, str):
            raise Refusal(400, "Send a path.", "missing_required", param="path")
        file, _ = await run_in_threadpool(self._opened, path)
        file.close()
        name = secrets.token_urlsafe(12)
        self._paths[name] = path
        if len(self._paths) > _MOST:
            self._paths.popitem(last=False)
        return JSONResponse({"id": name})

    async def _play(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        file, found = await run_in_threadpool(self._opened, path)
        with file:
            # The very file that was looked at, whatever the path names by now.
            response = FileResponse(f"/proc/self/fd/{file.fileno()}", media_type=found)
            await self._answer(response, scope, receive, send)

    def _opened(self, path: str) -> tuple[BinaryIO, str]:
        file = cluster_files.opened(path, self._folders)
        try:
            found = kind(file.read(_HEAD_BYTES))
        except OSError as error:
            file.close()
            raise Refusal(
                400, f"The file could not be read: {error.strerror}.", "not_readable", param="path"
            ) from None
        if found is None:
            file.close()
            raise Refusal(
                400, "The sound of this kind of file cannot be heard here.", "not_audio", param="path"
            )
        return file, found
