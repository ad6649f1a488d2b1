"""Images in a question: how the chat refers to them, and how they reach the model.

The images themselves stay in the browser: a question holds `[name](#picture-ID)` before its text, and each request
brings the images as data: URLs beside the conversation. Nothing is uploaded, so Gradio has no file to keep.
`pictures.js` is the browser's side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"\[([^\]\n]*)\]\(#picture-([0-9a-z]{8})\)\s*")
# Any other address would make the engine fetch it, from inside the cluster.
_DATA = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


class LostPictureError(Exception):
    """An image that the conversation refers to is not in the browser any more; the text says so."""


def split(text: str) -> tuple[dict[str, str], str]:
    """The images that `text` begins with, id to name, and what was written after them."""
    names: dict[str, str] = {}
    at = 0
    while found := _REFERENCE.match(text, at):
        names[found[2]] = found[1]
        at = found.end()
    return names, text[at:]


def content(text: str, pictures: Mapping[str, str]) -> str | list[dict[str, Any]]:
    """`text` as the content of an OpenAI message: itself, or images and text as parts.

    `pictures` has the data: URL for each id. Raises LostPictureError for one that is not there.
    """
    names, said = split(text)
    if not names:
        return text
    parts: list[dict[str, Any]] = []
    for identity, name in names.items():
        url = pictures.get(identity)
        if not isinstance(url, str) or not _DATA.fullmatch(url):
            raise LostPictureError(
                f'The image "{name}" is no longer in this browser tab. '
                "Undo the question that has it, or start a new chat."
            )
        parts.append({"type": "image_url", "image_url": {"url": url}})
    if said:
        parts.append({"type": "text", "text": said})
    return parts
