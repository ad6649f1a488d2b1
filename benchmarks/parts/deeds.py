"""What a client of the soak may do: ask, stream, leave, read slowly, upload, echo, err.

Each deed checks its own answer: the simulated engine's words, and so their number, follow from the question. What is
not right goes into the ledger's `wrong`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import openai

from benchmarks.parts.load import Client, Deed, Ending
from benchmarks.parts.wire import Connection, Head, request
from launcher.engines.simulated import answers
from launcher.engines.simulated.script import Script

CHAT = "/v1/chat/completions"
# Ten seconds of tokens unless the request asks for less: who leaves in the first second has left early for sure.
SCRIPT = Script(token_rate=300.0, tokens=3000)
ENGINE_OPTIONS = ("--token-rate", "300", "--tokens", "3000")
_WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
_LARGE_INPUTS = 20_000  # an answer of 4 MB: more than the buffers between the engine and a slow reader hold
_SMALL_BUFFER_BYTES = 16384
Usage = tuple[int, int]  # prompt and completion tokens
_LEAVE_AFTER_S = 1.0  # by then the gateway has surely seen the request


class _Question:
    """A chat request and the answer that it must get."""

    def __init__(self, client: Client, *, stream: bool, long: bool = False) -> None:
        text = " ".join(client.random.choices(_WORDS, k=client.random.randint(1, 40)))
        limit = SCRIPT.tokens if long else client.random.randint(1, 60)
        tokens, _ = answers.answer(SCRIPT, text, limit, chat=True)
        self.prompt, self.completion = len(answers.words(text)), len(tokens)
        self.text = "".join(tokens)
        self.fields: dict[str, object] = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": limit,
        }
        if stream:
            self.fields["stream"] = True
        if stream and client.random.random() < 0.5:
            self.fields["stream_options"] = {"include_usage": True}

    def sent(self, client: Client) -> bytes:
        body = json.dumps({"model": "tiny", **self.fields}).encode()
        return request("POST", CHAT, client.key, body)

    def right(self, client: Client, text: str, usage: Usage) -> Ending:
        """The answer is whole; was it this question's?"""
        client.count.prompt_tokens += self.prompt
        client.count.completion_tokens += self.completion
        if text != self.text or usage not in ((0, 0), (self.prompt, self.completion)):
            client.ledger.wrong.append(f"not the answer to the question: {text[:80]!r}, usage {usage}")
        return Ending.WHOLE

    def partly(self, client: Client, usage: Usage, *, left: bool = False) -> Ending:
        """The answer broke off or was left after the event that told `usage`."""
        client.count.prompt_tokens += usage[0]
        client.count.completion_tokens += usage[1]
        if left:
            client.count.unread_tokens += self.completion - usage[1]
        return Ending.LEFT if left else Ending.BROKEN


@dataclass
class _Stream:
    """What was read of a stream."""

    text: str = ""
    events: int = 0
    usage: Usage = (0, 0)
    last: str = ""

    def take(self, event: str) -> None:
        """The next event's data."""
        self.last, self.events = event, self.events + 1
        if event == "[DONE]":
            return
        found = json.loads(event)
        self.text += "".join(choice["delta"].get("content") or "" for choice in found.get("choices", ()))
        if usage := found.get("usage"):
            self.usage = usage["prompt_tokens"], usage["completion_tokens"]


async def ask(client: Client) -> Ending:
    """A short answer in one piece."""
    question, connection = _Question(client, stream=False), await client.connection()
    await connection.send(question.sent(client))
    head = await connection.head()
    answer = json.loads(await connection.body(head))
    if head.status != 200:
        return _broken(client, answer)
    usage = answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]
    return question.right(client, answer["choices"][0]["message"]["content"], usage)


async def stream(client: Client) -> Ending:
    """A short answer, token by token."""
    question, connection = _Question(client, stream=True), await client.connection()
    await connection.send(question.sent(client))
    head = await connection.head()
    if head.status != 200:
        return _broken(client, json.loads(await connection.body(head)))
    got = _Stream()
    async for event in _events(connection, head):
        got.take(event)
    if got.last == "[DONE]":
        return question.right(client, got.text, got.usage)
    _broken(client, json.loads(got.last or "{}"))
    return question.partly(client, got.usage)


