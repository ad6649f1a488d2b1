"""The page's way to the model: one streamed chat answer at a time, through the gateway.

Owns the request, the pace at which partial answers are passed on, the counts, and the words for what can go wrong.
Knows nothing of Gradio and keeps nothing once an answer is finished.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import httpx2
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpx2Client

SHOW_EVERY_S = 0.05  # people do not see more than this, and each step costs the browser a redraw
HEARTBEAT_S = 3.0  # Gradio notices a closed browser only when we yield; the engine may be silent for long
CONNECT_TIMEOUT_S = 10.0
STOPPED = "stopped"  # beside OpenAI's finish reasons: the user ended the answer
MEASURABLE_S = 0.2  # tokens of a short answer arrive in one or two pieces: their rate would be the network's


class Message(TypedDict):
    """One turn in OpenAI's form."""

    role: str
    content: str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the user set; None leaves the choice to the engine, which knows the model's recommended values."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None

    def fields(self) -> dict[str, float | int]:
        """The fields of the request: only those that were set."""
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer so far; `trouble` is a sentence for people.

    Counts come from the engine, in the last step; times are seconds since the question was sent.
    """

    text: str = ""
    reasoning: str = ""
    finished: str | None = None
    trouble: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_s: float | None = None
    elapsed_s: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """The tokens after the first over the time after the first; None where that is too short to measure."""
        if self.completion_tokens is None or self.first_token_s is None:
            return None
        writing_s = self.elapsed_s - self.first_token_s
        return (
            (self.completion_tokens - 1) / writing_s
            if self.completion_tokens > 1 and writing_s >= MEASURABLE_S
            else None
        )


def explain(error: Exception) -> str:
    """What went wrong, in plain words, with the engine's own sentence where it has one."""
    if isinstance(error, APIStatusError):
        said = _engine_message(error)
        match error.status_code:
            case 401 | 403:
                return "This page's key is no longer accepted. Open the session again from its card."
            case 429:
                return f"The model is busy. Try again in a moment. {said}"
            case 502 | 504:
                return f"The engine does not answer. It may have stopped; the session panel says more. {said}"
            case 503:
                return f"The model is not ready yet. Try again in a moment. {said}"
            case 400 if "multimodal model" in said or re.search(r"At most 0 image", said):
                return (
                    f"This model reads no images. Undo the question that has one, or start a new chat. {said}"
                )
            case 413:
                return (
                    "The conversation has become too large to send. Start a new chat, or attach fewer images."
                )
            case 400 if "context length" in said.lower() or "maximum model length" in said.lower():
                return (
                    "The conversation has become longer than this model can read. "
                    f"Start a new chat, or allow fewer tokens for the answer. {said}"
                )
            case _:
                return f"The engine refused the request. {said}"
    if isinstance(error, APIConnectionError):
        return "The session cannot be reached. It may have ended; the session panel says more."
    if isinstance(error, APIError):
        if error.code == "engine_died":  # the gateway's own words say it all
            return error.message
        return f"The answer was cut off. {error.message}"
    return "The answer was cut off: the connection to the engine was lost."


def _engine_message(error: APIStatusError) -> str:
    body: Any = error.body
    if isinstance(body, dict):
        message = body.get("message")
        if isinstance(message, str):
            return message.strip()
    return f"(HTTP {error.status_code})"


class Endpoint:
    """The chat route of one session's gateway."""

    def __init__(self, gateway_url: str, key: str, model: str) -> None:
        self.model = model
        self._client = AsyncOpenAI(
            base_url=f"{gateway_url.rstrip('/')}/v1",
            api_key=key,
            max_retries=0,  # a person is better served by a sentence and a button than by 20 s of silence
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),  # an answer takes as long as it takes
            # Clusters often set http_proxy; the gateway is on this node.
            http_client=DefaultAsyncHttpx2Client(trust_env=False),
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def answer(
        self, messages: Sequence[Message], sampling: Sampling, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[Reply]:
        """The answer as it grows, at least every HEARTBEAT_S; the last one is finished or says what the trouble is.

        Setting `stop`, closing this generator, or cancelling the task that reads it, ends the engine's request.
        """
        begun = time.perf_counter()
        reply = Reply()
        completions: Any = (
            self._client.chat.completions
        )  # its forty overloads take no fields made at run time
        stream: Any = None
        step: asyncio.Future[Any] | None = None
        stopping = asyncio.ensure_future((stop or asyncio.Event()).wait())
        try:
            step = asyncio.ensure_future(
                completions.create(
                    model=self.model,
                    messages=list(messages),
                    stream=True,
                    stream_options={"include_usage": True},
                    **sampling.fields(),
                )
            )
            shown_at, unseen = begun, False
            while True:
                due_s = shown_at + (SHOW_EVERY_S if unseen else HEARTBEAT_S) - time.perf_counter()
                await asyncio.wait(
                    {step, stopping}, timeout=max(0.0, due_s), return_when=asyncio.FIRST_COMPLETED
                )
                now = time.perf_counter()
                if stopping.done():
                    reply = replace(reply, finished=STOPPED)
                    break
                if step.done():
                    if stream is None:
                        stream = step.result()
                    else:
                        try:
                            reply = _extend(reply, step.result(), now - begun)
                        except StopAsyncIteration:
                            break
                        unseen = True
                    step = asyncio.ensure_future(anext(stream))
                if now - shown_at >= (SHOW_EVERY_S if unseen else HEARTBEAT_S):
                    yield replace(reply, elapsed_s=now - begun)
                    shown_at, unseen = now, False
        except Exception as error:
            yield replace(reply, trouble=explain(error), elapsed_s=time.perf_counter() - begun)
            return
        finally:
            stopping.cancel()
            if step is not None:
                step.cancel()
            if stream is not None:
                await stream.close()
        if reply.finished is None:
            reply = replace(reply, trouble="The answer was cut off: the engine ended it without saying why.")
        yield replace(reply, elapsed_s=time.perf_counter() - begun)


def _extend(reply: Reply, chunk: Any, elapsed_s: float) -> Reply:
    """`reply` with one streamed chunk added."""
    if chunk.usage is not None:
        reply = replace(
            reply,
            prompt_tokens=chunk.usage.prompt_tokens,
            completion_tokens=chunk.usage.completion_tokens,
        )
    if not chunk.choices:
        return reply
    choice = chunk.choices[0]
    text = choice.delta.content or ""
    # vLLM says `reasoning` since 0.12 and said `reasoning_content` before; neither is in OpenAI's type.
    reasoning = (
        getattr(choice.delta, "reasoning", None) or getattr(choice.delta, "reasoning_content", None) or ""
    )
    first_token_s = reply.first_token_s
    if first_token_s is None and (text or reasoning):
        first_token_s = elapsed_s
    return replace(
        reply,
        text=reply.text + text,
        reasoning=reply.reasoning + reasoning,
        finished=choice.finish_reason or reply.finished,
        first_token_s=first_token_s,
    )
