"""An upload to `/v1/files`: from the client's form to a file on disk, piece by piece."""

from __future__ import annotations

import asyncio

from launcher.batch.files import KEPT_S, UPLOADED, Files, StoredFile, TooMuchError, Upload, size_text
from launcher.batch.form import Form, FormError, Part, boundary
from launcher.batch.shown import lasts_s
from launcher.errors import RequestError
from launcher.gateway.exchange import Exchange
from launcher.gateway.long import pieces

_STEP_BYTES = 2**20
_FIELD_BYTES = 4096
_FORM_BYTES = 2**16  # what a form has around its file
_AROUND_BYTES = 2**21  # what of it may have come, the parser's own rest included


async def store(exchange: Exchange, files: Files, owner: str) -> StoredFile:
    """Take the upload that `exchange` brings; raises FormError, RequestError, TooMuchError or OSError."""
    form = Form(boundary(exchange.request.headers.text(b"content-type")))
    bounds = files.bounds
    if exchange.request.length > bounds.file_bytes + _FORM_BYTES:
        raise TooMuchError(
            f"The file is larger than the {size_text(bounds.file_bytes)} that one may have.", "Split it."
        )
    upload = await asyncio.to_thread(files.upload, owner)
    try:
        got = _Got(form, upload)
        received = 0
        async for piece in pieces(exchange):
            received += len(piece)
            for event in form.feed(piece):
                got.take(event)
            if received - upload.size - len(got.waiting) > _AROUND_BYTES:
                raise FormError("The form has too much besides its file.")
            if len(got.waiting) >= _STEP_BYTES:
                await got.flush()
        await got.flush()
        if not form.complete:
            raise FormError("The form ends in the middle. Send it again.")
        name, lasts_s = got.checked()
        kept = await asyncio.to_thread(upload.keep, name, UPLOADED, lasts_s)
    except BaseException:
        await asyncio.to_thread(upload.drop)
        raise
    return kept


class _Got:
    """What has come of the form: its few fields, and the file's bytes that are not on the disk yet."""

    def __init__(self, form: Form, upload: Upload) -> None:
        self._form, self._upload = form, upload
        self._fields: dict[str, bytearray] = {}
        self._name: str | None = None
        self._into: bytearray | None = None
        self.waiting = bytearray()

    def take(self, event: Part | bytes) -> None:
        """The head of a part, or its next bytes."""
        if isinstance(event, Part):
            if event.name == "file":
                if self._name is not None:
                    raise FormError("There are two files. Send one a request.")
                self._check_purpose(whole=False)
                self._name, self._into = event.filename or "upload.jsonl", self.waiting
            else:
                self._into = self._fields.setdefault(event.name[:64], bytearray())
        elif self._into is not None:
            self._into += event
            if self._into is not self.waiting and len(self._into) > _FIELD_BYTES:
                raise FormError("A field of the form is too long.")

    async def flush(self) -> None:
        """Put onto the disk what waits for it."""
        if self.waiting:
            data = bytes(self.waiting)
            self.waiting.clear()
            await asyncio.to_thread(self._upload.write, data)

    def checked(self) -> tuple[str, int]:
        """The file's name, and how many seconds it is to be kept."""
        if self._name is None:
            raise FormError("The form has no file. Send it in the field file.")
        self._check_purpose(whole=True)
        if not self._upload.size:
            raise RequestError("The file is empty.", "Send one with at least one line.")
        return self._name, self._lasts_s()

    def _check_purpose(self, *, whole: bool) -> None:
        purpose = self._text("purpose")
        if purpose == UPLOADED or (purpose is None and not whole):
            return
        said = "purpose is missing." if purpose is None else f'purpose cannot be "{purpose[:40]}".'
        raise RequestError(said, f"Files are stored here for batches: {UPLOADED}.")

    def _lasts_s(self) -> int:
        anchor, seconds = self._text("expires_after[anchor]"), self._text("expires_after[seconds]")
        if anchor is None and seconds is None:
            return KEPT_S
        number = int(seconds) if seconds is not None and seconds.isascii() and seconds.isdigit() else None
        return lasts_s({"anchor": anchor, "seconds": number}, "expires_after")

    def _text(self, name: str) -> str | None:
        found = self._fields.get(name)
        return found.decode("utf-8", "replace").strip() if found is not None else None
