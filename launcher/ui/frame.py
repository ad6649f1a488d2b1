"""What surrounds the Gradio page: which of its routes exist, the security headers, the page's own address.

Owns the outermost ASGI layer of the page's process. Gradio brings some eighty routes (uploads, file serving, a proxy,
an API schema, monitoring, an editor); our pages need a dozen, and only those pass. Authentication is the gateway's.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# GET and HEAD. `info` is Gradio's API schema: it lists nothing, since every event is private, but the page asks for it.
# By `app_id`, a random word, it notices that a lost connection is back.
_READ = re.compile(
    r"/|/config/?|/theme\.css|/(assets|static|svelte)/.+"
    r"|/gradio_api/(queue/data|info|app_id|startup-events|heartbeat/[a-z0-9]+)/?"
)
_WRITE = re.compile(r"/gradio_api/(queue/join|run/predict|cancel|reset)/?")
# Which soundtrack a path of `sounds` names; see `launcher.ui.sounds`.
_SOUNDS = re.compile(r"/sounds(/[A-Za-z0-9_-]+)?")
# A long conversation and its images are sent with each question (pictures.js stays below); nothing else is large.
MAX_BODY_BYTES = 32 * 1024 * 1024

# An origin is shared by all apps of a portal, so an injected script would be worth much: only scripts with this
# response's nonce or from our own files run. Gradio compiles its event handlers, hence 'unsafe-eval'.
# Pictures from anywhere are refused, also from the portal: an answer could send text away in a picture's address.
_POLICY = (
    "default-src 'none'; base-uri 'self'; connect-src 'self'; font-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'self'; img-src data: blob:; media-src {media}; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # the gateway finds its prefix under /rnode by the Referer
    "Cross-Origin-Opener-Policy": "same-origin",
}

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='8' fill='%232563a8'/%3E"
    "%3Cpath d='M8 9h16v11H15l-5 4v-4H8z' fill='%23fff'/%3E%3C/svg%3E"
)
# The page is seen at PREFIX/ and at PREFIX/ui/; its files are under PREFIX/ui/ only. The address bar knows PREFIX
# better than any proxy's header does, so it has the last word.
_CORRECT_BASE = (
    "(() => { const base = document.querySelector('base');"
    " const right = location.pathname.replace(/\\/(ui\\/?)?$/, '') + '/ui/';"
    " if (new URL(base.href).pathname !== right) base.href = right; })();"
)
_CORRECT_ROOT = "window.gradio_config.root = new URL('.', document.baseURI).href.replace(/\\/$/, '');"
_PREFIX = re.compile(r"[A-Za-z0-9._~%:/\-\[\]]*")


@dataclass(frozen=True, slots=True)
class Page:
    """What one kind of page adds to Gradio: scripts and styles beside this module, and who answers `/sounds`, if any.

    `session.js` comes before its scripts and `side.js` after them, `page.css` before its styles.
    """

    own_scripts: tuple[str, ...]
    own_styles: tuple[str, ...]
    sounds: ASGIApp | None = None

    @property
    def scripts(self) -> tuple[str, ...]:
        """Its scripts in their order."""
        return ("session.js", *self.own_scripts, "side.js")

    @property
    def styles(self) -> tuple[str, ...]:
        """Its styles in their order."""
        return ("page.css", *self.own_styles)


class Frame:
    """The ASGI application that is served: `app` (Gradio) behind the rules of this module.

    `panel` gives the JSON of `/session`.
    """

    def __init__(self, app: ASGIApp, panel: Callable[[], dict[str, object]], title: str, page: Page) -> None:
        self.app = app
        self.panel = panel
        self.title = title
        self.page = page
        own = resources.files("launcher.ui")
        self._own = {f"/{name}": own.joinpath(name).read_bytes() for name in page.scripts + page.styles}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # Gradio's page uses no WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        method, path = scope["method"], scope["path"]
        reading = method in ("GET", "HEAD")
        if reading and path == "/session":
            await self._finish(JSONResponse(self.panel()), scope, receive, send)
        elif reading and path in self._own:
            kind = "text/css" if path.endswith(".css") else "text/javascript"
            await self._finish(Response(self._own[path], media_type=kind), scope, receive, send)
        elif reading and path == "/":
            await self._page(scope, receive, send)
        elif reading and _READ.fullmatch(path):
            await self.app(scope, receive, self._with_headers(send))
        elif method == "POST" and _WRITE.fullmatch(path):
            await self._write(scope, receive, send)
        elif self.page.sounds is not None and _SOUNDS.fullmatch(path):
            await self.page.sounds(scope, receive, self._with_headers(send))
        else:
            await self._finish(PlainTextResponse("Not found", 404), scope, receive, send)

    async def _finish(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        response.headers["Cache-Control"] = "no-store"
        await response(scope, receive, self._with_headers(send))

    def _with_headers(self, send: Send) -> Send:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        return with_headers

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a question on, unless it is larger than any conversation."""
        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            await self._finish(PlainTextResponse("Too large", 413), scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > MAX_BODY_BYTES else message

        await self.app(scope, counted, self._with_headers(send))

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gradio's page with its address, our style and script, and a policy that lets nothing else in."""
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            else:
                body.extend(message.get("body", b""))

        await self.app({**scope, "method": "GET", "headers": plain}, receive, collect)
        nonce = secrets.token_urlsafe(16)
        public_url = Headers(scope=scope).get("x-gradio-server")
        text = dress(body.decode(), public_url, self.title, nonce, self.page)
        response = Response(text, start["status"], media_type="text/html")
        media = "blob:" if self.page.sounds is None else "'self' blob:"
        response.headers["Content-Security-Policy"] = _POLICY.format(nonce=nonce, media=media)
        await self._finish(response, scope, receive, send)


def dress(text: str, public_url: str | None, title: str, nonce: str, page: Page) -> str:
    """Gradio's HTML made ours: base address, icon, style, script; without what it says to other sites.

    `public_url` is where the browser finds this process (`X-Gradio-Server`); None: at the page's own address.
    """
    text = re.sub(r'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*>', "", text)
    text = text.replace('<link rel="manifest" href="/manifest.json" />', "")
    prefix = urlsplit(public_url).path.rstrip("/") + "/" if public_url else "./"
    if not _PREFIX.fullmatch(prefix):
        prefix = "./"
    head = f'<base href="{prefix}" />'
    if public_url:
        head += f"<script>{_CORRECT_BASE}</script>"
    head += (
        f'<title>{_escape(title)}</title><link rel="icon" href="{_ICON}">'
        '<meta name="color-scheme" content="light dark">'
    )
    head += "".join(f'<script src="{name}"></script>' for name in page.scripts)
    text = text.replace('<base href="./" />', head, 1)
    text = text.replace(
        "<script data-gradio-mode>", f"<script>{_CORRECT_ROOT}</script><script data-gradio-mode>", 1
    )
    styles = "".join(f'<link rel="stylesheet" href="{name}">' for name in page.styles)
    text = text.replace("</head>", f"{styles}</head>", 1)
    return re.sub(r"<script(?=[\s>])", f'<script nonce="{nonce}"', text)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
