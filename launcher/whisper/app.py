"""The routes of the Whisper server, as OpenAI's clients expect them.

Owns what happens to a request from its first byte to its last; who may ask at all is the gateway's business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from launcher.whisper import cluster_files, events, fields
from launcher.whisper.answers import Answer
from launcher.whisper.clients import Clients
from launcher.whisper.fields import ALIAS, Asked, Offered
from launcher.whisper.places import Places
from launcher.whisper.refusal import Refusal, model_broken
from launcher.whisper.uploads import Head, Received, Uploads

if TYPE_CHECKING:
    from launcher.whisper.transcriber import Piece, Transcriber

OWN_HEADER = "X-Launcher-Own"  # the gateway: this request came with the session's own key
_PATIENCE_S = 5.0  # how long the status of a stream waits for what goes wrong at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes need."""

    transcriber: Transcriber
    offered: Offered
    uploads: Uploads
    folders: Sequence[Path]
    clients: Clients
    places: Places


def make_app(service: Service) -> Flask:
    """The WSGI application."""
    app = Flask("launcher.whisper", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # of the default provider
    begun = int(time.time())

    @app.get("/health")
    def health() -> Response:
        if (why := service.transcriber.broken) is not None:
            raise model_broken(why)
        waiting = service.transcriber.waiting
        return jsonify({"status": "ok", "requests": service.places.taken, "stretches": waiting})

    @app.get("/version")
    def versions() -> Response:
        return jsonify({"version": version("faster-whisper"), "ctranslate2": version("ctranslate2")})

    @app.get("/v1/models")
    def models() -> Response:
        listed = [_card(service, name, begun) for name in (service.offered.model, ALIAS)]
        return jsonify({"object": "list", "data": listed})

    @app.get("/v1/models/<path:name>")
    def model(name: str) -> Response:
        if name not in (service.offered.model, ALIAS):
            raise fields.no_such_model(name, service.offered)
        return jsonify(_card(service, name, begun))

    @app.post("/v1/audio/transcriptions")
    def transcriptions() -> Response:
        return _audio(service, "transcribe")

    @app.post("/v1/audio/translations")
    def translations() -> Response:
        return _audio(service, "translate")

    @app.errorhandler(Refusal)
    def refused(refusal: Refusal) -> Response:
        return _refused(refusal)

    @app.errorhandler(HTTPException)
    def wrong_way(error: HTTPException) -> Response:
        status = error.code or 500
        what = {404: "Invalid URL", 405: "Not allowed"}.get(status, error.name)
        answer = _refused(Refusal(status, f"{what} ({request.method} {request.path[:80]})", _code(error)))
        if isinstance(error, MethodNotAllowed):
            answer.headers["Allow"] = ", ".join(error.valid_methods or ())
        return answer

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        log.error("A request failed", exc_info=error)
        return _refused(
            Refusal(500, "The server failed at this request. See the session's log.", "internal_error")
        )

    return app


def _code(error: HTTPException) -> str:
    return error.name.lower().replace(" ", "_")


def _refused(refusal: Refusal) -> Response:
    answer = jsonify(refusal.body())
    answer.status_code = refusal.status
    if refusal.retry_after_s is not None:
        answer.headers["Retry-After"] = str(refusal.retry_after_s)
    return answer


def _card(service: Service, name: str, created: int) -> dict[str, Any]:
    offered = service.offered
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "launcher",
        "root": offered.model,
        "languages": list(offered.languages),
        "multilingual": offered.multilingual,
        "batch_size": service.transcriber.batch_size,
        "compute_type": service.transcriber.device.compute_type,
        "max_hours": service.transcriber.max_hours,
        "max_upload_bytes": service.uploads.max_bytes,
    }


def _audio(service: Service, task: str) -> Response:
    with ExitStack() as open_parts:
        open_parts.enter_context(service.places.one(own=_is_own()))
        left = open_parts.enter_context(service.clients.watched(request.environ["gunicorn.socket"]))
        head = Head(request.headers.get("Content-Type", ""), request.content_length)
        received = open_parts.enter_context(
            service.uploads.received(request.environ["wsgi.input"], head, partial(_check_early, service))
        )
        asked = fields.asked(received.fields, task, service.offered)
        sound = open_parts.enter_context(closing(_sound(service, received, asked)))
        made = open_parts.enter_context(closing(_made(service, sound, asked, left)))
        answer = Answer(asked)
        if not asked.stream:
            for piece in made:
                answer.add(piece)
            return answer.response()
        pieces = open_parts.enter_context(closing(events.Pieces(made, left, service.clients.gone)))
        pieces.begin(_PATIENCE_S)
        response = Response(events.stream(pieces, answer), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # nginx, where a site has one in between
        response.call_on_close(open_parts.pop_all().close)
        return response


def _is_own() -> bool:
    return request.headers.get(OWN_HEADER) == "1"


def _check_early(service: Service, form: fields.Form) -> None:
    if "model" in form:  # it may also come after the file
        fields.check_model(form, service.offered)


def _sound(service: Service, received: Received, asked: Asked) -> BinaryIO:
    if asked.path is None:
        if received.file is None:
            raise Refusal(
                400, "There is no audio: send a file in the field file.", "missing_required", param="file"
            )
        return received.file
    if received.file is not None:
        raise Refusal(400, "Send either file or path, not both.", "invalid_value", param="path")
    if not _is_own():
        raise Refusal(
            403,
            "Only the session's own key may name files on the cluster. Upload the file.",
            "path_not_allowed",
            param="path",
        )
    return cluster_files.opened(asked.path, service.folders, asked.path_version)


def _made(service: Service, sound: BinaryIO, asked: Asked, left: Event) -> Generator[Piece]:
    with closing(service.transcriber.transcribe(sound, asked.wanted, left)) as pieces:
        yield from pieces
    if left.is_set():
        raise service.clients.gone()