async def leave(client: Client) -> Ending:
    """Leaves a long stream after a few tokens."""
    question, connection = _Question(client, stream=True, long=True), await client.connection()
    await connection.send(question.sent(client))
    head = await connection.head()
    if head.status != 200:
        return _broken(client, json.loads(await connection.body(head)))
    got, wanted = _Stream(), client.random.randint(1, 40)
    async for event in _events(connection, head):
        got.take(event)
        if got.events >= wanted and client.weather.calm.is_set() and not event.startswith('{"error"'):
            await client.hang_up()
            return question.partly(client, got.usage, left=True)
    _broken(client, json.loads(got.last or "{}"))
    return question.partly(client, got.usage)


async def lose_patience(client: Client) -> Ending:
    """Leaves while it waits for a long answer in one piece."""
    question, connection = _Question(client, stream=False, long=True), await client.connection()
    await connection.send(question.sent(client))
    reading, begun = asyncio.ensure_future(connection.head()), time.monotonic()
    while not reading.done():
        await asyncio.wait((reading,), timeout=0.1)
        if time.monotonic() - begun > _LEAVE_AFTER_S and client.weather.calm.is_set() and not reading.done():
            reading.cancel()
            await asyncio.wait((reading,))
            return Ending.LEFT
    head = reading.result()
    return _broken(client, json.loads(await connection.body(head)))


async def read_slowly(client: Client) -> Ending:
    """Takes a large answer in small sips over some seconds."""
    connection = await Connection.open(client.port, _SMALL_BUFFER_BYTES)
    try:
        body = json.dumps({"model": "tiny", "input": ["a"] * _LARGE_INPUTS}).encode()
        await connection.send(request("POST", "/v1/embeddings", client.key, body))
        head = await connection.head()
        if head.status != 200:
            return _broken(client, json.loads(await connection.body(head)))
        got = bytearray()
        async for piece in connection.pieces(head, _SMALL_BUFFER_BYTES):
            got += piece
            await asyncio.sleep(0.01)
    finally:
        await connection.close()
    if len(json.loads(got)["data"]) != _LARGE_INPUTS:
        client.ledger.wrong.append("read_slowly: not all of the embeddings came")
    client.count.prompt_tokens += _LARGE_INPUTS
    return Ending.WHOLE


async def upload(client: Client) -> Ending:
    """Sends some megabytes, which the engine counts."""
    size, connection = client.random.randint(1, 6 * 2**20), await client.connection()
    path = "/v1/audio/transcriptions"
    await connection.send(request("POST", path, client.key, bytes(size)))
    head = await connection.head()
    answer = json.loads(await connection.body(head))
    if head.status != 200:
        return _broken(client, answer)
    if f" {size} bytes" not in answer["text"]:
        client.ledger.wrong.append(f"upload: sent {size} bytes, the engine got {answer['text']!r}")
    return Ending.WHOLE


async def break_off_upload(client: Client) -> Ending:
    """Leaves in the middle of an upload."""
    connection = await client.connection()
    start = request("POST", "/v1/audio/transcriptions", client.key, bytes(2**20), length=2**24)
    await connection.send(start)
    reading, begun = asyncio.ensure_future(connection.head()), time.monotonic()
    while not reading.done():
        await asyncio.wait((reading,), timeout=0.1)
        if time.monotonic() - begun > _LEAVE_AFTER_S and client.weather.calm.is_set() and not reading.done():
            reading.cancel()
            await asyncio.wait((reading,))
            return Ending.LEFT
    head = reading.result()
    ending = _broken(client, json.loads(await connection.body(head)))
    await client.hang_up()  # the rest of the body was never sent
    return ending


async def echo(client: Client) -> Ending:
    """A WebSocket conversation."""
    while not client.weather.calm.is_set():
        await client.weather.calm.wait()
    client.weather.websockets += 1
    try:
        url, headers = (
            f"http://127.0.0.1:{client.port}/v1/realtime",
            {"Authorization": f"Bearer {client.key}"},
        )
        async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as socket:
            greeting = await socket.receive_json()
            right = greeting["type"] == "session.created"
            for _ in range(client.random.randint(1, 8)):
                text = "x" * client.random.choice((1, 100, 70_000))
                await socket.send_str(text)
                right = right and await socket.receive_str() == text
        if not right:
            client.ledger.wrong.append("echo: another text came back")
    except aiohttp.WSServerHandshakeError as error:
        if error.status >= 500:
            return Ending.BROKEN  # the engine was not there yet
        client.ledger.wrong.append(f"echo: {error.status}")
    except (aiohttp.ClientError, TypeError, ValueError) as error:
        client.ledger.wrong.append(f"echo: {type(error).__name__}: {error}")
    finally:
        client.weather.websockets -= 1
    return Ending.WHOLE


