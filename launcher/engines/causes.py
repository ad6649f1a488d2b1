"""The known causes of failures (`causes.yml`) and the search for them in the end of a log.

Owns what is quoted of a log: one line, bounded, printable, without secrets; and of an engine that had answered only the
pattern's own words, since a request may have written the rest. Read only once something has failed.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.engines import Diagnosis

SEE_LOG = "No known cause is in its log: see `launcher logs` for the whole of it."
ONLY_AT_START = "start"
_QUOTE_MAX = 300  # characters of a line
_LAST_LINES = 5
# Keys and passwords in an address or after their name; hf_… and sk-… by their look.
_SECRET = re.compile(
    r"\b(?:hf_|sk-)\w[\w-]{7,}|(?<=://)[^/@\s]+(?=@)"
    r"|(?i:(?<=bearer )|(?<=api_key=)|(?<=api-key=)|(?<=password=)|(?<=token=))[^\s,;&)'\"]{4,}"
)
# The same in JSON, in Python's words, in a header and behind an option.
_NAMED_SECRET = re.compile(
    r"(?i)((?:(?:api|access)[-_]?key|token|password|passwd|secret|signature|\bsig)['\"]?\s?[:=]\s?[\[('\"]{0,3}"
    r"|--[\w-]{0,40}(?:key|token|password|secret)\s|\bbearer:?\s)[^\s,;&()\[\]'\"]{8,}"
)


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of `causes.yml`, whose head explains the fields; `of` are the logs that it is looked for in."""

    name: str
    reason: str
    of: tuple[str, ...]
    pattern: re.Pattern[str]
    says: str
    hint: str
    form: str | None
    only_at_start: bool
    source: str
    log: str


@dataclass(frozen=True, slots=True)
class Ending:
    """What an exit code alone tells of an engine."""

    of: tuple[str, ...]
    signals: tuple[int, ...]
    codes: tuple[int, ...]
    reason: str
    says: str
    hint: str
    form: str | None


@functools.cache
def causes() -> tuple[Cause, ...]:
    """All of them, in the order in which they are looked for."""
    return tuple(_cause(name, entry) for name, entry in _data()["causes"].items())


@functools.cache
def endings() -> tuple[Ending, ...]:
    """What exit codes and signals tell."""
    return tuple(
        Ending(
            tuple(entry["of"]),
            tuple(entry.get("signals", ())),
            tuple(entry.get("codes", ())),
            entry["reason"],
            entry["says"],
            entry.get("hint", SEE_LOG),
            entry.get("form"),
        )
        for entry in _data()["endings"]
    )


def told(
    whose: str, log: str, *, ready: bool = False, request: Mapping[str, str] | None = None
) -> Diagnosis | None:
    """The first cause that `log` tells of `whose`, wherever it stands; None where none is known.

    `message` is the end of a sentence. `ready`: the engine had answered before. `request` fills what causes say of it.
    """
    for cause in causes():
        if whose not in cause.of or (ready and cause.only_at_start):
            continue
        if (match := cause.pattern.search(log)) is not None:
            groups = {name.rstrip("234"): text for name, text in match.groupdict().items() if text}
            words = _Words({**(request or {}), **groups})
            quote = one_line(match[0]) if ready else _line_of(match)
            form = _said(cause.form, words) if cause.form else None
            return Diagnosis(cause.reason, _said(cause.says, words), _said(cause.hint, words), form, quote)
    return None


def ended(whose: str, exit_code: int | None) -> Diagnosis | None:
    """What the exit code of `whose` tells (negative or above 128: a signal); None where that is nothing."""
    if exit_code is None:
        return None
    number = signal_of(exit_code)
    for ending in endings():
        if whose in ending.of and (number in ending.signals if number else exit_code in ending.codes):
            return Diagnosis(ending.reason, ending.says, ending.hint, ending.form)
    return None


