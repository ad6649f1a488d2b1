"""The chat page: its parts, what each button does, and how an answer reaches the screen.

Owns the Gradio Blocks. Each handler gets the whole conversation from the browser and gives it back: nothing is kept
here between two requests, so two tabs share nothing. `page.js` keeps the conversation in the tab and fills the panel.
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from starlette.applications import Starlette
from starlette.types import ASGIApp

from launcher.ui import transcript
from launcher.ui.client import Endpoint, Sampling
from launcher.ui.frame import Frame
from launcher.ui.session import SessionFiles
from launcher.ui.snippets import key_command, snippets
from launcher.ui.transcript import Shown

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Ubuntu", "Cantarell", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
_UNSET = "model's default"

_HEADER = """
<header class="bar">
  <h1 data-session="title">{title}</h1>
  <span class="state" data-session="state" role="status" aria-live="polite"></span>
</header>
"""
_PANEL = """
<section class="panel" aria-label="Session">
  <p class="notice" data-session="notice" role="alert" hidden></p>
  <dl>
    <div><dt>Time left</dt><dd data-session="ends">–</dd></div>
    <div><dt>Stops when idle</dt><dd data-session="idle">–</dd></div>
    <div><dt>Model</dt><dd data-session="model">{model}</dd></div>
    <div><dt>Hardware</dt><dd data-session="hardware">–</dd></div>
    <div><dt>Job</dt><dd data-session="job">–</dd></div>
  </dl>
  <form method="post" action="../logout"><button>Log out</button></form>
</section>
"""


_PLACEHOLDER = """
<p class="hello"><strong>{title}</strong>The conversation stays in this browser tab.</p>
"""


def application(files: SessionFiles, endpoint: Endpoint, gateway_url: str) -> ASGIApp:
    """The page of one session as an ASGI application, mounted at the root."""
    title = files.plan.model.id
    app = gr.mount_gradio_app(
        Starlette(),
        page(files, endpoint, gateway_url),
        path="",  # with no root_path: Gradio then takes each request's address from X-Gradio-Server
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
        max_file_size=0,
        theme=_theme(),
    )
    return Frame(app, files.panel, title)


def _theme() -> Any:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.zinc,
        radius_size=gr.themes.sizes.radius_md,
        font=_SANS,
        font_mono=_MONO,
    ).set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#18181b",
        body_text_color="#1b1b1f",
        body_text_color_dark="#ececf0",
        color_accent="#2563a8",
    )


class Conversation:
    """What the buttons do: asks `endpoint` and shows the answer as it grows.

    A question can come before the browser has built every part of the page; what is not there yet is None.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def ask(
        self,
        text: str | None,
        history: list[Shown],
        system: str | None,
        temperature: float | None,
        top_p: float | None,
        max_tokens: float | None,
    ) -> AsyncIterator[tuple[Any, Any]]:
        """Send `text`; yields the chat and the entry box."""
        if not text or not text.strip():
            yield gr.skip(), gr.skip()
            return
        sampling = _sampling(temperature, top_p, max_tokens)
        async for step in self._answer([*history, transcript.question(text)], system, sampling, clear=True):
            yield step

    async def retry(
        self,
        history: list[Shown],
        system: str | None,
        temperature: float | None,
        top_p: float | None,
        max_tokens: float | None,
        event: gr.RetryData,
    ) -> AsyncIterator[tuple[Any, Any]]:
        """Ask again for the answer to the question at `event.index`."""
        sampling = _sampling(temperature, top_p, max_tokens)
        async for step in self._answer(history[: event.index + 1], system, sampling):
            yield step

    async def edit(
        self,
        history: list[Shown],
        system: str | None,
        temperature: float | None,
        top_p: float | None,
        max_tokens: float | None,
        event: gr.EditData,
    ) -> AsyncIterator[tuple[Any, Any]]:
        """Ask the changed question; what came after it is dropped."""
        asked = [*history[: event.index], transcript.question(str(event.value))]
        async for step in self._answer(asked, system, _sampling(temperature, top_p, max_tokens)):
            yield step

    async def _answer(
        self, asked: list[Shown], system: str | None, sampling: Sampling, *, clear: bool = False
    ) -> AsyncIterator[tuple[Any, Any]]:
        yield asked, gr.Textbox(value="", **_BUSY) if clear else gr.Textbox(**_BUSY)
        replies = self.endpoint.answer(transcript.messages(asked, system or ""), sampling)
        try:
            async for reply in replies:
                ended = reply.finished is not None or reply.trouble is not None
                yield [*asked, *transcript.answer(reply)], gr.Textbox(**_IDLE) if ended else gr.skip()
        finally:
            await replies.aclose()  # at once, not when the garbage is collected: it ends the engine's request


_BUSY: dict[str, Any] = {"submit_btn": False, "stop_btn": True}
_IDLE: dict[str, Any] = {"submit_btn": True, "stop_btn": False}


