"""What every page of a session has: theme, bar, notice, the session's panel, code to paste; and its mounting.

Owns what the pages share, so that they look and behave alike. The scripts `session.js` and `side.js` belong to it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.applications import Starlette
from starlette.types import ASGIApp

from launcher.ui.frame import Frame, Page
from launcher.ui.session import SessionFiles, title
from launcher.ui.snippets import Snippet, key_command

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Ubuntu", "Cantarell", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
# Gradio's events: one that is told to nobody and shows no spinner.
INSTANTLY: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}

_HEADER = """
<header class="bar">
  <h1 data-session="title">{title}</h1>
  <span class="state" data-session="state"></span>
</header>
"""
# One line, only there when there is something to say; and what is read out to those who listen to the page.
NOTICE = """
<div class="notice" data-session="notice" role="alert" hidden></div>
<button class="quiet" type="button" data-session="renew" hidden>Keep alive</button>
"""
SPOKEN = '<p class="spoken" id="spoken" role="status" aria-live="polite"></p>'
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
"""
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


def mounted(blocks: Any, files: SessionFiles, page: Page) -> ASGIApp:
    """Gradio's `blocks` as an ASGI application at the root, framed as `page` wants it."""
    app = gr.mount_gradio_app(
        Starlette(),
        blocks,
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
    return Frame(app, files.panel, title(files.plan), page)


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


def header(model: str) -> None:
    """The bar's name and state."""
    gr.HTML(_HEADER.format(title=html.escape(model)), padding=False)


def panel(model: str, about: str) -> None:
    """The tab "Session": its facts, and `about`, HTML that says what this page keeps and where."""
    gr.HTML(_PANEL.format(model=html.escape(model)) + about, padding=False)


def code(key_file: str, pieces: Sequence[Snippet]) -> list[Any]:
    """The tab "Code": how the key is set, then one tab a language; returns the fields of these."""
    gr.Markdown("Any OpenAI client works. Set the key once, on the cluster:")
    gr.Code(key_command(key_file), **_CODE)
    shown = []
    with gr.Tabs():
        for piece in pieces:
            with gr.Tab(piece.label):
                shown.append(gr.Code(piece.code, **_CODE))
    return shown
