"""The chat page: its parts and how they are wired; what the buttons do is in `conversation`.

Owns the Gradio Blocks. The scripts beside this module do what the browser does alone: `conversation.js` keeps and saves
the chat, `pictures.js` its images, `page.js` serves keyboard and screen reader; what every page has is in `parts`.
"""

from __future__ import annotations

import html
import json
from typing import Any

import gradio as gr
from starlette.types import ASGIApp

from launcher.ui import parts
from launcher.ui.client import Endpoint
from launcher.ui.conversation import IDLE, Conversation, undo
from launcher.ui.frame import Page
from launcher.ui.parts import INSTANTLY
from launcher.ui.session import SessionFiles, title
from launcher.ui.snippets import snippets

CHAT = Page(("conversation.js", "pictures.js", "page.js"), ("chat.css",))
_UNSET = "model's default"
# The numbers in Settings, in their order: name, least, most; conversation.js sends nothing beyond them.
_RANGES = (("Temperature", 0, 2), ("Top-p", 0.01, 1), ("Longest answer", 1, None))
# What models write; a single $ is more often money.
_FORMULAS = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]

# One line above the entry, only there when there is something to say; and what is attached to the next question.
_BELOW = (
    parts.NOTICE
    + """
<ul class="pictures" id="pictures" data-allowed="{images}" data-ranges="{ranges}" aria-label="Attached images"
  hidden></ul>
"""
    + parts.SPOKEN
)
_ABOUT = """
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
    return parts.mounted(page(files, endpoint, gateway_url), files, CHAT)


def page(files: SessionFiles, endpoint: Endpoint, gateway_url: str) -> Any:
    """The page's parts and what they do."""
    model = files.plan.model
    talk = Conversation(endpoint)
    with gr.Blocks(title=title(files.plan), analytics_enabled=False, fill_height=True) as blocks:
        with gr.Row(elem_id="top"):
            parts.header(model.id)
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
                parts.panel(model.id, _ABOUT)
            with gr.Tab("Settings"):
                settings = _settings()
            with gr.Tab("Code"):
                code = parts.code(
                    str(files.paths.key), snippets(files.base_url(gateway_url), model.served_name)
                )

        wired = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "minimal"}
        asked, again = [entry, chat, carried, *settings], [chat, carried, *settings]
        for sending in (
            entry.submit(talk.ask, asked, [chat, entry], js="(...all) => page.ask(all)", **wired),
            chat.retry(talk.retry, again, [chat, entry], js="(...all) => page.again(all)", **wired),
            chat.edit(talk.edit, again, [chat, entry], js="(...all) => page.again(all)", **wired),
        ):
            sending.failure(None, chat, [chat, entry], js="chat => page.failed(chat)", **INSTANTLY)
            sending.then(None, None, chat, js="() => page.over()", **INSTANTLY)
        entry.stop(talk.stop, carried, entry, js="() => page.running()", **INSTANTLY)
        chat.undo(undo, chat, [chat, entry], **INSTANTLY).then(
            None, entry, entry, js="text => page.attachAgain(text)", **INSTANTLY
        )
        # In the browser only: these work after the session has ended, too.
        new.click(None, None, [chat, entry], js="() => page.begin()", **INSTANTLY)
        for part in (chat, *settings):
            part.change(
                None, [chat, *settings], None, js="(...all) => { page.keep(all); return []; }", **INSTANTLY
            )
        blocks.load(None, None, [chat, *settings], js="() => page.kept()", **INSTANTLY)
        for event in (blocks.load, settings[0].change):
            event(
                lambda system: _snippet_texts(files, gateway_url, model.served_name, system),
                settings[0],
                code,
                **INSTANTLY,
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


def _snippet_texts(files: SessionFiles, gateway_url: str, model: str, system: str | None) -> list[str]:
    return [
        snippet.code
        for snippet in snippets(files.base_url(gateway_url), model, system=(system or "").strip())
    ]
