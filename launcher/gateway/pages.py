"""The gateway's own HTML: login, starting, ended, and what to do where no page of the session's runs.

Each page is one answer: no script, no other file, no other host. Links are relative (`up` leads to the session's root),
so that they hold under every prefix of the portal.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from html import escape
from string import Template

from launcher.gateway.answers import ENDED, SESSION, Answer, Door, seconds_left

_PHASES = ("container", "weights", "compile", "graphs", "warm-up", "probe")
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--paper:#f4f6f9;--card:#fff;--line:#d5dbe3;--main:#1d5fbf;
--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf2;--soft:#a3aebd;--paper:#12161c;--card:#1b212a;--line:#38424f;
--main:#8ab4f8;--bad:#f2b8b5}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
main{width:100%;max-width:34rem;background:var(--card);border:1px solid var(--line);border-radius:.75rem;
padding:1.75rem 2rem}
h1{font-size:1.35rem;line-height:1.3;margin:0 0 .75rem}
p{margin:.5rem 0}
.soft{color:var(--soft)}
.bad{color:var(--bad);font-weight:600}
label{display:block;font-weight:600;margin:1rem 0 .35rem}
input{width:100%;font:inherit;padding:.6rem .75rem;border:1px solid var(--soft);border-radius:.5rem;
background:var(--paper);color:inherit}
button{font:inherit;font-weight:600;margin-top:1rem;padding:.6rem 1.5rem;border:0;border-radius:.5rem;
background:var(--main);color:var(--card);cursor:pointer}
input:focus-visible,button:focus-visible,a:focus-visible{outline:3px solid var(--main);outline-offset:2px}
a{color:var(--main)}
ol{display:flex;flex-wrap:wrap;gap:.4rem;list-style:none;padding:0;margin:1rem 0}
li{padding:.15rem .7rem;border:1px solid var(--line);border-radius:1rem;color:var(--soft);font-size:.9rem}
li[aria-current]{border-color:var(--main);color:var(--main);font-weight:600}
pre{overflow-x:auto;padding:.75rem 1rem;border-radius:.5rem;border:1px solid var(--line);background:var(--paper);
font:.9rem/1.45 ui-monospace,monospace}
main.wide{max-width:76rem;min-width:0}
.rows{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem}
caption{text-align:left;font-weight:600;padding:.75rem 0 .35rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600;white-space:nowrap}
tbody th{font-weight:600;overflow-wrap:anywhere;min-width:9rem}
.state+.soft{display:inline-block;min-width:10rem}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.state{display:inline-block;padding:0 .6rem;border:1px solid var(--line);border-radius:1rem;white-space:nowrap}
.state.ready{border-color:var(--main);color:var(--main);font-weight:600}
code,td .soft{overflow-wrap:anywhere}
@media(max-width:40rem){main{padding:1.25rem 1rem}
thead{display:none}
tr{display:block;padding:.35rem 0;border-bottom:1px solid var(--line)}
tbody th,td{display:block;border:0;padding:0}
td{display:grid;grid-template-columns:8.5rem 1fr;gap:.5rem}
td:empty,.soft:empty{display:none!important}
td::before{content:attr(data-of);color:var(--soft)}
td>*{grid-column:2;justify-self:start;min-width:0!important}
.number{text-align:left}}
"""
_PAGE = Template(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    '<meta name="robots" content="noindex">$refresh<link rel="icon" href="data:,">'
    "<title>$title</title><style>$style</style></head><body><main$wide><h1>$title</h1>\n$body</main></body></html>\n"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "same-origin",  # the portal's stripped prefix is read from the Referer
    "X-Content-Type-Options": "nosniff",
}


LIMITED_KEY = "That key has limits: it is for programs and does not open the page."


def login_page(up: str, *, status: int = 401, trouble: str | None = None, door: Door = SESSION) -> Answer:
    """The form that asks for the key; `trouble` says what was wrong with the last one."""
    said = f'<p class="bad" role="alert">{escape(trouble)}</p>' if trouble else ""
    state = ' aria-invalid="true"' if trouble else ""
    body = (
        f"<p>{escape(door.says)} <code>{escape(door.command)}</code></p>{said}"
        f'<form method="post" action="{escape(up)}login"><label for="key">API key</label>'
        f'<input id="key" name="key" type="password" autocomplete="current-password" required autofocus{state}>'
        "<button>Open</button></form>"
    )
    return page(status, door.title, body)


