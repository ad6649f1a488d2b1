"""How far a start has come, on the card: a bar, the time so far and last time's, and the phases.

The width of the bar is said twice, by a class of OOD's own style sheet (`w-1` to `w-100`) and by `style`, because a
site's Content-Security-Policy may forbid the latter. Without last time's duration the bar moves and says no number.
"""

from __future__ import annotations

from launcher.ondemand.markup import UNSEEN, text
from launcher.sessions.clock import clock
from launcher.sessions.status import Status

_ALMOST = 95  # per cent: only an answer makes it whole


def progress(status: Status, sentence: str) -> str:
    """What happens now, the bar and the phases of a session that starts, or whose engine is being started again."""
    elapsed_s = max(0.0, status.updated_at - status.since)
    times = _times(elapsed_s, status.expected_s)
    return (
        f'<p class="mb-1">{text(sentence)} <span class="text-muted">{times}</span></p>'
        + _bar(elapsed_s, status.expected_s, f"{sentence} {times}")
        + _phases(status)
    )


def _times(elapsed_s: float, expected_s: float | None) -> str:
    if not expected_s:
        return f"{clock(elapsed_s)} so far."
    return f"{clock(elapsed_s)} so far, last time {clock(expected_s)} in all."


def _bar(elapsed_s: float, expected_s: float | None, words: str) -> str:
    about = (
        'class="progress mb-2" role="progressbar" aria-label="Start of the session" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuetext="{text(words)}"'
    )
    if not expected_s:
        moving = "progress-bar progress-bar-striped progress-bar-animated w-100"
        return f'<div {about}><div class="{moving}"></div></div>'
    percent = max(1, min(_ALMOST, round(100 * elapsed_s / expected_s)))
    return (
        f'<div {about} aria-valuenow="{percent}">'
        f'<div class="progress-bar w-{percent}" style="width: {percent}%"></div></div>'
    )


def _phases(status: Status) -> str:
    rows = []
    for phase in status.phases:
        present = phase.name == status.phase
        icon, word = ("fa-spinner", "now") if present else ("fa-check text-success", "done")
        rows.append(_phase(phase.name, icon, word, clock(phase.elapsed_s), phase.expected_s))
    rows += [_phase(phase.name, "", "to come", "", phase.expected_s) for phase in status.coming]
    return f'<ul class="list-unstyled small mb-0" aria-label="Phases">{"".join(rows)}</ul>' if rows else ""


def _phase(name: str, icon: str, word: str, elapsed: str, expected_s: float | None) -> str:
    last = f"last time {clock(expected_s)}" if expected_s is not None else ""
    times = ", ".join(filter(None, (elapsed, last)))
    quiet = ' class="text-muted"' if not elapsed else ""
    return (
        f'<li{quiet}><span class="fa fa-fw {icon}" aria-hidden="true"></span> {text(name)}'
        f'<span class="{UNSEEN}"> ({word})</span> <span class="text-muted">{times}</span></li>'
    )
