"""The endpoint's page for people: its models, what waits, how fast they are, what was used this month. No prompts.

One answer without a script or another file, as all of `launcher.gateway.pages`. What comes from the state is counted in
a thread, and may be some seconds old.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from html import escape
from typing import Any

from launcher.batch.batches import Asked, State
from launcher.errors import LauncherError
from launcher.fleet.store import Store
from launcher.fleet.usage import Sum, month, recent, sums
from launcher.gateway import pages
from launcher.gateway.answers import Answer
from launcher.gateway.exchange import Exchange
from launcher.gateway.keys import Holder
from launcher.gateway.routes import Target
from launcher.sessions.clock import clock, moment

_LOG = logging.getLogger("launcher.gateway")
_REFRESH_S = 10
_COUNTED_ANEW_S = 5.0
_KEPT = 64
_EXAMPLE = """\
from openai import OpenAI

client = OpenAI(base_url="{url}", api_key="KEY")
messages = [{{"role": "user", "content": "Hello"}}]
print(client.chat.completions.create(model="{model}", messages=messages).choices[0].message.content)"""
_STILL = "?still"
_READY = "Ready."  # the state says it
_EVERYBODY = ""  # no owner is called so


@dataclass(slots=True)
class Counted:
    """What the state says, to one person or, `by` owner, of everybody."""

    by: str
    used: list[Sum] = field(default_factory=list)
    lately: dict[str, Sum] = field(default_factory=dict)
    batches: list[tuple[Asked, State]] = field(default_factory=list)
    at: float | None = None
    asked_at: float = 0.0
    counting: Future[None] | None = None
    trouble: str | None = None


class StatusPage:
    """Makes the page: `report` is what `/status` says to a holder, `url` the base URL that is shown.

    `batches` gives the holder's own batches that are not over; it is called in a thread.
    """

    batches: Callable[[Holder], list[tuple[Asked, State]]] | None = None

    def __init__(self, store: Store, report: Callable[[Holder], Mapping[str, Any]], url: str) -> None:
        self._store, self._report, self._url = store, report, url
        self._counted: dict[str, Counted] = {}  # by owner, the last one that was asked for last
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="page")

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def answer(self, exchange: Exchange, target: Target, holder: Holder) -> Answer:
        """The page for `holder`, who sees the models of the key and its owner's usage; the own key sees everybody's."""
        owner = _EVERYBODY if holder.own else holder.owner
        counted = self._counted.pop(owner, None) or Counted("owner" if holder.own else "model")
        self._counted[owner] = counted
        if len(self._counted) > _KEPT:
            del self._counted[next(iter(self._counted))]
        now = time.monotonic()
        # A state may take minutes to say that it is not there.
        over = counted.counting is None or counted.counting.done()
        if over and now - counted.asked_at >= _COUNTED_ANEW_S:
            counted.asked_at = now
            counted.counting = self._thread.submit(self._count, owner, counted, holder)
        still = target.query == _STILL
        return render(self._report(holder), holder, counted, self._url, target.up(), still=still)

    def _count(self, owner: str, counted: Counted, holder: Holder) -> None:
        try:
            counted.batches = self.batches(holder) if self.batches is not None else []
            begin, end = month(None)
            counted.used = sums(self._store, counted.by, begin, end, owner or None)
            counted.lately = recent(self._store)
            counted.at, counted.trouble = time.time(), None
        except LauncherError as error:
            counted.trouble = error.message
        except Exception:
            _LOG.exception("the usage could not be counted")
            counted.trouble = "The usage could not be counted."


def render(
    report: Mapping[str, Any], holder: Holder, counted: Counted, url: str, up: str, *, still: bool = False
) -> Answer:
    """The page as it is now; `up` leads to the root of the endpoint, whatever prefix the portal puts before it.

    It is loaded again every few seconds, unless it shall stand `still` for whoever reads slowly.
    """
    models = report["models"]
    left_s = None if holder.expires_at is None else max(0.0, holder.expires_at - time.time())
    key = "has no end" if left_s is None else f"is good for {clock(left_s)}"
    body = [
        f"<p>Base URL <code>{escape(url)}</code>. Your key <strong>{escape(holder.name)}</strong> {key}.</p>",
        _models(models, counted.lately),
        _troubles(report),
        _batches(counted.batches),
        _usage(counted),
    ]
    if models:
        example = _EXAMPLE.format(
            url=url, model=str(models[0]["name"]).replace("\\", "\\\\").replace('"', '\\"')
        )
        body.append(
            f'<details><summary>Use it in Python</summary><pre tabindex="0">{escape(example)}</pre></details>'
        )
    way = f'looks again every {_REFRESH_S} seconds. <a href="{_STILL}">Hold it still</a>'
    if still:
        way = f'stands still. <a href="{escape(up)}">Let it look again</a>'
    body.append(
        f'<form method="post" action="{escape(up)}logout"><button>Log out</button></form>'
        f'<p class="soft">As of {time.strftime("%H:%M:%S")}; this page {way}.</p>'
    )
    refresh_s = None if still else _REFRESH_S
    return pages.page(200, "Models of this endpoint", "\n".join(body), refresh_s, wide=True)


def _models(models: Iterable[Mapping[str, Any]], lately: Mapping[str, Sum]) -> str:
    rows = [_model(model, lately.get(str(model["name"]))) for model in models]
    if not rows:
        return "<p>There is no model that your key may use.</p>"
    head = ["Model", "State", "Clusters", "Replicas", "Running", "Waiting", "Tokens/s", "each"]
    return _table("Models", head, rows, numbers=range(3, 8))


def _model(model: Mapping[str, Any], lately: Sum | None) -> list[str]:
    state, replicas = str(model["state"]), model["replicas"]
    speeds = [one["tokens_per_s"] for one in replicas if one["tokens_per_s"] is not None]
    left = model["estimate_s"]
    said = str(model["message"]).removeprefix(_READY)
    if isinstance(left, int | float) and left > 0:
        said += f" About {clock(left)} are left."
    leaving = sum(1 for one in replicas if one["leaving"])
    return [
        escape(str(model["name"])),
        f'<span class="state {escape(state)}">{escape(state)}</span> <span class="soft">{escape(said)}</span>',
        escape(", ".join(map(str, model["clusters"]))),
        f"{len(replicas)}{f' ({leaving} leaving)' if leaving else ''}",
        str(model["in_flight"]),
        str(model["waiting"]),
        f"{lately.completion_tokens / 60:.1f}" if lately is not None else "0",
        "–".join(dict.fromkeys((f"{min(speeds):.0f}", f"{max(speeds):.0f}"))) if speeds else "",
    ]


def _troubles(report: Mapping[str, Any]) -> str:
    moved, lost = report.get("moved") or 0, report.get("lost") or 0
    if not moved and not lost:
        return ""
    return (
        f'<p class="soft">Since the gateway began: requests that moved to another replica, as the first failed: '
        f"{moved}; that were not answered, as it failed: {lost}.</p>"
    )


def _batches(batches: Iterable[tuple[Asked, State]]) -> str:
    rows = [
        [
            f"<code>{escape(asked.id)}</code>",
            escape(asked.model or ""),
            escape(state.status.replace("_", " ")),
            f"{state.completed:,} of {state.total:,}" if state.total else "",
            f"{state.failed:,}",
        ]
        for asked, state in batches
    ]
    head = ["Batch", "Model", "State", "Lines answered", "Errors"]
    return _table("Your batches", head, rows, numbers=range(3, 5)) if rows else ""


def _usage(counted: Counted) -> str:
    if counted.trouble is not None:
        # Where the database is, and what it says, is for whose endpoint it is.
        trouble = counted.trouble if counted.by == "owner" else "What was used cannot be read now."
        return f'<p class="bad" role="alert">{escape(trouble)}</p>'
    if counted.at is None:
        return '<p class="soft">What was used this month is being counted.</p>'
    name = "Owner" if counted.by == "owner" else "Model"
    caption = f"Used this month, {'by everybody' if counted.by == 'owner' else 'by you'}, as of {moment(counted.at)}"
    if not counted.used:
        return f'<p class="soft">{caption}: nothing.</p>'
    rows = [
        [
            escape(one.name),
            f"{one.requests:,}",
            f"{one.errors:,}",
            f"{one.prompt_tokens:,}",
            f"{one.completion_tokens:,}",
            clock(one.audio_s) if one.audio_s else "",
            "" if one.first_byte_s is None else f"{one.first_byte_s:.2f} s",
        ]
        for one in counted.used
    ]
    head = [name, "Requests", "Errors", "Tokens in", "Tokens out", "Audio", "First byte, mean"]
    return _table(caption, head, rows, numbers=range(1, 7))


def _table(caption: str, head: list[str], rows: Iterable[list[str]], *, numbers: range) -> str:
    """`rows` are markup, `caption` and `head` text."""

    def of(column: int) -> str:
        return ' class="number"' if column in numbers else ""

    titles = "".join(f'<th scope="col"{of(n)}>{escape(text)}</th>' for n, text in enumerate(head))
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(
            # On a phone each cell is a line of its own, which says what it is.
            f'<td{of(n)} data-of="{escape(head[n])}">{cell}</td>'
            for n, cell in enumerate(row[1:], 1)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="rows" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>"
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