def state_page(report: Mapping[str, object]) -> Answer:
    """The session is starting (the page refreshes itself) or has ended."""
    message = escape(str(report.get("message") or ""))
    hint = escape(str(report.get("hint") or ""))
    if report.get("state") in ENDED:
        body = f'<p role="status">{message or "It does not answer any more."}</p><p class="soft">{hint}</p>'
        return page(503, "This session has ended", body)
    phase = report.get("phase")
    steps = "".join(
        f"<li{' aria-current=step' if name == phase else ''}>{name}</li>"
        for name in _PHASES
        if name != "container" or phase == "container"
    )
    waited = _elapsed(report.get("since"))
    left_s = seconds_left(report)
    left = f"<p>About {left_s} s are left, by the time it took before.</p>" if left_s else ""
    body = (
        f'<p role="status">{message or "The model is being loaded."}{waited}</p>'
        f'<ol aria-label="Phases of the start">{steps}</ol>{left}'
        '<p class="soft">This page looks again every few seconds; leave it open.</p>'
    )
    title = "Starting" if report.get("state") != "UNHEALTHY" else "The engine does not answer just now"
    return page(503, title, body, refresh_s=3)


_CHAT = (
    'messages = [{"role": "user", "content": "Hello"}]\n'
    "print(client.chat.completions.create(model=model, messages=messages).choices[0].message.content)"
)
_SPEECH = (
    'with open("recording.mp3", "rb") as file:\n'
    "    print(client.audio.transcriptions.create(model=model, file=file).text)"
)


def endpoint_page(url: str, portal: bool, *, speech: bool = False) -> Answer:
    """The engine answers and there is no page of the session's: how to use the endpoint. Shows no key."""
    base = "BASE_URL" if portal else f"{url}/v1"
    where = "with the base URL and key of the session's card" if portal else "with the session's key"
    code = (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base}", api_key="KEY")\n'
        "model = client.models.list().data[0].id\n"
        f"{_SPEECH if speech else _CHAT}"
    )
    kind = "page for recordings" if speech else "chat page"
    body = (
        f"<p>This session has no {kind}. Use it from any OpenAI client, {where}:</p>"
        f'<pre tabindex="0" aria-label="Example in Python">{escape(code)}</pre>'
    )
    return page(200, "The endpoint is up", body)


def page_opening() -> Answer:
    """The endpoint answers already, the session's page is a few seconds behind."""
    body = '<p role="status">The model answers. Its page opens in a few seconds.</p>'
    return page(503, "Almost there", body, refresh_s=2)


def page_gone() -> Answer:
    """The process of the session's page does not answer; the endpoint may well."""
    body = (
        '<p role="status">The page does not answer just now. The endpoint itself is not affected.</p>'
        '<p class="soft">This page looks again every few seconds.</p>'
    )
    return page(502, "The page is not there", body, refresh_s=5)


def page(status: int, title: str, body: str, refresh_s: int | None = None, *, wide: bool = False) -> Answer:
    """One page of ours; `title` is text, `body` markup, `wide` for tables. It is loaded again every `refresh_s`."""
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    of = ' class="wide"' if wide else ""
    text = _PAGE.substitute(title=escape(title), body=body, refresh=refresh, style=_STYLE, wide=of)
    headers = {**_HEADERS, "Retry-After": str(refresh_s)} if refresh_s and status >= 500 else _HEADERS
    return Answer(status, text.encode(), {"Content-Type": "text/html; charset=utf-8", **headers})


def _elapsed(since: object) -> str:
    if not isinstance(since, int | float):
        return ""
    seconds = max(0, int(time.time() - since))
    spent = f"{seconds} s" if seconds < 90 else f"{seconds // 60} min"
    return f' <span class="soft">({spent})</span>'
