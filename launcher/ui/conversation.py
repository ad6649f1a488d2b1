"""What the chat's buttons do: ask, ask again, ask otherwise, take back, stop.

Each gets the whole conversation from the browser and gives it back. Nothing of it is kept here between two requests, so
two tabs share nothing; only while an answer is being written is there an event by which its own tab can stop it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from launcher.ui import pictures, transcript
from launcher.ui.client import Endpoint, Reply, Sampling
from launcher.ui.transcript import Shown

BUSY: dict[str, Any] = {"submit_btn": False, "stop_btn": True}
IDLE: dict[str, Any] = {"submit_btn": True, "stop_btn": False}

Steps = AsyncIterator[tuple[Any, Any]]


class Conversation:
    """The answers of `endpoint`, shown as they grow.

    `carried` is what the browser sends beside the visible fields (conversation.js): `turn` names this answer,
    `pictures` has the images by id, `edited` the references that belong to an edited question. A question can come
    before the browser has built every part of the page; what is not there yet is None.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._stops: dict[str, asyncio.Event] = {}

    async def ask(
        self,
        text: str | None,
        history: list[Shown],
        carried: dict[str, Any] | None,
        system: str | None,
        temperature: float | None,
        top_p: float | None,
        max_tokens: float | None,
    ) -> Steps:
        """Send `text`; yields the chat and the entry box."""
        if not text or not text.strip():
            yield gr.skip(), gr.skip()
            return
        sampling = _sampling(temperature, top_p, max_tokens)
        asked = [*history, transcript.question(text)]
        async for step in self._answer(asked, carried, system, sampling, clear=True):
            yield step

    async def retry(
        self,
        history: list[Shown],
        carried: dict[str, Any] | None,
        system: str | None,
        temperature: float | None,
        top_p: float | None,
        max_tokens: float | None,
        event: gr.RetryData,
    ) -> Steps:
        """Ask again for the answer to the question at `event.index`."""
        sampling = _sampling(temperature, top_p, max_tokens)
        async for step in self._answer(history[: event.index + 1], carried, system, sampling):
            yield step

    async def edit(
        self,
        history: list[Shown],
        carried: dict[str, Any] | None,
        system: str | None,
        temperature: float | None,
        top_p: float | None,
        max_tokens: float | None,
        event: gr.EditData,
    ) -> Steps:
        """Ask the changed question, with its images; what came after it is dropped."""
        text = str((carried or {}).get("edited") or "") + str(event.value)
        asked = [*history[: event.index], transcript.question(text)]
        async for step in self._answer(asked, carried, system, _sampling(temperature, top_p, max_tokens)):
            yield step

    def stop(self, carried: dict[str, Any] | None) -> Any:
        """End the answer that is being written in the tab that asks; it then gives the entry box back itself."""
        stop = self._stops.get(str((carried or {}).get("turn")))
        if stop is None:
            return gr.Textbox(**IDLE)
        stop.set()
        return gr.skip()

    async def _answer(
        self,
        asked: list[Shown],
        carried: dict[str, Any] | None,
        system: str | None,
        sampling: Sampling,
        *,
        clear: bool = False,
    ) -> Steps:
        yield asked, gr.Textbox(value="", **BUSY) if clear else gr.Textbox(**BUSY)
        brought = carried or {}
        images = brought.get("pictures")
        try:
            said = transcript.messages(asked, system or "", images if isinstance(images, dict) else {})
        except pictures.LostPictureError as lost:
            yield [*asked, *transcript.answer(Reply(trouble=str(lost)))], gr.Textbox(**IDLE)
            return
        turn, stop = str(brought.get("turn")), asyncio.Event()
        self._stops[turn] = stop
        replies = self.endpoint.answer(said, sampling, stop)
        try:
            async for reply in replies:
                ended = reply.finished is not None or reply.trouble is not None
                yield [*asked, *transcript.answer(reply)], gr.Textbox(**IDLE) if ended else gr.skip()
        finally:
            self._stops.pop(turn, None)
            await replies.aclose()  # at once, not when the garbage is collected: it ends the engine's request


def undo(history: list[Shown], event: gr.UndoData) -> tuple[list[Shown], str]:
    """Take back the question at `event.index`; its text returns to the entry box."""
    return history[: event.index], transcript.said_in(history[event.index])


def _sampling(temperature: float | None, top_p: float | None, max_tokens: float | None) -> Sampling:
    return Sampling(temperature, top_p, int(max_tokens) if max_tokens else None)