def _data() -> dict[str, Any]:
    import yaml  # only once something has failed

    text = Path(__file__).with_name("causes.yml").read_text("utf-8")
    # The C reader is ten times as quick; not every PyYAML has it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded: dict[str, Any] = yaml.load(text, Loader=loader)  # noqa: S506 - both are the safe ones
    return loaded


def _cause(name: str, entry: Mapping[str, Any]) -> Cause:
    return Cause(
        name,
        entry["reason"],
        tuple(entry["of"]),
        re.compile("|".join(entry["patterns"]), re.MULTILINE),
        entry["says"],
        entry["hint"],
        entry.get("form"),
        entry.get("only") == ONLY_AT_START,
        entry["source"],
        entry["log"],
    )


class _Words(dict[str, str]):
    """The groups of a match; one that took no part reads as nothing."""

    def __missing__(self, key: str) -> str:
        return ""


def _said(text: str, words: Mapping[str, str]) -> str:
    # A group that took no part leaves no hole behind it: "another one ()" or "it cannot write ".
    filled = text.format_map(words).replace(" ()", "").strip(" :")
    return filled.replace("--max-model-len ,", "a smaller --max-model-len,")


# -- quoting


def quoted_end(log: str) -> str | None:
    """The last lines of a log that says no known cause; None where it is empty."""
    lines = [line for line in map(one_line, log.splitlines()[-50:]) if line]
    return "\n".join(lines[-_LAST_LINES:]) or None


def one_line(text: str) -> str:
    """`text` on one line, bounded, printable, without what looks like a key."""
    shown = " ".join(printable(text).split())
    safe = _NAMED_SECRET.sub(r"\1…", _SECRET.sub("…", shown))
    return safe if len(safe) <= _QUOTE_MAX else f"{safe[: _QUOTE_MAX - 1]}…"


def _line_of(match: re.Match[str]) -> str:
    start = match.string.rfind("\n", 0, match.start()) + 1
    end = match.string.find("\n", match.end())
    line = match.string[start : end if end >= 0 else None]
    if match.start() - start > _QUOTE_MAX // 2:
        # A line without end: what was found stands in the middle of it.
        line = f"… {match.string[match.start() : end if end >= 0 else None]}"
    return one_line(line)


def printable(text: str) -> str:
    """`text` with blanks for what cannot be shown, line breaks aside."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


# -- the end of an engine

# The last line of a traceback: `RuntimeError: text` or `torch.OutOfMemoryError: text`.
EXCEPTION = re.compile(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))\b:? ?(?P<text>.*)$"
)


def unknown(log: str, kind: str = "", text: str = "", *, ready: bool) -> Diagnosis:
    """The end that no known cause explains, from the exception's type and text where there was one.

    While an engine serves, the text of an error and the lines of its log may quote a request: they are left out.
    """
    kind = kind.rpartition(".")[2]
    says = kind if ready or not text else f"{kind}: {one_line(text)[:200]}"
    return Diagnosis("engine-exit", says, SEE_LOG, quote=None if ready else quoted_end(log))


def stopped(
    program: str, found: Diagnosis, exit_code: int | None, *, ready: bool, elapsed_s: float
) -> Diagnosis:
    """`found`, whose message is the end of a sentence or nothing, with the whole sentence about `program`."""
    when = "while it was in use" if ready else "before it was ready"
    opening = f"{program} stopped after {elapsed_s:.0f} s ({code_words(exit_code)}) {when}"
    why = found.message.rstrip(".")
    return dataclasses.replace(found, message=f"{opening}: {why}." if why else f"{opening}.")


# -- exit codes


def signal_of(code: int) -> int:
    """The signal behind an exit code, Popen's negative number or a shell's 128 + number; 0 for none."""
    if code < 0:
        return -code
    return code - 128 if 128 < code < 160 else 0


def code_words(exit_code: int | None) -> str:
    """`exit code 1`, `signal 9`."""
    if exit_code is None:
        return "exit code unknown"
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
