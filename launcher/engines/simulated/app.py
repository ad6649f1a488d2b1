"""The HTTP side of the simulated engine: OpenAI's routes as vLLM answers them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from aiohttp import WSMsgType, web

from launcher.engines.simulated import answers
from launcher.engines.simulated.answers import Json, RefusedError, Reply
from launcher.engines.simulated.counts import Counts
from launcher.engines.simulated.script import Script


class SimulatedEngine:
    """The routes of one engine that serves `name`; `on_first_answer` is called once, after that answer.

    `fail` ends the program.
    """

    def __init__(
        self, script: Script, name: str, on_first_answer: Callable[[], None], fail: Callable[[Script], None]
    ) -> None:
        self.script = script
        self.name = name
        self.counts = Counts()
        self._ids = itertools.count(1)
        self._created = int(time.time())
        self._fail = fail
        self._on_first_answer: Callable[[], None] | None = on_first_answer

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=2**62, middlewares=[_refusals])
        get, post = app.router.add_get, app.router.add_post
        get("/health", self._health)
        post("/ping", self._health)
        get("/version", self._version)
        get("/metrics", self._metrics)
        get("/v1/models", self._models)
        get("/simulated/requests", self._requests)
        post("/v1/chat/completions", self._chat)
        post("/v1/completions", self._completions)
        post("/v1/embeddings", self._embeddings)
        post("/v1/audio/transcriptions", self._transcriptions)
        post("/tokenize", self._tokenize)
        get("/v1/realtime", self._realtime)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "simulated"})

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.counts.as_prometheus(self.name), content_type="text/plain")

    async def _requests(self, request: web.Request) -> web.Response:
        return web.json_response(self.counts.as_json())

    async def _models(self, request: web.Request) -> web.Response:
        model = {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "simulated",
            "root": self.name,
            "parent": None,
            "max_model_len": 32768,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await self._body(request)
        asked, prompt = answers.question(body, chat)
        if self.script.fail_on is not None and self.script.fail_on in asked:
            self._fail(self.script)
        images = answers.images_in(body) if chat else 0
        if images and self.script.no_images:  # vLLM's words for a model without an image side
            raise RefusedError(400, "BadRequestError", f"{self.name} is not a multimodal model")
        self.counts.images += images
        limit = answers.limit_of(body, chat)
        tokens, reason = answers.answer(self.script, asked, limit, chat, images)
        identity = f"{'chatcmpl' if chat else 'cmpl'}-simulated-{next(self._ids)}"
        head: Json = {"id": identity, "created": int(time.time()), "model": self.name}
        reply = Reply(head, tokens, reason, prompt, chat)
        with self._counted(prompt):
            await self._hang()
            if body.get("stream"):
                return await self._stream(request, reply, body.get("stream_options") or {})
            async for _ in self._paced(tokens):
                pass
        self._answered()
        return web.json_response(reply.whole())

    async def _stream(self, request: web.Request, reply: Reply, options: Json) -> web.StreamResponse:
        include, continuous = bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        done = 0

        async def send(event: Json) -> None:
            if include and "usage" not in event:
                event["usage"] = answers.usage(reply.prompt, done) if continuous else None
            await response.write(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")

        if reply.chat:
            await send(reply.chunk(None))
        async for token in self._paced(reply.tokens):
            done += 1
            last = reply.reason == "length" and done == len(reply.tokens)
            await send(reply.chunk(token, reply.reason if last else None))
        if reply.reason == "stop":
            await send(reply.chunk("", reply.reason))
        if include:
            await send(reply.usage_chunk(done))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        self._answered()
        return response

    async def _paced(self, tokens: Sequence[str]) -> AsyncIterator[str]:
        """The tokens at the scripted rate; the schedule is absolute, so that pauses do not add up."""
        begun = time.monotonic()
        due = begun + self.script.first_token_ms / 1000
        step = 1 / self.script.token_rate if self.script.token_rate else 0.0
        for index, token in enumerate(tokens):
            pause = due - time.monotonic()
            if pause > 0 or index % 64 == 63:  # let others run, even when no pause is scripted
                await asyncio.sleep(max(0.0, pause))
            if index == 0:
                self.counts.first_tokens += 1
                self.counts.first_token_s += time.monotonic() - begun
            due += step
            self.counts.generation_tokens += 1
            yield token

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        given = body.get("input")
        texts = [text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str)]
        if not texts or (isinstance(given, list) and len(texts) < len(given)):
            raise RefusedError(400, "BadRequestError", "input must be a text or a list of texts.", "input")
        count = sum(len(answers.words(text)) for text in texts)
        with self._counted(count):
            await self._hang()
            data = [
                {"object": "embedding", "index": index, "embedding": answers.embedding(text)}
                for index, text in enumerate(texts)
            ]
        head = {"id": f"embd-simulated-{next(self._ids)}", "object": "list", "created": int(time.time())}
        self._answered()
        return web.json_response({**head, "model": self.name, "data": data, "usage": answers.usage(count, 0)})

    async def _transcriptions(self, request: web.Request) -> web.Response:
        """Reads an upload of any size without keeping it, and says how big it was."""
        size = 0
        with self._counted(0):
            await self._hang()
            async for part in request.content.iter_any():
                size += len(part)
                self.counts.upload_bytes += len(part)
        self._answered()
        return web.json_response({"text": f"Simulated transcription of {size} bytes."})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        text, _ = answers.question(body, "messages" in body)
        tokens = answers.words(text)
        ids = list(range(len(tokens)))
        return web.json_response({"count": len(ids), "max_model_len": 32768, "tokens": ids})

    async def _realtime(self, request: web.Request) -> web.WebSocketResponse:
        """An echo, after OpenAI's greeting."""
        socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=2**26)
        await socket.prepare(request)
        with self._counted(0):
            await socket.send_json({"type": "session.created", "session": {"model": self.name}})
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
        return socket

    async def _body(self, request: web.Request) -> Json:
        try:
            body = json.loads(await request.read())
        except ValueError as error:
            raise RefusedError(400, "BadRequestError", f"The body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise RefusedError(400, "BadRequestError", "The body must be a JSON object.")
        model = body.get("model")
        if model is not None and model != self.name:
            raise RefusedError(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
        return body

    async def _hang(self) -> None:
        if self.script.hang_at == "ready":
            await asyncio.Event().wait()

    def _answered(self) -> None:
        if self._on_first_answer is not None:
            self._on_first_answer()
            self._on_first_answer = None

    @contextlib.contextmanager
    def _counted(self, prompt_tokens: int) -> Iterator[None]:
        counts, begun = self.counts, time.monotonic()
        counts.running += 1
        counts.started += 1
        counts.prompt_tokens += prompt_tokens
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            counts.cancelled += 1
            raise
        else:
            counts.finished += 1
            counts.latency_s += time.monotonic() - begun
        finally:
            counts.running -= 1


@web.middleware
async def _refusals(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],  # aiohttp calls it so
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as refused:
        return web.json_response(refused.body, status=refused.code)
    except web.HTTPNotFound:
        return web.json_response({"detail": "Not Found"}, status=404)  # as FastAPI says it
