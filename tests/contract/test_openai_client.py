"""The unmodified openai client against the gateway: what a user's script does."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator

import openai
import pytest

from tests.programs.front import KEY, RunningGateway, SimulatedEngine

StartEngine = Callable[..., SimulatedEngine]
StartGateway = Callable[..., RunningGateway]


@pytest.fixture
def client(front: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key=KEY) as made:
        yield made


def ask(client: openai.OpenAI) -> str | None:
    answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Two words"}])
    return answer.choices[0].message.content


def test_chat(client: openai.OpenAI) -> None:
    assert ask(client) == "Simulated answer: your question has 2 words."


def test_streamed_chat(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Two words"}],
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Simulated answer: your"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=4)
    assert answer.choices[0].text == " your question has 4"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 8


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny", input=["one", "two"], encoding_format="float")
    assert len(answer.data) == 2
    assert answer.data[0].embedding != answer.data[1].embedding


def test_audio(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="tiny", file=("a.wav", bytes(300_000)))
    assert "Simulated transcription of 300" in answer.text


def test_a_wrong_key_is_an_authentication_error(front: RunningGateway) -> None:
    with (
        openai.OpenAI(base_url=f"{front.url}/v1", api_key="sk-wrong") as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.models.list()
    assert refused.value.code == "invalid_api_key"


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="huge", prompt="x")


def test_the_client_waits_by_itself_until_the_session_is_ready(
    front: RunningGateway, client: openai.OpenAI
) -> None:
    front.routes.ready = False
    front.report.update(state="LAUNCHING", phase="probe")

    def get_ready() -> None:
        front.routes.ready = True

    timer = threading.Timer(1.0, get_ready)
    timer.start()
    begun = time.monotonic()
    assert ask(client)
    assert time.monotonic() - begun > 1.0
    timer.join()


def test_a_session_that_has_ended_is_not_asked_again(
    front: RunningGateway, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    front.routes.ready = False
    front.report.update(state="SHUTDOWN", message="It was idle for 60 minutes.")
    with caplog.at_level(logging.INFO):
        with pytest.raises(openai.InternalServerError, match="idle for 60 minutes"):
            ask(client)
        front.run(lambda: asyncio.sleep(0))  # until the gateway has done what it does for a request
    assert [record.name for record in caplog.records].count("launcher.gateway") == 1


def test_an_engine_that_dies_in_mid_stream_raises_with_the_reason(
    start_engine: StartEngine, start_gateway: StartGateway
) -> None:
    engine = start_engine("--tokens", "10000", "--token-rate", "50")
    front = start_gateway(engine=engine.socket)
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key=KEY) as client:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "x"}]
        stream = client.chat.completions.create(model="tiny", messages=messages, stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        engine.kill()
        with pytest.raises(openai.APIError, match="engine stopped in the middle"):
            list(stream)
