"""Pieces of HTML that are the same in Bootstrap 4 (OOD 3.1) and 5 (OOD 4.x) and that Markdown leaves alone.

Owns how text gets into the card: everything is escaped here, on one line. OOD escapes nothing itself.
"""

from __future__ import annotations

import html
import re

# Read by a screen reader, not shown: the first is Bootstrap 4's word for it, the second Bootstrap 5's.
UNSEEN = "sr-only visually-hidden"


def text(value: str) -> str:
    """`value` as text between tags or in an attribute."""
    return html.escape(value)


def code(value: str) -> str:
    """`value` for a <code> element: as entities all of it survives Markdown, which would see blocks and links in it."""
    return "".join(c if c.isalnum() else f"&#{ord(c)};" for c in value)


def one_line(block: str) -> str:
    """The block as Markdown leaves it alone: a blank line or an indented one would start a block of Markdown's own."""
    return " ".join(block.split()) + "\n"


def element_id(session_id: str, *words: str) -> str:
    """An id that no other session's card on the page has; view.html.erb makes its ids in the same way."""
    return "-".join(("inference", re.sub(r"[^A-Za-z0-9_-]", "-", session_id), *words))


def copy_button(source_id: str, what: str) -> str:
    """A button that copies the element `source_id`; hidden until card.js runs, as it could do nothing without it."""
    return (
        f'<button class="btn btn-outline-secondary btn-sm inference-copy" id="{text(source_id)}-copy" type="button" '
        f'data-copies="{text(source_id)}" hidden>Copy<span class="{UNSEEN}"> {text(what)}</span></button>'
    )


def disclosure(identity: str, summary: str, body: str) -> str:
    """A part that opens on a click, by the browser alone; card.js keeps it open when OOD draws the card anew."""
    return (
        f'<details class="inference" id="{text(identity)}"><summary id="{text(identity)}-summary">{text(summary)}'
        f"</summary>{body}</details>"
    )
