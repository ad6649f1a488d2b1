"""The page's client against the real gateway and the simulated engine; and the snippets, run as pasted."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Protocol

import pytest

from launcher.ui import client
from launcher.ui.client import Endpoint, Message, Reply, Sampling
from launcher.ui.snippets import snippets
from tests.programs.front import KEY, RunningGateway, SimulatedEngine, wait_until

ASKED: list[Message] = [{"role": "user", "content": "What is the capital of France?"}]
Engines = Callable[..., SimulatedEngine]
Gateways = Callable[..., RunningGateway]


class Connected(Protocol):
    def __call__(self, url: str, key: str = KEY, model: str = "tiny") -> Endpoint: ...


@pytest.fixture
async def connect() -> AsyncIterator[Connected]:
    """Make endpoints that are closed at the end."""
    made: list[Endpoint] = []

    def to(url: str, key: str = KEY, model: str = "tiny") -> Endpoint:
        made.append(Endpoint(url, key, model))
        return made[-1]

    yield to
    for endpoint in made:
        await endpoint.close()


async def answer(endpoint: Endpoint, sampling: Sampling | None = None) -> list[Reply]:
    return [reply async for reply in endpoint.answer(ASKED, sampling or Sampling())]


async def test_the_answer_grows_and_is_counted(
    connect: Connected, start_engine: Engines, start_gateway: Gateways
) -> None:
    engine = start_engine("--token-rate", "20", "--answer", "It is Paris, as one knows.")
    replies = await answer(connect(start_gateway(engine=engine.socket).url))
    assert len({reply.text for reply in replies}) > 3
    last = replies[-1]
    assert (last.text, last.finished, last.trouble) == ("It is Paris, as one knows.", "stop", None)
    assert (last.prompt_tokens, last.completion_tokens) == (6, 6)
    assert last.first_token_s is not None
    assert 0 < last.first_token_s < last.elapsed_s
    assert last.tokens_per_s is not None


async def test_fast_engines_do_not_flood_the_browser(
    connect: Connected, start_engine: Engines, start_gateway: Gateways
) -> None:
    engine = start_engine("--tokens", "2000")
    begun = time.monotonic()
    replies = await answer(connect(start_gateway(engine=engine.socket).url))
    assert replies[-1].completion_tokens == 2000
    assert len(replies) <= (time.monotonic() - begun) / client.SHOW_EVERY_S + 2


async def test_sampling_is_passed_on(connect: Connected, front: RunningGateway) -> None:
    last = (await answer(connect(front.url), Sampling(0.5, 0.9, 2)))[-1]
    assert (last.completion_tokens, last.finished) == (2, "length")


async def test_a_silent_engine_has_a_heartbeat_and_is_left_at_once(
    connect: Connected, start_engine: Engines, start_gateway: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "HEARTBEAT_S", 0.1)
    engine = start_engine("--first-token-ms", "600000")
    endpoint = connect(start_gateway(engine=engine.socket).url)
    async with aclosing(endpoint.answer(ASKED, Sampling())) as replies:
        for _ in range(8):
            assert (await anext(replies)).text == ""
        await asyncio.to_thread(wait_until, lambda: engine.counts()["running"] == 1)
    await asyncio.to_thread(wait_until, lambda: engine.counts()["running"] == 0)
    assert engine.counts()["cancelled"] == 1


async def test_a_cancelled_task_ends_the_request(
    connect: Connected, start_engine: Engines, start_gateway: Gateways
) -> None:
    engine = start_engine("--token-rate", "20", "--tokens", "5000")
    endpoint = connect(start_gateway(engine=engine.socket).url)
    task = asyncio.ensure_future(answer(endpoint))
    await asyncio.to_thread(wait_until, lambda: engine.counts()["running"] == 1)
    task.cancel()
    await asyncio.to_thread(wait_until, lambda: engine.counts()["running"] == 0)


@pytest.mark.parametrize(
    ("key", "model", "ready", "words"),
    [
        ("sk-" + "0" * 64, "tiny", True, "key is no longer accepted"),
        (KEY, "other", True, "The model `other` does not exist."),
        (KEY, "tiny", False, "not ready yet"),
    ],
)
async def test_trouble_in_words(
    key: str, model: str, ready: bool, words: str, connect: Connected, front: RunningGateway
) -> None:
    front.routes.ready = ready
    replies = await answer(connect(front.url, key, model))
    assert words in (replies[-1].trouble or "")


async def test_no_gateway(connect: Connected) -> None:
    assert "cannot be reached" in ((await answer(connect("http://127.0.0.1:9")))[-1].trouble or "")


async def test_an_engine_that_dies(
    connect: Connected, start_engine: Engines, start_gateway: Gateways
) -> None:
    engine = start_engine("--token-rate", "20", "--tokens", "5000")
    endpoint = connect(start_gateway(engine=engine.socket).url)
    seen: list[Reply] = []
    async for reply in endpoint.answer(ASKED, Sampling()):
        seen.append(reply)
        if reply.text and engine.process.poll() is None:
            engine.kill()
    assert "cut off" in (seen[-1].trouble or "")
    assert seen[-1].text


async def test_a_proxy_in_the_environment_is_not_asked(
    connect: Connected, front: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await answer(connect(front.url)))[-1].trouble is None


@pytest.mark.parametrize("label", ["Python", "curl"])
def test_snippets_run_as_pasted(label: str, front: RunningGateway) -> None:
    code = next(s.code for s in snippets(f"{front.url}/v1", "tiny", system="It's $HOME") if s.label == label)
    argv = [sys.executable, "-c", code] if label == "Python" else ["bash", "-c", code]
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    shown = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert "your question has 6 words" in shown.stdout
