"""A chat as the page shows it, and as the engine reads it.

Owns the two translations: a `Reply` to what Gradio's chatbot displays, and the displayed history back to OpenAI's
messages. An answer is one message of one or two parts: what the model wrote, then a footnote of ours (counts, or what
went wrong) that never goes back to the model. Reasoning stands before it as a message of its own, folded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from launcher.ui.client import Message, Reply

# Invisible characters by which page.css tells a footnote: Gradio puts a part's text into its aria-label, where a
# screen reader would read out any markup.
_COUNTS = "\N{INVISIBLE SEPARATOR}"
_TROUBLE = _COUNTS * 2
_MARKUP = re.compile(r"([\\`*_\[\]<>&~$|])")

Shown = dict[str, Any]  # one message of a Gradio chatbot


def question(text: str) -> Shown:
    """What the user asked."""
    return {"role": "user", "content": [_part(text)]}


def answer(reply: Reply) -> list[Shown]:
    """The messages that show `reply`, finished or not."""
    shown: list[Shown] = []
    if reply.reasoning:
        thinking = not reply.text and reply.finished is None and reply.trouble is None
        metadata = {"title": "Reasoning", "status": "pending" if thinking else "done"}
        shown.append({"role": "assistant", "content": [_part(reply.reasoning)], "metadata": metadata})
    footnote = _footnote(reply)
    if reply.text or footnote:
        parts = [_part(reply.text)] + ([_part(footnote)] if footnote else [])
        shown.append({"role": "assistant", "content": parts})
    return shown


def messages(history: Sequence[Shown], system: str) -> list[Message]:
    """What the engine is asked to continue: the system prompt if there is one, then all that was said."""
    said: list[Message] = []
    if system.strip():
        said.append({"role": "system", "content": system.strip()})
    for message in history:
        if (message.get("metadata") or {}).get("title"):
            continue  # reasoning models are trained without their earlier reasoning in the prompt
        text = said_in(message)
        if not text:
            continue
        # Gradio cuts an answer with <think> tags into several messages; to the model it was one.
        if said and said[-1]["role"] == message["role"] == "assistant":
            said[-1]["content"] += f"\n\n{text}"
        else:
            said.append({"role": message["role"], "content": text})
    return said


def said_in(message: Shown) -> str:
    """What was said in `message`, without our footnote, which Gradio may have made a message of its own."""
    content = message["content"]
    parts = [content] if isinstance(content, str) else [str(part.get("text") or "") for part in content]
    return "\n\n".join(part for part in parts if part and not part.startswith(_COUNTS))


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}  # a bare str would be dedented by Gradio


def _footnote(reply: Reply) -> str:
    if reply.trouble is not None:
        return _TROUBLE + _plain(reply.trouble)
    if reply.finished is None:
        return ""
    facts = []
    if reply.completion_tokens is not None:
        facts.append(f"{reply.completion_tokens} tokens")
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