async def err(client: Client) -> Ending:
    """A request that the engine refuses."""
    connection = await client.connection()
    body, path = client.random.choice(
        (
            (b'{"messages": []}', CHAT),
            (b"{", CHAT),
            (b'{"model": "no", "messages": [{}]}', CHAT),
            (b"{}", "/v1/x"),
        )
    )
    await connection.send(request("POST", path, client.key, body))
    head = await connection.head()
    answer = json.loads(await connection.body(head))
    return Ending.REFUSED if head.status in (400, 404) else _broken(client, answer)


async def guess(client: Client) -> Ending:
    """A wrong key."""
    connection = await client.connection()
    await connection.send(request("GET", "/v1/models", f"sk-{client.random.random()}"))
    head = await connection.head()
    await connection.body(head)
    if head.status not in (401, 429):
        client.ledger.wrong.append(f"guess: a wrong key was answered with {head.status}")
    return Ending.OUTSIDE


async def guess_and_leave(client: Client) -> Ending:
    """A wrong key with an upload, given up before the answer, which for a wrong key takes its time."""
    connection = await Connection.open(client.port)
    key = f"sk-{client.random.random()}"
    await connection.send(request("POST", "/v1/audio/transcriptions", key, bytes(2**19), length=2**24))
    await asyncio.sleep(0.2)
    await connection.close()
    return Ending.OUTSIDE


async def look(client: Client) -> Ending:
    """What pages and monitoring read."""
    connection = await client.connection()
    await connection.send(request("GET", client.random.choice(("/status", "/health")), client.key))
    head = await connection.head()
    await connection.body(head)
    if head.status != 200:
        client.ledger.wrong.append(f"look: {head.status}")
    return Ending.OUTSIDE


async def use_openai(client: Client) -> Ending:
    """OpenAI's own client: an answer or a stream."""
    return await _use_openai(client, stream=client.random.random() < 0.5, leave=False)


async def leave_openai(client: Client) -> Ending:
    """OpenAI's own client leaves a stream."""
    return await _use_openai(client, stream=True, leave=True)


async def _use_openai(client: Client, *, stream: bool, leave: bool) -> Ending:
    question, got = _Question(client, stream=stream, long=leave), _Stream()
    wanted = client.random.randint(1, 40) if leave else SCRIPT.tokens or 0
    base_url = f"http://127.0.0.1:{client.port}/v1"
    # A new one each time: it is slow, and so are programs that are started for one question.
    async with openai.AsyncOpenAI(base_url=base_url, api_key=client.key, max_retries=0) as api:
        try:
            answer = await api.chat.completions.create(model="tiny", **question.fields)  # type: ignore[call-overload]
            if not stream:
                usage = answer.usage.prompt_tokens, answer.usage.completion_tokens
                return question.right(client, answer.choices[0].message.content, usage)
            async for event in answer:
                got.take(event.model_dump_json())
                if got.events >= wanted and client.weather.calm.is_set():
                    await answer.close()
                    return question.partly(client, got.usage, left=True)
            return question.right(client, got.text, got.usage)
        except openai.APIConnectionError:
            question.partly(client, got.usage)
            return Ending.CUT
        except openai.APIError:  # a status of 500 or more, or an error event in a stream
            return question.partly(client, got.usage)


async def _events(connection: Connection, head: Head) -> AsyncIterator[str]:
    """The data of a stream's events; comments are left out."""
    rest = b""
    async for piece in connection.pieces(head):
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: "):
                yield event[6:].decode()


def _broken(client: Client, answer: object) -> Ending:
    """An answer that is not the wanted one must say so in OpenAI's error shape."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict) or not error.get("message"):
        client.ledger.wrong.append(f"ended without an error that says so: {str(answer)[:120]}")
    elif error.get("type") != "server_error":
        client.ledger.wrong.append(f"refused: {error['message'][:120]}")
    return Ending.BROKEN


USUAL = (
    Deed(ask, 30),
    Deed(stream, 30),
    Deed(leave, 12, leaves=True),
    Deed(lose_patience, 3, leaves=True),
    Deed(read_slowly, 1),
    Deed(upload, 5),
    Deed(break_off_upload, 2, leaves=True),
    Deed(echo, 5),
    Deed(err, 4),
    Deed(guess, 3),
    Deed(guess_and_leave, 1),
    Deed(look, 5),
)
OPENAI = (Deed(use_openai, 3), Deed(leave_openai, 1, leaves=True))
