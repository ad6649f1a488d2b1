"""Where a request goes: its path without the portal's prefix, the upstream for it, and the address the browser sees.

Owns no sockets. A request is routed by the bytes of its target; nothing is decoded, joined or cleaned up on the way.
"""

from __future__ import annotations

import functools
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from launcher.gateway.request import Headers

_NODE = re.compile(r"/node/[^/]+/\d+(?=/|$)")
_RNODE = re.compile(r"/rnode/[^/]+/\d+(?=/|$)")
# Printable ASCII but for the fragment mark and the backslash, which browsers and servers read differently.
_TARGET = re.compile(r"/[!-~]*")
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")
_PORTS = {"http": "80", "https": "443"}


@dataclass(slots=True)
class Routes:
    """The upstreams of a session, as `launcher.serve` sets them; a request with `probe_nonce` passes before ready.

    `speech`: the engine hears, and does not chat.
    """

    engine: Path | None = None
    page: Path | None = None
    page_starting: bool = False
    ready: bool = False
    speech: bool = False
    probe_nonce: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Target:
    """A request's path, split: `prefix` is the portal's `/node/HOST/PORT` or "", `query` starts with `?` or is ""."""

    prefix: str
    path: str
    query: str

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def parsed(raw: str) -> Target:
        """`parse`, remembered: nearly all requests have one of a few targets."""
        return Target.parse(raw)

    @classmethod
    def parse(cls, raw: str) -> Self:
        """Split the request line's target; raises ValueError for one that two programs could read differently."""
        if not _TARGET.fullmatch(raw) or "#" in raw or "\\" in raw:
            raise ValueError("The request target must be an absolute path of printable ASCII characters.")
        path, mark, query = raw.partition("?")
        found = _NODE.match(path)
        prefix = found.group() if found else ""
        path = path[len(prefix) :]
        if path.startswith("//"):
            raise ValueError("The path must not start with two slashes.")
        if "." in path or "%" in path:
            decoded = unquote(unquote(path)).replace("\\", "/")
            if any(part in (".", "..") for part in decoded.split("/")):
                raise ValueError("The path must not have . or .. in it.")
            if any(character < " " or character == "\x7f" for character in decoded):
                raise ValueError("The path must not have control characters in it.")
        return cls(prefix, path or "/", mark + query)

    @property
    def page_path(self) -> str | None:
        """The path at the page, which the browser sees at `/` and under `/ui`; None: it is not the page's."""
        if self.path == "/":
            return "/"
        if self.path == "/ui" or self.path.startswith("/ui/"):
            return self.path[3:] or "/"
        return None

    def up(self) -> str:
        """The relative URL from this path to the session's root, which holds under every prefix."""
        return "../" * (self.path.count("/") - 1) or "./"


@dataclass(frozen=True, slots=True)
class Address:
    """The session as the browser sees it. Forgeable by who connects directly, so only ever told back to them."""

    scheme: str
    host: str
    prefix: str

    @property
    def url(self) -> str:
        """Scheme, host and prefix, without a slash at the end."""
        return f"{self.scheme}://{self.host}{self.prefix}"

    @classmethod
    def of(cls, headers: Headers, prefix: str) -> Self:
        """Work it out from what the portal adds; `prefix` is the one that the path had (`/node`), if any."""
        forwarded = _last(headers.text(b"x-forwarded-host"))
        host = next(
            (name for name in (forwarded, headers.text(b"host")) if _HOST.fullmatch(name)), "localhost"
        )
        scheme = _last(headers.text(b"x-forwarded-proto")).lower()
        if not prefix and (forwarded or b"x-forwarded-escaped-uri" in headers):
            prefix = _stripped_prefix(headers, host)
        return cls(scheme if scheme in _PORTS else "http", host, prefix)


def _stripped_prefix(headers: Headers, host: str) -> str:
    """Guess the `/rnode/HOST/PORT` that the portal stripped: no header names it.

    The Referer has it on all but the first visit; then the Host header has the same two values, since the portal
    connects to the HOST and PORT of its URL and Apache puts those there.
    """
    try:
        referer = urlsplit(headers.text(b"referer"))
    except ValueError:
        referer = urlsplit("")
    if referer.netloc == host and (found := _RNODE.match(referer.path)):
        return found.group()
    name, _, port = headers.text(b"host").rpartition(":")
    if (
        b"x-forwarded-escaped-uri" in headers
        and name
        and port.isdigit()
        and _HOST.fullmatch(f"{name}:{port}")
    ):
        return f"/rnode/{name}/{port}"
    return ""


def same_origin(headers: Headers) -> bool:
    """Whether a request that names its Origin comes from the host that it was sent to."""
    if headers.text(b"sec-fetch-site").lower() == "cross-site":
        return False
    if b"origin" not in headers:
        return True
    scheme, _, host = headers.text(b"origin").partition("://")
    allowed = (headers.text(b"host"), _last(headers.text(b"x-forwarded-host")))
    suffix = ":" + _PORTS.get(scheme.lower(), "")
    return bool(host) and host.lower().removesuffix(suffix) in {
        name.lower().removesuffix(suffix) for name in allowed if name
    }


def _last(header: str) -> str:
    return header.rpartition(",")[2].strip()
