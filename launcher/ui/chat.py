"""The chat page: its parts and how they are wired; what the buttons do is in `conversation`.

Owns the Gradio Blocks. The scripts beside this module do what the browser does alone: `conversation.js` keeps and saves
the chat, `pictures.js` its images, `session.js` shows the session's state, `page.js` serves keyboard and screen reader.
"""

from __future__ import annotations

import html
import json
from typing import Any

import gradio as gr
from starlette.applications import Starlette
from starlette.types import ASGIApp

from launcher.ui.client import Endpoint
from launcher.ui.conversation import IDLE, Conversation, undo
from launcher.ui.frame import Frame
from launcher.ui.session import SessionFiles, title
from launcher.ui.snippets import key_command, snippets

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Ubuntu", "Cantarell", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
_UNSET = "model's default"
# The numbers in Settings, in their order: name, least, most; conversation.js sends nothing beyond them.
_RANGES = (("Temperature", 0, 2), ("Top-p", 0.01, 1), ("Longest answer", 1, None))
# What models write; a single $ is more often money.
_FORMULAS = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]

_HEADER = """
<header class="bar">
  <h1 data-session="title">{title}</h1>
  <span class="state" data-session="state"></span>
</header>
"""
# One line above the entry, only there when there is something to say; and what is attached to the next question.
_BELOW = """
<div class="notice" data-session="notice" role="alert" hidden></div>
<button class="quiet" type="button" data-session="renew" hidden>Keep alive</button>
<ul class="pictures" id="pictures" data-allowed="{images}" data-ranges="{ranges}" aria-label="Attached images"
  hidden></ul>
<p class="spoken" id="spoken" role="status" aria-live="polite"></p>
"""
_PANEL = """
<section class="panel" aria-label="Session">
  <dl>
    <div><dt>Time left</dt><dd data-session="ends">–</dd></div>
    <div><dt>Stops when idle</dt><dd><span data-session="idle">–</span>
      <button class="quiet" type="button" data-session="keep" hidden>Keep alive</button></dd></div>
    <div><dt>Model</dt><dd data-session="model">{model}</dd></div>
    <div><dt>Commit</dt><dd data-session="commit" class="code">–</dd></div>
    <div><dt>Hardware</dt><dd data-session="hardware">–</dd></div>
    <div><dt>Job</dt><dd data-session="job">–</dd></div>
  </dl>
  <form method="post" action="../logout"><button class="quiet">Log out</button></form>
</section>
<section class="panel" aria-label="This conversation">
  <h2>This conversation</h2>
  <p>It is kept in this browser tab only.</p>
  <p class="buttons"><button class="quiet" type="button" data-save="markdown">Save as Markdown</button>
    <button class="quiet" type="button" data-save="json">Save as JSON</button></p>
</section>
"""


_PLACEHOLDER = """
<p class="hello"><strong>{title}</strong>The conversation stays in this browser tab.</p>
"""


def application(files: SessionFiles, endpoint: Endpoint, gateway_url: str) -> ASGIApp:
    """The page of one session as an ASGI application, mounted at the root."""
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
    return Frame(app, files.panel, title(files.plan))


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


def page(files: SessionFiles, endpoint: Endpoint, gateway_url: str) -> Any:
    """The page's parts and what they do."""
    model = files.plan.model
    talk = Conversation(endpoint)
    with gr.Blocks(title=title(files.plan), analytics_enabled=False, fill_height=True) as blocks:
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
            reasoning_tags=None,  # Gradio would look for them in questions too, and cut every message apart
            latex_delimiters=_FORMULAS,
            placeholder=_PLACEHOLDER.format(title=html.escape(model.id)),
        )
        below = _BELOW.format(
            images="yes" if files.takes_images else "no", ranges=html.escape(json.dumps(_RANGES))
        )
        gr.HTML(below, padding=False, elem_id="below")
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
            **IDLE,
        )
        carried = gr.JSON(visible=False)
        with gr.Sidebar(position="right", open=False, width=400, elem_id="side"), gr.Tabs():
            with gr.Tab("Session"):
                gr.HTML(_PANEL.format(model=html.escape(model.id)), padding=False)
            with gr.Tab("Settings"):
                settings = _settings()
            with gr.Tab("Code"):
                code = _code(files, gateway_url, model.served_name)

        wired = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "minimal"}
        asked, again = [entry, chat, carried, *settings], [chat, carried, *settings]
        instantly = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        for sending in (
            entry.submit(talk.ask, asked, [chat, entry], js="(...all) => page.ask(all)", **wired),
            chat.retry(talk.retry, again, [chat, entry], js="(...all) => page.again(all)", **wired),
            chat.edit(talk.edit, again, [chat, entry], js="(...all) => page.again(all)", **wired),
        ):
            sending.failure(None, chat, [chat, entry], js="chat => page.failed(chat)", **instantly)
        entry.stop(talk.stop, carried, entry, js="() => page.running()", **instantly)
        chat.undo(undo, chat, [chat, entry], **instantly).then(
            None, entry, entry, js="text => page.attachAgain(text)", **instantly
        )
        # In the browser only: these work after the session has ended, too.
        new.click(None, None, [chat, entry], js="() => page.begin()", **instantly)
        for part in (chat, *settings):
            part.change(
                None, [chat, *settings], None, js="(...all) => { page.keep(all); return []; }", **instantly
            )
        blocks.load(None, None, [chat, *settings], js="() => page.kept()", **instantly)
        for event in (blocks.load, settings[0].change):
            event(
                lambda system: _snippet_texts(files, gateway_url, model.served_name, system),
                settings[0],
                code,
                **instantly,
            )
    return blocks


def _settings() -> list[Any]:
    """System prompt, temperature, top-p, length; an empty field leaves the choice to the engine.

    The numbers have no `minimum` or `maximum`: beyond these Gradio fails without a word for the person.
    """
    return [
        gr.Textbox(
            label="System prompt", value="", lines=4, max_lines=12, placeholder="none", elem_id="system"
        ),
        gr.Number(label="Temperature (0 to 2)", value=None, step=0.1, placeholder=_UNSET),
        gr.Number(label="Top-p (0.01 to 1)", value=None, step=0.05, placeholder=_UNSET),
        gr.Number(
            label="Longest answer, in tokens (1 or more)",
            value=None,
            step=1,
            precision=0,
            placeholder="no limit",
        ),
    ]


def _code(files: SessionFiles, gateway_url: str, model: str) -> list[Any]:
    """The snippets, one tab a language."""
    gr.Markdown("Any OpenAI client works. Set the key once, on the cluster:")
    gr.Code(key_command(str(files.paths.key)), **_CODE)
    shown = []
    with gr.Tabs():
        for snippet in snippets(files.base_url(gateway_url), model):
            with gr.Tab(snippet.label):
                shown.append(gr.Code(snippet.code, **_CODE))
    return shown


_CODE: dict[str, Any] = {
    "language": None,  # Gradio's colours for code have too little contrast, in light and in dark
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
