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
from tests.conftest import needs, skip_loudly
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
    engine = start_engine("--token-rate", "10", "--answer", "It is Paris, as one knows.")
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
    assert seen[-1].trouble == "The engine stopped in the middle of this answer. The answer is not complete."
    assert seen[-1].text


async def test_a_proxy_in_the_environment_is_not_asked(
    connect: Connected, front: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await answer(connect(front.url)))[-1].trouble is None


async def test_stopping_ends_the_request_and_keeps_what_was_said(
    connect: Connected, start_engine: Engines, start_gateway: Gateways
) -> None:
    engine = start_engine("--token-rate", "20", "--tokens", "5000")
    endpoint, stop = connect(start_gateway(engine=engine.socket).url), asyncio.Event()
    seen: list[Reply] = []
    async for reply in endpoint.answer(ASKED, Sampling(), stop):
        seen.append(reply)
        if reply.text:
            stop.set()
    assert (seen[-1].finished, seen[-1].trouble) == (client.STOPPED, None)
    assert seen[-1].text
    await asyncio.to_thread(wait_until, lambda: engine.counts()["running"] == 0)


async def test_a_silent_engine_is_stopped_at_once(
    connect: Connected, start_engine: Engines, start_gateway: Gateways
) -> None:
    engine = start_engine("--first-token-ms", "600000")
    endpoint, stop = connect(start_gateway(engine=engine.socket).url), asyncio.Event()
    stop.set()
    replies = [reply async for reply in endpoint.answer(ASKED, Sampling(), stop)]
    assert [reply.finished for reply in replies] == [client.STOPPED]


async def test_a_model_without_eyes(
    connect: Connected, start_engine: Engines, start_gateway: Gateways
) -> None:
    engine = start_engine("--no-images")
    url = "data:image/png;base64,iVBORw0KGgo="
    asked: list[Message] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
    ]
    endpoint = connect(start_gateway(engine=engine.socket).url)
    replies = [reply async for reply in endpoint.answer(asked, Sampling())]
    assert (replies[-1].trouble or "").startswith("This model reads no images.")


RUN = {
    "Python": ([sys.executable, "-"], "python3", "python3"),
    "curl": (["bash", "-s"], "curl", "curl"),
    "JavaScript": (["node", "--input-type=module", "-"], "node", "nodejs"),
    "R": (["Rscript", "-"], "Rscript", "r-base-core"),
}


@pytest.mark.parametrize("label", RUN)
@pytest.mark.parametrize(
    "system", ["", 'It\'s "so": $HOME, \\n, `ls`, ${x}, é 日本'], ids=["plain", "system"]
)
def test_snippets_run_as_pasted(label: str, system: str, front: RunningGateway) -> None:
    """Blackfish 12: code to paste."""
    argv, program, package = RUN[label]
    needs(program, package)
    if label == "R" and subprocess.run(["Rscript", "-e", "library(httr2)"], capture_output=True).returncode:
        skip_loudly("R package httr2: apt-get install r-cran-httr2")
    code = next(s.code for s in snippets(f"{front.url}/v1", "tiny", system=system) if s.label == label)
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "LC_ALL": "C.UTF-8"}
    shown = subprocess.run(
        argv, input=code, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "your question has 6 words" in shown.stdout, shown.stderr


@pytest.mark.parametrize("label", RUN)
def test_snippets_with_a_wrong_key_say_so(label: str, front: RunningGateway) -> None:
    argv, program, package = RUN[label]
    needs(program, package)
    code = next(s.code for s in snippets(f"{front.url}/v1", "tiny") if s.label == label)
    environment = {**os.environ, "OPENAI_API_KEY": "sk-" + "0" * 64}
    shown = subprocess.run(
        argv, input=code, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (
        shown.returncode != 0 or label == "curl"
    )  # --fail-with-body is not in the curl of older clusters (7.61)
    assert "This API key is not the session" in shown.stdout + shown.stderr
    assert "% Total" not in shown.stderr, "curl's progress meter"
