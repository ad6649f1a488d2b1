"""The words of the simulated engine and the shapes of its answers, which are vLLM's: no clock, no sockets."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.engines.simulated.script import Script

Json = dict[str, Any]
_TOKEN = re.compile(r"\s*\S+|\s+$")


class RefusedError(ValueError):
    """A request that vLLM would refuse; `code` is the HTTP status."""

    def __init__(self, code: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def words(text: str) -> list[str]:
    """Split `text` into the tokens it counts by: words with the white space before them."""
    return _TOKEN.findall(text)


def text_of(content: object) -> str:
    """The text of a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def images_in(body: Mapping[str, Any]) -> int:
    """How many images the messages of a chat hold; raises RefusedError for one that is no `data:` URL."""
    found = 0
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "image_url":
                given = part.get("image_url")
                url = given.get("url") if isinstance(given, dict) else None
                if not isinstance(url, str) or not url.startswith("data:image/"):
                    raise RefusedError(
                        400, "BadRequestError", "Only images in data: URLs are read here.", "messages"
                    )
                found += 1
    return found


def question(body: Mapping[str, Any], chat: bool) -> tuple[str, int]:
    """The last question and the tokens of the whole prompt; raises RefusedError for a wrong shape."""
    if not chat:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and all(isinstance(item, int) for item in prompt):
            return "", len(prompt)
        if not isinstance(prompt, str) or not prompt:
            raise RefusedError(
                400, "BadRequestError", "prompt must be a text or a list of token ids.", "prompt"
            )
        return prompt, len(words(prompt))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise RefusedError(
            400, "BadRequestError", "messages must be a list of at least one message.", "messages"
        )
    texts = [text_of(message.get("content")) for message in messages]
    return texts[-1], sum(len(words(text)) for text in texts)


def answer(
    script: Script, asked: str, limit: int | None, chat: bool, images: int = 0
) -> tuple[list[str], str]:
    """The tokens of the answer and its finish reason; the same question always gets the same answer."""
    seen = f" and the conversation {_counted(images, 'image')}" if images else ""
    text = f"your question has {_counted(len(words(asked)), 'word')}{seen}."
    text = f"Simulated answer: {text}" if chat else f" {text}"
    tokens = words(text if script.answer is None else script.answer) or [""]
    if script.tokens is not None:
        tokens = list(itertools.islice(_repeated(tokens), script.tokens))
    if limit is not None and limit < len(tokens):
        return tokens[:limit], "length"
    return tokens, "stop"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _repeated(tokens: Sequence[str]) -> Iterator[str]:
    yield from tokens
    spaced = [token if token[:1].isspace() else f" {token}" for token in tokens]
    yield from itertools.cycle(spaced)


def limit_of(body: Mapping[str, Any], chat: bool) -> int | None:
    """How many tokens the request allows; raises RefusedError below 1. vLLM's completions default is 16."""
    value = body.get("max_completion_tokens") if chat else None
    value = body.get("max_tokens") if value is None else value
    if value is None:
        return None if chat else 16
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RefusedError(
            400, "BadRequestError", f"max_tokens must be at least 1, got {value}.", "max_tokens"
        )
    return value


def usage(prompt: int, completion: int) -> Json:
    """The `usage` of an answer."""
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer in the shapes of chat, or of completions; `head` is its id, created and model."""

    head: Json
    tokens: Sequence[str]
    reason: str
    prompt: int
    chat: bool

    def whole(self) -> Json:
        """The complete answer."""
        text = "".join(self.tokens)
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": self.reason, "stop_reason": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
        else:
            choice["text"] = text
        kind = "chat.completion" if self.chat else "text_completion"
        counted = usage(self.prompt, len(self.tokens))
        return {**self.head, "object": kind, "choices": [choice], "usage": counted, "prompt_logprobs": None}

    def chunk(self, text: str | None, reason: str | None = None) -> Json:
        """One event of a stream; `text` None is the chat stream's first event: the role alone."""
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": reason}
        if not self.chat:
            choice["text"] = text
        elif text is None:
            choice["delta"] = {"role": "assistant", "content": ""}
        else:
            choice["delta"] = {"content": text}
        if reason is not None:
            choice["stop_reason"] = None
        return self._event([choice])

    def usage_chunk(self, done: int) -> Json:
        """The last event of a stream that was asked for with `stream_options.include_usage`."""
        return {**self._event([]), "usage": usage(self.prompt, done)}

    def _event(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self.head, "object": kind, "choices": choices}


def embedding(text: str) -> list[float]:
    """A made-up vector of length 1 and 8 dimensions that depends only on the text's characters."""
    raw = [float(1 + sum(ord(character) for character in text[start::8]) % 97) for start in range(8)]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]
