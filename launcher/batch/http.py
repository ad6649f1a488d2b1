"""OpenAI's `/v1/files` and `/v1/batches` at a gateway, a session's or an endpoint's; FIRST's shape of batches too.

Says what each request gets. The files are `files`' business, the batches' course `carrier`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, quote, unquote

from launcher.batch import first, shown
from launcher.batch.batches import FAILED, Asked, Batches, Place, State
from launcher.batch.carrier import Carrier, Rhythm
from launcher.batch.files import Bounds, Files, StoredFile, TooMuchError
from launcher.batch.form import FormError
from launcher.batch.passes import Passes, owner_of
from launcher.batch.upload import store
from launcher.errors import LauncherError, RequestError
from launcher.gateway import answers
from launcher.gateway.answers import Answer
from launcher.gateway.exchange import Exchange
from launcher.gateway.keys import Holder
from launcher.gateway.long import reply_long
from launcher.gateway.request import SAFE_METHODS
from launcher.gateway.routes import Target

# FIRST's own root may come before its shape of a path.
_PATH = re.compile(
    r"(?:/resource_server)?(?:/([^/]+)/([^/]+))?/v1/(files|batches)(?:/([^/]+))?(?:/([a-z]+))?/?"
)
_BODY_BYTES = 2**16
_READ_BYTES = 2**18
_FIELDS_MOST = 32
_FILES_MOST, _BATCHES_MOST, _BATCHES_SHOWN = 10_000, 100, 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _No(Exception):  # noqa: N818 - it is an answer
    """What a request gets that is not done."""

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = answers.refused(status, message, code, headers)


class BatchAPI:
    """Files and batches in `folder` (private, lasting); `url` is the gateway's own, `touch` keeps sessions awake.

    `models` are the names that a key may use (None: whoever answers the requests says so), `knows` says whether it
    sees such a cluster with such a framework; with `by_cluster` the requests of its batches go there alone. `start`
    once the gateway answers, `stop` before it ends.
    """

    def __init__(
        self,
        folder: Path,
        passes: Passes,
        *,
        url: Callable[[], str],
        touch: Callable[[], None],
        models: Callable[[Holder], Collection[str]] | None = None,
        knows: Callable[[Holder, str, str], bool] | None = None,
        bounds: Bounds | None = None,
        by_cluster: bool = False,
        rhythm: Rhythm | None = None,
    ) -> None:
        self._bounds = bounds = bounds or Bounds()
        self._files = Files(folder / "files", bounds)
        self._batches = Batches(folder / "batches", bounds.batches)

        def at(asked: Asked) -> str:
            named = by_cluster and asked.cluster
            return f"{url()}/{quote(asked.cluster)}/{quote(asked.framework)}" if named else url()

        self._carrier = Carrier(self._batches, self._files, passes, at, touch, bounds, rhythm or Rhythm())
        self._touch = touch
        self._models = models
        self._knows = knows

    def start(self) -> None:
        """Go on with what is not finished."""
        self._carrier.start()

    async def stop(self) -> None:
        """End the programs that run; whoever starts next on this folder goes on."""
        await self._carrier.stop()

    def going_on(self, holder: Holder) -> list[tuple[Asked, State]]:
        """The holder's own batches that are not over, the newest first; blocks."""
        return self._batches.going_on(owner_of(holder))

    @staticmethod
    def serves(path: str) -> bool:
        """Whether a request for `path` is for `answer`."""
        return ("/v1/files" in path or "/v1/batches" in path) and _PATH.fullmatch(path) is not None

    async def answer(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        """Answer a request for a path that is served here."""
        exchange.free = True
        # Looking and cancelling cost nothing: a batch uses up its key's requests, and its owner still sees how it goes.
        makes = exchange.request.method == "POST" and not target.path.endswith("/cancel")
        if makes and holder.budget is not None and (wait_s := holder.budget.admit()) > 0:
            exchange.reply(answers.over_limit(wait_s))
            return
        if makes:
            self._touch()
        try:
            await self._answer(exchange, target, holder)
        except _No as no:
            exchange.reply(no.answer)
        except FormError as error:
            exchange.reply(answers.refused(400, str(error), "malformed_form", close=True))
        except TooMuchError as error:
            exchange.reply(answers.refused(413, str(error), "file_too_large", close=True))
        except LauncherError as error:
            exchange.reply(
                answers.refused(400, str(error), "invalid_value", close=not exchange.incoming.complete)
            )
        except OSError as error:
            full = error.errno in _FULL
            message = f"The file system of the gateway cannot store this: {error.strerror}."
            body = answers.error_body(message, "server_error", "storage_full" if full else "storage")
            exchange.reply(answers.json_answer(507 if full else 500, body, close=True))

    async def _answer(self, exchange: Exchange, target: Target, holder: Holder) -> None:
        found = _PATH.fullmatch(target.path)
        assert found is not None
        cluster, framework, kind, name, what = found.groups()
        cluster, framework = unquote(cluster or "") or None, unquote(framework or "") or None
        if cluster is not None and (kind == "files" or not self._known(holder, cluster, framework or "")):
            raise _No(404, f"There is no {cluster}/{framework} here.", "not_found")
        try:
            query = parse_qs(target.query[1:], max_num_fields=_FIELDS_MOST)
        except ValueError:
            raise _No(400, "The query has too many fields.", "invalid_value") from None
        method = "GET" if exchange.request.method in SAFE_METHODS else exchange.request.method
        owner = owner_of(holder)
        match kind, name, what, method:
            case "files", None, None, "POST":
                stored = await store(exchange, self._files, owner)
                exchange.reply(answers.json_answer(200, stored.as_json()))
            case "files", None, None, "GET":
                exchange.reply(answers.json_answer(200, await self._list_files(owner, query)))
            case "files", str(), None, "GET":
                exchange.reply(answers.json_answer(200, (await self._stored(owner, name)).as_json()))
            case "files", str(), None, "DELETE":
                if not await asyncio.to_thread(self._files.delete, owner, name):
                    raise _no_file(name)
                exchange.reply(answers.json_answer(200, {"id": name, "object": "file", "deleted": True}))
            case "files", str(), "content", "GET":
                await self._send(exchange, owner, name)
            case "batches", None, None, "POST":
                exchange.go_on()
                body = await _body(exchange)
                asked, state = await self._make(body, holder, cluster, framework)
                answer = first.submitted(asked, state) if cluster is not None else shown.batch(asked, state)
                exchange.reply(answers.json_answer(200, answer))
            case "batches", None, None, "GET":
                exchange.reply(answers.json_answer(200, await self._list(owner, query, cluster)))
            case "batches", str(), None, "GET":
                asked, _, state = await self._seen(owner, name)
                told = first.OF_STATUS[state.status] if cluster is not None else shown.batch(asked, state)
                exchange.reply(answers.json_answer(200, told))
            case "batches", str(), "cancel", "POST":
                asked, place, state = await self._seen(owner, name)
                if not state.final:
                    await asyncio.to_thread(place.cancel.touch, 0o600)
                    self._carrier.carry(asked, place)
                    self._carrier.wake(place)
                    _, _, state = await self._seen(owner, name)
                exchange.reply(answers.json_answer(200, shown.batch(asked, state)))
            case "batches", str(), "result", "GET":
                exchange.reply(answers.json_answer(200, await self._result(owner, name, cluster)))
            case _ if _allowed(kind, name, what):
                allow = {"Allow": ", ".join(_allowed(kind, name, what))}
                raise _No(405, f"{method} is not allowed here.", "method_not_allowed", allow)
            case _:
                raise _No(404, "Nothing is served here.", "not_found")

    def _known(self, holder: Holder, cluster: str, framework: str) -> bool:
        return self._knows is None or self._knows(holder, cluster, framework)

    # -- files

    async def _stored(self, owner: str, name: str) -> StoredFile:
        found = await asyncio.to_thread(self._files.get, owner, name)
        if found is None:
            raise _no_file(name)
        return found

    async def _list_files(self, owner: str, query: dict[str, list[str]]) -> dict[str, Any]:
        limit, after = _limit(query, _FILES_MOST, _FILES_MOST), _one(query, "after")
        purpose, order = _one(query, "purpose"), _one(query, "order")
        found = await asyncio.to_thread(self._files.list, owner)
        found = [one for one in found if purpose is None or one.purpose == purpose]
        if order == "asc":
            found.reverse()
        if after is not None:
            places = [number for number, one in enumerate(found) if one.id == after]
            if not places:
                raise _no_file(after)
            found = found[places[0] + 1 :]
        return shown.page([one.as_json() for one in found[:limit]], len(found) > limit)

    async def _send(self, exchange: Exchange, owner: str, name: str) -> None:
        stored = await self._stored(owner, name)
        try:
            file = await asyncio.to_thread(self._files.content(owner, name).open, "rb", 0)
        except FileNotFoundError:
            raise _no_file(name) from None
        with file:
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Disposition": f'attachment; filename="{stored.id}.jsonl"',
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }
            await reply_long(exchange, Answer(200, headers=headers), stored.bytes, _read(file, stored.bytes))
        if exchange.request.method == "GET":
            await asyncio.to_thread(self._files.fetched, owner, name)

    # -- batches

    async def _make(
        self, body: dict[str, Any], holder: Holder, cluster: str | None, framework: str | None
    ) -> tuple[Asked, State]:
        owner, now = owner_of(holder), time.time()
        window, seconds = shown.window_of(body)
        asked = Asked(
            self._batches.new_id(),
            owner,
            holder.name,
            now,
            now + seconds,
            window,
            metadata=shown.metadata_of(body),
            output_lasts_s=shown.output_lasts_s(body),
            cluster=cluster or "",
            framework=framework or "",
        )
        if first.is_wish(body):
            asked = await self._wished(body, holder, asked)
            content = None
        else:
            await asyncio.to_thread(self._files.room, owner)  # its answers will take some, too
            input_id, content = await self._input(body, owner)
            names = tuple(sorted(self._models(holder))) if self._models is not None else ()
            only = names[0] if len(names) == 1 else None
            endpoint = shown.endpoint_of(body)
            asked = _with(asked, endpoint=endpoint, input_file_id=input_id, model=only, models=names)
        await asyncio.to_thread(self._batches.make, asked, content)
        self._carrier.carry(asked, self._batches.place(asked))
        return asked, State()

    async def _wished(self, body: dict[str, Any], holder: Holder, asked: Asked) -> Asked:
        if not holder.own or holder.budget is not None:
            raise _No(403, "This key may not name files by their paths. Upload the file.", "path_not_allowed")
        wish = await asyncio.to_thread(first.wish, body, self._bounds.file_bytes)
        if self._models is not None and wish.model not in self._models(holder):
            raise _No(404, f'The model "{wish.model[:80]}" is not served here.', "model_not_found")
        given = str(wish.input)
        for other, place in await asyncio.to_thread(lambda: list(self._batches.of(asked.owner))):
            if other.input == given and not (await asyncio.to_thread(place.read_state)).final:
                raise _No(
                    400, f"{other.id}, which is not finished, has the same input file.", "batch_ongoing"
                )
        output = await asyncio.to_thread(first.output_of, wish, asked.id)
        folder = str(wish.output) if wish.output is not None else None
        return _with(
            asked, model=wish.model, input=given, folder=folder, output=str(output) if output else None
        )

    async def _input(self, body: dict[str, Any], owner: str) -> tuple[str, Path]:
        given = body.get("input_file_id")
        if not isinstance(given, str) or not given:
            raise RequestError("input_file_id is missing.", "Upload a file first.")
        if await asyncio.to_thread(self._files.get, owner, given) is None:
            raise RequestError(f'There is no file "{given[:60]}".', "Upload it with the purpose batch.")
        return given, self._files.content(owner, given)

    async def _list(
        self, owner: str, query: dict[str, list[str]], cluster: str | None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        limit, after = _limit(query, _BATCHES_SHOWN, _BATCHES_MOST), _one(query, "after")
        status = _one(query, "status")
        wanted = first.statuses(status, theirs=cluster is not None) if status else None

        def read() -> list[tuple[Asked, State]]:
            found, seen_after = [], after is None
            for asked, place in self._batches.of(owner):
                if not seen_after:
                    seen_after = asked.id == after
                    continue
                state = place.seen()
                if wanted is None or state.status in wanted:
                    found.append((asked, state))
                    if cluster is None and len(found) > limit:
                        break
            if not seen_after:
                raise _no_batch(after or "")
            return found

        found = await asyncio.to_thread(read)
        if cluster is not None:  # FIRST's list is a plain one of all
            return [first.listed(asked, state) for asked, state in found]
        return shown.page([shown.batch(asked, state) for asked, state in found[:limit]], len(found) > limit)

    async def _seen(self, owner: str, name: str) -> tuple[Asked, Place, State]:
        found = await asyncio.to_thread(self._batches.get, owner, name)
        if found is None:
            raise _no_batch(name)
        return *found, await asyncio.to_thread(found[1].seen)

    async def _result(self, owner: str, name: str, cluster: str | None) -> object:
        asked, _, state = await self._seen(owner, name)
        if not state.final:
            raise _No(400, "The batch is not completed yet.", "batch_ongoing")
        if state.status == FAILED:
            why = "; ".join(str(error.get("message")) for error in state.errors[:3])
            raise _No(400, f"The batch failed: {why}", "batch_failed")
        content = self._files.content(owner, state.output_file_id) if state.output_file_id else None
        told = first.result(asked, content, state)
        return json.dumps(told) if cluster is not None else told  # FIRST's is a text, which holds JSON


def _allowed(kind: str, name: str | None, what: str | None) -> tuple[str, ...]:
    if what is None:
        of_one = ("GET", "DELETE") if kind == "files" else ("GET",)
        return of_one if name is not None else ("GET", "POST")
    known = {
        ("files", "content"): ("GET",),
        ("batches", "cancel"): ("POST",),
        ("batches", "result"): ("GET",),
    }
    return known.get((kind, what), ())


def _with(asked: Asked, **changes: Any) -> Asked:
    return dataclasses.replace(asked, **changes)


def _no_file(name: str) -> _No:
    return _No(404, f'There is no file "{name[:60]}".', "file_not_found")


def _no_batch(name: str) -> _No:
    return _No(404, f'There is no batch "{name[:60]}".', "batch_not_found")


def _one(query: dict[str, list[str]], name: str) -> str | None:
    return query[name][-1] if name in query else None


def _limit(query: dict[str, list[str]], usual: int, most: int) -> int:
    given = _one(query, "limit")
    if given is None:
        return usual
    if not (re.fullmatch(r"[0-9]{1,9}", given) and 1 <= int(given) <= most):
        raise RequestError(f'limit must be a whole number from 1 to {most}, not "{given[:20]}".')
    return int(given)


async def _body(exchange: Exchange) -> dict[str, Any]:
    text = await exchange.body(_BODY_BYTES)
    if text is None:
        raise _No(413, "The body is too long. Requests are sent as a file.", "body_too_long")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise _No(400, "The body must be JSON.", "invalid_json") from None
    if not isinstance(body, dict):
        raise _No(400, "The body must be a JSON object.", "invalid_json")
    return body


async def _read(file: BinaryIO, length: int) -> AsyncIterator[bytes]:
    while length > 0:
        piece = await asyncio.to_thread(file.read, min(_READ_BYTES, length))
        if not piece:
            raise OSError(errno.EIO, "the file has become shorter")
        length -= len(piece)
        yield piece
