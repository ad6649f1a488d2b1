"""What Open OnDemand's card says of a session: small pieces of HTML in its directory, which the views paste.

The views run on the portal at every poll and must be quick, so the session itself keeps `card.html` fresh.
How text becomes HTML is `markup`'s, how a start is shown `progress`'s; `card.js` is what the card does in the browser.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from launcher.api import Session
from launcher.ondemand.markup import code, copy_button, disclosure, element_id, one_line, text
from launcher.ondemand.progress import progress
from launcher.sessions.clock import clock
from launcher.sessions.connection import Connection
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.starts import recall
from launcher.sessions.status import ENGINE_RESTART, FAILED, LAUNCHING, PENDING, READY, UNHEALTHY, Status
from launcher.ui.snippets import audio_snippets, key_command, snippets

INFO, ENDED = "card.html", "ended.html"
WHISPER = "whisper"
_FILES = "Whole files and folders, from a shell on the cluster"
# After host, port and key these stand on the line for after.sh. OOD's job pastes them into connection.yml unquoted, so
# "~", YAML's null, stands for what is not one plain word; a date would be refused by the portal, with its whole page.
CONNECTION_WORDS = ("session_id", "model", "ends_at", "login_host", "engine")
_PLAIN = re.compile(r"(?!\d+-\d+-\d)[A-Za-z0-9][A-Za-z0-9._/-]*")


def write_waiting(plan: Plan, root: Path) -> None:
    """The card before the job runs."""
    last = recall(plan)
    waiting = Status(
        plan.id,
        PENDING,
        plan.created_at,
        "The job waits in the queue.",
        expected_s=last.total_s if last else None,
    )
    write_private(root / INFO, info(plan, waiting))


def keeper(root: Path, plan: Plan) -> Callable[[Status], None]:
    """What the session calls with each new status, to keep the card fresh."""
    paths = SessionPaths(root)

    def keep(status: Status) -> None:
        connection = Connection.read(paths.connection)
        base_url = connection.base_url if connection else None
        write_private(root / INFO, info(plan, status, base_url, paths.key), durable=False)
        if status.state == READY and not paths.words.exists():
            write_private(paths.words, _connection_words(plan, connection))
        if status.final:
            write_private(root / ENDED, ended(plan, status))
        if status.ended:
            # OOD's own file goes too: a requeued job would show the dead port until its before.sh has run.
            (root / "connection.yml").unlink(missing_ok=True)
            paths.words.unlink(missing_ok=True)

    return keep


def info(plan: Plan, status: Status, base_url: str | None = None, key_file: Path | None = None) -> str:
    """What the card shows in every state: the model; while it starts, how far it is; when it answers, code to paste."""
    rows = [_row("Model", plan.model.id), _row("Hardware", plan.resources.profile)]
    if plan.engine == WHISPER:
        rows.insert(1, _row("Task", "Speech to text"))
    if context := plan.origins.get("context"):
        rows.append(_row("Context", context))
    starts_again = status.state == UNHEALTHY and status.reason == ENGINE_RESTART
    if status.state == UNHEALTHY:
        rows.append(_warning(status.message))
    elif status.state == READY and status.ends_soon:
        rows.append(_warning("This session reaches its time limit soon."))
    if status.state == PENDING and status.expected_s:
        rows.append(f"<p>It answered {clock(status.expected_s)} after the job had started, last time.</p>")
    if status.state == LAUNCHING or starts_again:
        rows.append(progress(status, "Starting the engine again." if starts_again else status.message))
    if status.state == READY and base_url is not None:
        rows.append(_code(plan, base_url, key_file))
    # One block, which Markdown leaves alone.
    return one_line(f"<div>{''.join(rows)}<script>{_script()}</script></div>")


def ended(plan: Plan, status: Status) -> str:
    """Why the session is over, in one sentence, and what to do."""
    kind = "danger" if status.state == FAILED else "info"
    step = status.form_hint or status.hint
    hint = f" {text(step)}" if step else ""
    return one_line(
        f'<div class="alert alert-{kind} text-break" role="status">{text(status.message)}{hint}{_log(status)}</div>'
    )


def _log(status: Status) -> str:
    # As entities: in a line of a log Markdown would see emphasis and links.
    said = "".join(
        f'<br><code class="text-reset">{code(line)}</code>' for line in (status.quote or "").splitlines()
    )
    said = f"<br><small>The log says:{said}</small>" if said else ""
    if status.state == FAILED and status.log:
        said += f'<br><small>Log: <code class="text-break text-reset">{text(status.log)}</code></small>'
    return said


def settled(root: Path) -> str:
    """Why the session is over, asked of Slurm where the session itself could not say so; kept for the next time."""
    session = Session(SessionPaths(root))
    status = session.status()
    said = ended(session.plan, status)
    if status.final:
        write_private(root / ENDED, said)
    return said


def _connection_words(plan: Plan, connection: Connection | None) -> str:
    if connection is None:
        return ""
    ends_at = round(connection.ends_at) if connection.ends_at else None
    words = [connection.host, connection.port, connection.key, plan.id, connection.model, ends_at,
             plan.cluster.login_host]  # fmt: skip
    if plan.engine == WHISPER:
        # The last, and only here: the after.sh of a chat that was staged before an upgrade reads seven words, and would
        # take an eighth for a part of the seventh.
        words.append(plan.engine)
    plain = (str(word) if word is not None and _PLAIN.fullmatch(str(word)) else "~" for word in words)
    return f"{' '.join(plain)}\n"


def _row(label: str, value: str) -> str:
    # As OOD writes its own rows.
    return f'<p class="text-break"><strong>{label}:</strong> {text(value)}</p>'


def _warning(sentence: str) -> str:
    return f'<p class="alert alert-warning text-break">{text(sentence)}</p>'


def _code(plan: Plan, base_url: str, key_file: Path | None) -> str:
    hears = plan.engine == WHISPER
    parts = [(_FILES, "", _transcribe(plan))] if hears else []
    parts += [("The key, for a shell on the cluster", "", key_command(str(key_file)))] if key_file else []
    code_of = audio_snippets if hears else snippets
    parts += [(s.label, s.needs, s.code.rstrip()) for s in code_of(base_url, plan.model.served_name)]
    shown = []
    for number, (label, needs, lines) in enumerate(parts):
        identity = element_id(plan.id, "code", str(number))
        first = f"First: {text(needs)}" if needs else ""
        shown.append(
            disclosure(
                f"{identity}-part",
                label,
                '<div class="d-flex justify-content-between align-items-center mt-1">'
                f'<span class="small text-muted">{first}</span>{copy_button(identity, label)}</div>'
                f'<pre class="mt-1"><code id="{identity}">{code(lines)}</code></pre>',
            )
        )
    body = "".join(f'<div class="pl-3 ps-3">{part}</div>' for part in shown)
    return disclosure(element_id(plan.id, "code"), "Code to paste", body)


def _transcribe(plan: Plan) -> str:
    # With its path: whoever comes by the browser may have no launcher in a shell. It needs no key.
    return shlex.join((plan.launcher, "transcribe", "--session", plan.id, "recordings/"))


@functools.cache
def _script() -> str:
    lines = (Path(__file__).parent / "card.js").read_text(encoding="utf-8").splitlines()
    return " ".join(line.strip() for line in lines if not line.strip().startswith("//"))
