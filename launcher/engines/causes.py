"""What all engines share in explaining their own death: a table of causes, searched in the end of a log.

Owns the search and the words for signals and exit codes; each engine has its own table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

SEE_LOG = "See `launcher logs` for the whole log."


@dataclass(frozen=True, slots=True)
class Cause:
    """`pattern` in the log means `reason`; message and hint may use its named groups (without a digit at the end)."""

    reason: str
    pattern: re.Pattern[str]
    message: str
    hint: str


def cause(reason: str, *patterns: str, says: str, hint: str) -> Cause:
    """The cause that any of `patterns` tells."""
    return Cause(reason, re.compile("|".join(patterns)), says, hint)


def first_of(
    causes: Iterable[Cause], log: str, *, without: Collection[str] = ()
) -> tuple[str, str, str] | None:
    """Reason, message and hint of the first of `causes` that `log` tells, wherever it stands; none of `without`."""
    for one in causes:
        if one.reason in without:
            continue
        if (match := one.pattern.search(log)) is not None:
            found = _Found({name.rstrip("234"): text for name, text in match.groupdict().items() if text})
            return one.reason, one.message.format_map(found), one.hint.format_map(found)
    return None


class _Found(dict[str, str]):
    """The groups of a match; one that took no part reads as nothing."""

    def __missing__(self, key: str) -> str:
        return ""


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


def printable(text: str) -> str:
    """`text` with blanks for what cannot be shown, line breaks aside."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)
