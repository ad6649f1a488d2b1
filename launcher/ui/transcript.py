"""A chat as the page shows it, and as the engine reads it.

Owns the two translations: a `Reply` to what Gradio's chatbot displays, and the displayed history back to OpenAI's
messages. An answer is one message of one or two parts: what the model wrote, then a footnote of ours (counts, or what
went wrong) that never goes back to the model. Reasoning stands before it as a message of its own, folded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.ui import pictures
from launcher.ui.client import STOPPED, Message, Reply

# Invisible characters by which page.js tells a footnote; the first begins counts, two begin trouble.
_COUNTS = "\N{INVISIBLE SEPARATOR}"
_TROUBLE = _COUNTS * 2
_MARKUP = re.compile(r"([\\`*_\[\]<>&~$|])")

Shown = dict[str, Any]  # one message of a Gradio chatbot


def question(text: str) -> Shown:
    """What the user asked; it may begin with references to images."""
    return {"role": "user", "content": [_part(text)]}


def answer(reply: Reply) -> list[Shown]:
    """The messages that show `reply`, finished or not."""
    shown: list[Shown] = []
    thought, said = _without_thoughts(reply.text)
    reasoning = "\n\n".join(part for part in (reply.reasoning, thought) if part)
    if reasoning:
        thinking = not said and reply.finished is None and reply.trouble is None
        metadata = {"title": "Reasoning", "status": "pending" if thinking else "done"}
        shown.append({"role": "assistant", "content": [_part(reasoning)], "metadata": metadata})
    footnote = _footnote(reply)
    if said or footnote:
        parts = [_part(said)] + ([_part(footnote)] if footnote else [])
        # Without a title Gradio shows nothing of the metadata; conversation.js reads the counts there to save them.
        shown.append({"role": "assistant", "content": parts, "metadata": {"log": json.dumps(_counts(reply))}})
    return shown


def messages(history: Sequence[Shown], system: str, images: Mapping[str, str]) -> list[Message]:
    """What the engine is asked to continue: the system prompt if there is one, then all that was said.

    Raises LostPictureError when `images` lacks one that a question refers to.
    """
    said: list[Message] = []
    if system.strip():
        said.append({"role": "system", "content": system.strip()})
    for message in history:
        if (message.get("metadata") or {}).get("title"):
            continue  # reasoning models are trained without their earlier reasoning in the prompt
        text = said_in(message)
        if text:
            role = message["role"]
            said.append({"role": role, "content": pictures.content(text, images) if role == "user" else text})
    return said


def said_in(message: Shown) -> str:
    """What was said in `message`, without our footnote."""
    content = message["content"]
    parts = [content] if isinstance(content, str) else [str(part.get("text") or "") for part in content]
    return "\n\n".join(part for part in parts if part and not part.startswith(_COUNTS))


def _without_thoughts(text: str) -> tuple[str, str]:
    """What a model without a reasoning parser thought, between <think> tags, and what it said.

    Some chat templates put the opening tag into the prompt, so that an answer has the closing one only.
    """
    opening, closing = "<think>", "</think>"
    start = text.lstrip()
    if start.startswith(opening):
        thought, _, said = start.removeprefix(opening).partition(closing)
        return thought.strip(), said.lstrip()
    thought, closed, said = text.partition(closing)
    if closed and opening not in thought and "```" not in thought:  # not one that is merely quoted
        return thought.strip(), said.lstrip()
    return "", text


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}  # a bare str would be dedented by Gradio


def _counts(reply: Reply) -> dict[str, object]:
    """What is worth keeping of an answer besides its words, under OpenAI's names where it has them."""
    counts = {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "tokens_per_s": _rounded(reply.tokens_per_s),
        "first_token_s": _rounded(reply.first_token_s),
        "finish_reason": reply.finished,
    }
    return {name: count for name, count in counts.items() if count is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _footnote(reply: Reply) -> str:
    if reply.trouble is not None:
        return _TROUBLE + _plain(reply.trouble)
    if reply.finished is None:
        return ""
    facts = ["stopped"] if reply.finished == STOPPED else []
    if reply.completion_tokens is not None:
        facts.append(f"{reply.completion_tokens} token{'' if reply.completion_tokens == 1 else 's'}")
    if reply.tokens_per_s is not None:
        facts.append(f"{reply.tokens_per_s:.{0 if reply.tokens_per_s >= 10 else 1}f} tokens/s")
    if reply.first_token_s is not None:
        first_s = reply.first_token_s
        facts.append(
            f"first after {first_s:.1f} s" if first_s >= 1 else f"first after {first_s * 1000:.0f} ms"
        )
    if reply.prompt_tokens is not None:
        facts.append(f"{reply.prompt_tokens} in the prompt")
    if reply.finished == "length":
        facts.append("ended at the token limit")
    return _COUNTS + _plain(" · ".join(facts)) if facts else ""


def _plain(text: str) -> str:
    """`text` as one line that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
