"""The head of one request as the parser read it, and what can be said of it. Owns no decision and no socket."""

from __future__ import annotations

SAFE_METHODS = frozenset(("GET", "HEAD"))
# RFC 9110 section 9.2.2: only these may be repeated.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
# OpenAI's browser clients cannot set headers on a WebSocket and send the key as a subprotocol.
KEY_PROTOCOL = "openai-insecure-api-key."


class Headers(dict[bytes, bytes]):
    """The fields of a head: the first value of each by its lower-case name, and all in the order they came."""

    __slots__ = ("fields",)

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        self.fields = [(name, name.lower(), value) for name, value in fields]
        super().__init__([(lower, value) for _, lower, value in reversed(self.fields)])

    def text(self, name: bytes) -> str:
        """The first value of the field `name` (lower-case), read as Latin-1, or ""."""
        value = self.get(name)
        return value.decode("latin-1") if value is not None else ""

    def all(self, name: bytes) -> list[str]:
        """Every value of the field `name` (lower-case)."""
        if name not in self:
            return []
        return [value.decode("latin-1") for _, lower, value in self.fields if lower == name]

    def words(self, name: bytes) -> list[str]:
        """The comma-separated words of every value of `name`, in the case they came in."""
        return [word.strip() for value in self.all(name) for word in value.split(",") if word.strip()]


class Request:
    """One request head. A chunked body has no length, and a request without a body the length 0."""

    __slots__ = (
        "chunked",
        "headers",
        "keep_alive",
        "length",
        "method",
        "target",
        "version",
        "wants_websocket",
    )

    def __init__(
        self, method: bytes, target: bytes, version: str, headers: Headers, keep_alive: bool
    ) -> None:
        self.method = method.decode("ascii")
        self.target = target
        self.version = version
        self.headers = headers
        # HTTP/1.0 clients that want to keep a connection are rare, and its rules are a source of mistakes.
        self.keep_alive = keep_alive and version == "1.1"
        # The parser has checked both; it refuses a request that has them together.
        self.chunked = b"transfer-encoding" in headers
        self.wants_websocket = (
            b"upgrade" in headers
            and method == b"GET"
            and headers[b"upgrade"].lower() == b"websocket"
            and "upgrade" in (word.lower() for word in headers.words(b"connection"))
        )
        self.length = int(headers.get(b"content-length", 0))

    @property
    def path(self) -> str:
        """The target without its query, as ASCII text for a log."""
        return self.target.partition(b"?")[0].decode("ascii", "backslashreplace")

    @property
    def idempotent(self) -> bool:
        """Whether it may be sent twice."""
        return self.method in _IDEMPOTENT

    @property
    def from_browser(self) -> bool:
        """Whether the request is a person's, who should see a page."""
        return self.method in SAFE_METHODS and "text/html" in self.headers.text(b"accept")

    def presented_key(self) -> str | None:
        """The key that came with it, right or wrong. The portal strips Authorization, hence X-Api-Key."""
        headers = self.headers
        scheme, _, value = headers.text(b"authorization").partition(" ")
        if scheme.lower() == "bearer" and (value := value.strip()):
            return value
        if key := headers.text(b"x-api-key").strip():
            return key
        for name in headers.words(b"sec-websocket-protocol"):
            if name.startswith(KEY_PROTOCOL):
                return name.removeprefix(KEY_PROTOCOL)
        return None