def _sampling(temperature: float | None, top_p: float | None, max_tokens: float | None) -> Sampling:
    return Sampling(temperature, top_p, int(max_tokens) if max_tokens else None)


def _undo(history: list[Shown], event: gr.UndoData) -> tuple[list[Shown], str]:
    """Take back the question at `event.index`; its text returns to the entry box."""
    return history[: event.index], transcript.said_in(history[event.index])


def page(files: SessionFiles, endpoint: Endpoint, gateway_url: str) -> Any:
    """The page's parts and what they do."""
    model = files.plan.model
    talk = Conversation(endpoint)
    with gr.Blocks(title=model.id, analytics_enabled=False, fill_height=True) as blocks:
        with gr.Row(elem_id="top"):
            gr.HTML(_HEADER.format(title=html.escape(model.id)), padding=False)
            new = gr.Button("New chat", size="sm", elem_id="new", min_width=0)
        chat = gr.Chatbot(
            label="Conversation",
            show_label=False,
            container=False,
            elem_id="chat",
            height="100%",
            scale=1,
            editable="user",
            buttons=["copy"],
            layout="bubble",
            feedback_options=None,
            allow_tags=False,
            allow_file_downloads=False,
            reasoning_tags=[("<think>", "</think>")],
            placeholder=_PLACEHOLDER.format(title=html.escape(model.id)),
        )
        entry = gr.Textbox(
            label="Your message",
            value="",
            show_label=False,
            container=False,
            placeholder="Write a message",
            elem_id="entry",
            lines=1,
            max_lines=12,
            autofocus=True,
            **_IDLE,
        )
        with gr.Sidebar(position="right", open=False, width=400, elem_id="side"), gr.Tabs():
            with gr.Tab("Session"):
                gr.HTML(_PANEL.format(model=html.escape(model.id)), padding=False)
            with gr.Tab("Settings"):
                settings = _settings()
            with gr.Tab("Code"):
                code = _code(files, gateway_url, model.served_name)

        wired = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "minimal"}
        asked = [
            entry.submit(talk.ask, [entry, chat, *settings], [chat, entry], **wired),
            chat.retry(talk.retry, [chat, *settings], [chat, entry], **wired),
            chat.edit(talk.edit, [chat, *settings], [chat, entry], **wired),
        ]
        instantly = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        entry.stop(lambda: gr.Textbox(**_IDLE), None, entry, cancels=asked, **instantly)
        chat.undo(_undo, chat, [chat, entry], **instantly)
        new.click(
            lambda: ([], gr.Textbox(value="", **_IDLE)), None, [chat, entry], cancels=asked, **instantly
        )
        # In the browser only: the conversation and the settings outlive a reload of this tab.
        chat.change(
            None, [chat, *settings], None, js="(...all) => { page.keep(all); return []; }", **instantly
        )
        blocks.load(None, None, [chat, *settings], js="() => page.kept()", **instantly)
        blocks.load(
            lambda system: _snippet_texts(files, gateway_url, model.served_name, system),
            settings[0],
            code,
            **instantly,
        )
        settings[0].change(
            lambda system: _snippet_texts(files, gateway_url, model.served_name, system),
            settings[0],
            code,
            **instantly,
        )
    return blocks


def _settings() -> list[Any]:
    """System prompt, temperature, top-p, length; an empty field leaves the choice to the engine."""
    return [
        gr.Textbox(
            label="System prompt", value="", lines=4, max_lines=12, placeholder="none", elem_id="system"
        ),
        gr.Number(label="Temperature", value=None, minimum=0, maximum=2, step=0.1, placeholder=_UNSET),
        gr.Number(label="Top-p", value=None, minimum=0.01, maximum=1, step=0.05, placeholder=_UNSET),
        gr.Number(
            label="Longest answer, in tokens",
            value=None,
            minimum=1,
            step=1,
            precision=0,
            placeholder="no limit",
        ),
    ]


def _code(files: SessionFiles, gateway_url: str, model: str) -> list[Any]:
    """The snippets, one tab a language."""
    gr.Markdown("Any OpenAI client works. Set the key once, on the cluster:")
    gr.Code(key_command(str(files.paths.key)), language="shell", **_CODE)
    shown = []
    with gr.Tabs():
        for snippet in snippets(files.base_url(gateway_url), model):
            with gr.Tab(snippet.label):
                shown.append(gr.Code(snippet.code, language=snippet.language, **_CODE))
    return shown


_CODE: dict[str, Any] = {
    "interactive": False,
    "show_label": False,
    "container": False,
    "show_line_numbers": False,
    "wrap_lines": True,
    "lines": 1,
    "buttons": ["copy"],
}


def _snippet_texts(files: SessionFiles, gateway_url: str, model: str, system: str | None) -> list[str]:
    return [
        snippet.code
        for snippet in snippets(files.base_url(gateway_url), model, system=(system or "").strip())
    ]
