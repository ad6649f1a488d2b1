"""What Open OnDemand's card says of a session: small pieces of HTML in its directory, which the views paste.

The views run on the portal at every poll and must be quick, so the session itself keeps `card.html` fresh.
OOD escapes nothing and sends it all through Markdown: everything is escaped here, on one line.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

from launcher.api import Session
from launcher.sessions.clock import clock
from launcher.sessions.connection import Connection
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import LAUNCHING, PENDING, READY, UNHEALTHY, Status
from launcher.ui.snippets import Snippet, snippets

INFO, ENDED = "card.html", "ended.html"
# Host, port, key and CONNECTION_WORDS for after.sh, on one line; "-" stands for what is not one plain word.
WORDS = "connection.words"
CONNECTION_WORDS = ("session_id", "model", "ends_at", "login_host")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def write_waiting(plan: Plan, root: Path) -> None:
    """The card before the job runs."""
    waiting = Status(plan.id, PENDING, plan.created_at, "The job waits in the queue.")
    write_private(root / INFO, info(plan, waiting))


def keeper(root: Path, plan: Plan) -> Callable[[Status], None]:
    """What the session calls with each new status, to keep the card fresh."""

    def keep(status: Status) -> None:
        connection = Connection.read(root / "connection.json")
        write_private(
            root / INFO, info(plan, status, connection.base_url if connection else None), durable=False
        )
        if status.state == READY and not (root / WORDS).exists():
            write_private(root / WORDS, _connection_words(plan, SessionPaths(root)))
        if status.final:
            write_private(root / ENDED, ended(plan, status))
        if status.ended:
            # OOD's own file goes too: a requeued job would show the dead port until its before.sh has run.
            (root / "connection.yml").unlink(missing_ok=True)
            (root / WORDS).unlink(missing_ok=True)

    return keep


def info(plan: Plan, status: Status, base_url: str | None = None) -> str:
    """What the card shows in every state: the model; while it starts, each phase; when it answers, code to paste."""
    rows = [
        f"<p><strong>Model:</strong> {_text(plan.model.id)} <strong>on</strong> {_text(plan.resources.profile)}</p>"
    ]
    if status.state == LAUNCHING:
        steps = "".join(f"<li>{_text(p.name)}: {clock(p.elapsed_s)}</li>" for p in status.phases)
        rows.append(f"<p>{_text(status.message)}</p>" + (f"<ul>{steps}</ul>" if steps else ""))
    elif status.state == UNHEALTHY:
        rows.append(f'<p class="alert alert-warning">{_text(status.message)}</p>')
    elif status.state == READY and status.ends_soon:
        rows.append('<p class="alert alert-warning">This session reaches its time limit soon.</p>')
    if status.state == READY and base_url is not None:
        rows += [_code(snippet) for snippet in snippets(base_url, plan.model.served_name)]
    return _line(f"<div>{''.join(rows)}</div>")  # one block, which Markdown leaves alone


def ended(plan: Plan, status: Status) -> str:
    """Why the session is over, in one sentence, and what to do."""
    kind = "danger" if status.state == "FAILED" else "info"
    hint = f" {_text(status.hint)}" if status.hint else ""
    log = ""
    if status.state == "FAILED" and status.log:
        log = f"<br><small>Log: <code>{_text(status.log)}</code></small>"
    return _line(f'<div class="alert alert-{kind}" role="status">{_text(status.message)}{hint}{log}</div>')


def settled(root: Path) -> str:
    """Why the session is over, asked of Slurm where the session itself could not say so; kept for the next time."""
    session = Session(SessionPaths(root))
    status = session.status()
    text = ended(session.plan, status)
    if status.final:
        write_private(root / ENDED, text)
    return text


def _connection_words(plan: Plan, paths: SessionPaths) -> str:
    connection = Connection.read(paths.connection)
    if connection is None:
        return ""
    ends_at = round(connection.ends_at) if connection.ends_at else None
    words = (connection.host, connection.port, connection.key, plan.id, connection.model, ends_at,
             plan.cluster.login_host)  # fmt: skip
    return (
        " ".join(str(word) if word is not None and _PLAIN.fullmatch(str(word)) else "-" for word in words)
        + "\n"
    )


def _text(value: str) -> str:
    return html.escape(value)


def _code(snippet: Snippet) -> str:
    # As entities all of it survives Markdown, which would see blocks, emphasis and links of its own in it.
    code = "".join(c if c.isalnum() else f"&#{ord(c)};" for c in snippet.code.rstrip())
    return f"<details><summary>{_text(snippet.label)}</summary><pre><code>{code}</code></pre></details>"


def _line(text: str) -> str:
    # A blank line or an indented one would start Markdown's own blocks.
    return " ".join(text.split()) + "\n"
