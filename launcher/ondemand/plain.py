"""Text as the form can take it: names and titles of a site, a folder or Slurm may hold anything.

OOD reads the form as YAML, Rails escapes labels of fields and options for HTML, and shows a header as Markdown.
"""

from __future__ import annotations

import re

# libyaml refuses control characters, lone surrogates, U+FEFF and U+FFFE, takes U+0085, U+2028 and U+2029 for the end
# of a line, and an invisible sign that turns the direction would make one model look like another.
_UNFIT = re.compile(
    "[^ -~\u00a0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
    "|[\u200b-\u200f\u2028-\u202e\u2060-\u206f]"
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+.!|~^:&=-])")


def plain(text: str, most: int = 120) -> str:
    """`text` on one line, without what cannot be shown, of at most `most` characters."""
    line = " ".join(_UNFIT.sub(" ", text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def markdown(text: str, most: int = 600) -> str:
    """`text` as the same words in Markdown: no link, no HTML, no emphasis."""
    return _MARKDOWN.sub(r"\\\1", plain(text, most))


def directive(name: str) -> str | None:
    """The end of a `data-…-NAME` for this value of another field; None for one that the form's script cannot match."""
    # dynamic_forms.js compares camel-cased words: it wants dashes, and a dash twice is no boundary to it.
    word = name.lower().replace("_", "-")
    return word if re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", word) else None
