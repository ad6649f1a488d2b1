"""A server for batch runs that answers as a question's last word says: refusals, garbage, cut connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter, defaultdict
from typing import Any

from aiohttp import web

from launcher.batch.losses import HEADER

KEY = "sk-moody"


class Moody:
    """Serves /v1/* on 127.0.0.1; `asked` counts by question, `at` has the times; `away`: everything gets 503.

    `deaths`: how many were there each time a deadly question took all of them with it.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.at: defaultdict[str, list[float]] = defaultdict(list)
        self.most = 0
        self.deaths: list[int] = []
        self._death = asyncio.Event()
        self.away = False
        self.hold = threading.Event()
        self.hold.set()
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner, self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)

    async def _start(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/v1/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        question = str(body["messages"][-1]["content"])
        self.asked[question] += 1
        self.at[question].append(time.monotonic())
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            return await self._by_mood(request, body, question)
        finally:
            self._now -= 1

    async def _by_mood(self, request: web.Request, body: dict[str, Any], question: str) -> web.StreamResponse:
        mood, times = question.rpartition(" ")[2], self.asked[question]
        while not self.hold.is_set():
            await asyncio.sleep(0.01)
        death = self._death
        if mood == "deadly" and request.headers.get("Authorization") == f"Bearer {KEY}":
            self.deaths.append(self._now)
            self._death = asyncio.Event()
            death.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(death.wait(), 0.005)
        if death.is_set():
            return _error(502, "The engine did not answer.", "engine_unreachable", {HEADER: "1"})
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _error(401, "This API key is not the session's.", "invalid_api_key")
        if self.away:
            return _error(503, "The model is starting.", "model_starting")
        if mood == "busy" and times == 1:
            return _error(429, "Slow down.", "rate_limit_exceeded", {"Retry-After": "1"})
        if mood == "cut" and times <= 2:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if mood == "broken" and times <= 2:
            return _error(500, "Internal error.", "internal")
        if mood == "poison":
            return _error(500, "Internal error.", "internal")
        if mood == "late":
            return web.Response(status=504, text="<html>Gateway Timeout</html>")
        if mood == "elsewhere":
            return web.Response(status=307, headers={"Location": "/v1/login"})
        if mood == "html":
            return web.Response(text="<html>portal</html>" if times == 1 else _json(body, question))
        if mood == "nan" and times == 1:
            return web.Response(text='{"x": NaN}')
        if mood == "long":
            return _error(400, "This model's maximum context length is 10 tokens.", "BadRequestError")
        if mood == "pretty":
            return web.Response(text=json.dumps(json.loads(_json(body, question)), indent=2))
        return web.Response(text=_json(body, question), content_type="application/json")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def _json(body: dict[str, Any], question: str) -> str:
    message = {"role": "assistant", "content": f"\u2028re: {question}"}
    usage = {"prompt_tokens": 2, "completion_tokens": 3}
    return json.dumps(
        {"model": body["model"], "choices": [{"message": message}], "usage": usage}, ensure_ascii=False
    )


def _error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": "error", "code": code}}
    return web.json_response(body, status=status, headers=headers)
