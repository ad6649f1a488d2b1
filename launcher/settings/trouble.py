"""What is wrong with a text that is not the YAML it should be, in plain words: line, sentence, advice.

libyaml's own sentences speak of tokens, scalars and the places where it gave up; who edits a site file wants the place
where it went wrong.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import yaml


class Refused(yaml.MarkedYAMLError):
    """YAML that means something elsewhere, and nothing in settings."""

    def __init__(self, problem: str, hint: str, mark: yaml.Mark) -> None:
        super().__init__(None, None, problem, mark)
        self.line = mark.line + 1
        self.hint = hint


class _Said(NamedTuple):
    part: str  # of libyaml's sentence
    problem: str
    hint: str
    beginning: bool = False  # the line where the thing began says more than the one where libyaml gave up


_SAID = (
    _Said("tab character", "a tab indents this line", "Indent with spaces."),
    _Said("unexpected end of stream", "a text in quotes has no end", "Close the quotes.", True),
    _Said("expected ',' or ']'", "a list that begins with [ has no ]", "Close it, or put commas between items.", True),
    _Said("expected ',' or '}'", "a block that begins with { has no }", "Close it, or put commas between keys.", True),
    _Said("expected node content", "a value is missing or has no end", "Write the value, or put it in quotes."),
    _Said("expected key", "this line does not begin where its neighbours do", "Indent the keys of one block alike."),
    _Said("expected '-'", "this line does not begin where its neighbours do", "Indent the items of one list alike."),
    _Said("find expected ':'", 'a key has no ":" after it', 'Write it as "key: value".', True),
    _Said("undefined alias", "the alias (*name) has no anchor (&name) above it", "Put a text with * in quotes."),
    _Said("expected alphabetic", "a text may not begin with * or &", "Put it in quotes."),
    _Said("unknown escape", "a \\ in double quotes is followed by what means nothing", "Use single quotes."),
    _Said("another document", "a second document begins here (---)", "Keep one."),
    _Said("for merging", "<< must be followed by the alias (*name) of a block", 'Write it as "<<: *name".'),
)  # fmt: skip


def plainly(error: yaml.YAMLError, text: str) -> tuple[int | None, str, str]:
    """The line (from 1), the sentence without its full stop, and the advice for what PyYAML found in `text`."""
    if isinstance(error, Refused):
        return error.line, str(error.problem), error.hint
    if isinstance(error, yaml.reader.ReaderError):
        before = text.encode("utf-8")[: error.position]
        return before.count(b"\n") + 1, "it holds a control character", "Write the line again."
    mark, began = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or "this is not YAML")
    if mark is None:
        return None, problem, "Compare it with the example in docs/site.md."
    lines = text.split("\n")
    here = lines[mark.line] if mark.line < len(lines) else ""
    if "cannot start any token" in problem:
        return mark.line + 1, *_beginning(here, mark.column)
    if "mapping values are not allowed" in problem:
        return mark.line + 1, *_colon(here, mark.column)
    for said in _SAID:
        if said.part in problem:
            line = began.line if said.beginning and began is not None else mark.line
            return line + 1, said.problem, said.hint
    return mark.line + 1, problem, "Compare it with the example in docs/site.md."


def _beginning(line: str, column: int) -> tuple[str, str]:
    if not line[:column].strip() and line[column : column + 1] == "\t":
        return "a tab indents this line", "Indent with spaces."
    return f"a text may not begin with {line[column : column + 1]}", "Put it in quotes."


def _colon(line: str, column: int) -> tuple[str, str]:
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab indents this line", "Indent with spaces."
    if re.search(r":\s", line[:column]):
        return 'the text after the first ":" holds another one', "Put the text in quotes."
    return 'a ":" may not stand here', 'Indent the line like its neighbours; the one above may lack its ":".'
