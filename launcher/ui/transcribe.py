"""The transcribe page: its parts; what they do is done by the browser alone, in the scripts beside this module.

Owns the Gradio Blocks; the page's own HTML is `transcribe.html`. A sound goes from the browser straight to the
session's API, so that no second copy of it lies anywhere. `queue.js` has the files and their states, `rows.js` draws
them, `hearing.js` asks the session, `lines.js` shows what was heard, `find.js` searches it, `player.js` and `sounds.py`
have the sound, `recorder.js` the microphone, `formats.js` writes the downloads, `kept.js` keeps all over a reload.
"""

from __future__ import annotations

import html
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.types import ASGIApp

from launcher.ui import parts
from launcher.ui.frame import Page
from launcher.ui.parts import INSTANTLY
from launcher.ui.session import SessionFiles, title
from launcher.ui.snippets import audio_snippets
from launcher.ui.sounds import Sounds
from launcher.whisper.languages import LANGUAGES

_SCRIPTS = (
    *("formats.js", "hearing.js", "kept.js", "queue.js", "rows.js", "find.js", "lines.js", "player.js"),
    *("recorder.js", "transcribe.js"),
)
_STYLES = ("transcribe.css", "lines.css")
_FORMATS = (("txt", "Text"), ("srt", "SRT"), ("vtt", "VTT"), ("json", "JSON"), ("tsv", "TSV"))

_WORK = resources.files("launcher.ui").joinpath("transcribe.html").read_text(encoding="utf-8")
_ABOUT = """
<section class="panel" aria-label="Transcripts">
  <h2>Transcripts</h2>
  <p>They are kept in this browser tab only, with your changes. Download what you want to keep: closing the tab
    forgets it.</p>
  <h2>Keys</h2>
  <dl class="keys">
    <div><dt>Space</dt><dd>play or pause</dd></div>
    <div><dt>↑ ↓</dt><dd>to the line before or after</dd></div>
    <div><dt>Enter</dt><dd>hear the line; while editing: keep it</dd></div>
    <div><dt>E or double click</dt><dd>edit the line</dd></div>
    <div><dt>Ctrl Enter</dt><dd>keep it, hear and edit the next</dd></div>
    <div><dt>Ctrl Space</dt><dd>play or pause while editing</dd></div>
    <div><dt>Esc</dt><dd>leave the line as it was</dd></div>
  </dl>
</section>
"""


def application(files: SessionFiles, gateway_url: str) -> ASGIApp:
    """The page of one session as an ASGI application, mounted at the root."""
    sounds = Sounds([Path(folder) for folder in files.plan.audio_folders])
    return parts.mounted(page(files, gateway_url), files, Page(_SCRIPTS, _STYLES, sounds))


def page(files: SessionFiles, gateway_url: str) -> Any:
    """The page's parts."""
    model = files.plan.model
    with gr.Blocks(title=title(files.plan), analytics_enabled=False, fill_height=True) as blocks:
        with gr.Row(elem_id="top"):
            parts.header(model.id)
        gr.HTML(_work(model.served_name), padding=False, elem_id="main")
        with gr.Sidebar(position="right", open=False, width=400, elem_id="side"), gr.Tabs():
            with gr.Tab("Session"):
                parts.panel(model.id, _ABOUT)
            with gr.Tab("Settings"):
                settings = _settings()
            with gr.Tab("Code"):
                code = parts.code(str(files.paths.key), _snippets(files, gateway_url))
        for part in settings:
            part.change(
                None, settings, None, js="(...all) => { page.settled(...all); return []; }", **INSTANTLY
            )
        blocks.load(None, None, settings, js="() => page.settledBefore()", **INSTANTLY)
        # The address is known once the session is ready, which is after this process has started.
        blocks.load(lambda: [piece.code for piece in _snippets(files, gateway_url)], None, code, **INSTANTLY)
    return blocks


def _work(served_name: str) -> str:
    languages = "".join(
        f'<option value="{code}">{html.escape(name.title())}</option>'
        for code, name in sorted(LANGUAGES.items(), key=lambda language: language[1])
    )
    formats = "".join(
        f' <button class="quiet" type="button" data-save="{kind}" aria-label="Download as {label}">{label}</button>'
        for kind, label in _FORMATS
    )
    return _WORK.format(
        model=html.escape(served_name),
        languages=languages,
        formats=formats,
        notice=parts.NOTICE,
        spoken=parts.SPOKEN,
    )


def _settings() -> list[Any]:
    """What one seldom changes; it holds for files added afterwards."""
    gr.Markdown("For files that are added from now on.")
    return [
        gr.Checkbox(
            label="Times for each word", value=False, info="In the JSON file. Takes longer.", elem_id="words"
        ),
        gr.Checkbox(
            label="Leave out silence",
            value=True,
            info="Without it, long pauses may become words that nobody said.",
            elem_id="silence",
        ),
        gr.Textbox(
            label="Names and terms",
            value="",
            lines=2,
            max_lines=6,
            placeholder="Lise Meitner, Ångström, cryo-EM",
            info="Words that are said and easily misheard.",
            elem_id="names",
        ),
        gr.Textbox(
            label="Example of the style",
            value="",
            lines=2,
            max_lines=6,
            placeholder="A sentence, written as you want it",
            info="Its spelling and punctuation are followed.",
            elem_id="style",
        ),
    ]


def _snippets(files: SessionFiles, gateway_url: str) -> tuple[Any, ...]:
    return audio_snippets(files.base_url(gateway_url), files.plan.model.served_name)
