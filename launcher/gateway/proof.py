"""How a session's gateway shows that it has the session's key, before anything is said to it.

When a session was killed, another user of its node can take its port at once, and would be told prompts and key until
the endpoint has seen that it is gone. So a new connection begins with a question that only the key can answer, and the
answer tells nothing of the key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.gateway.upstream import Head

CHALLENGE, PROOF = "X-Launcher-Challenge", "X-Launcher-Proof"
_CHALLENGE = re.compile(r"[0-9a-f]{64}")
_FOR = b"launcher gateway "  # what else may ever be made of the key must not pass for it
_ANSWER_BYTES = 4096


def proof(digest: bytes, challenge: str) -> str | None:
    """What answers `challenge` with the key whose SHA-256 is `digest`; None for what is no challenge."""
    if not _CHALLENGE.fullmatch(challenge):
        return None
    return hmac.new(digest, _FOR + challenge.encode(), hashlib.sha256).hexdigest()


class Question:
    """The question to a gateway that should have `key`; a Taker of its answer, `answered` when that was right."""

    head_only = False

    def __init__(self, key: str) -> None:
        challenge = secrets.token_hex(32)
        self.text = f"GET /health HTTP/1.1\r\nHost: localhost\r\n{CHALLENGE}: {challenge}\r\n\r\n".encode()
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted = proof(hashlib.sha256(key.encode()).digest(), challenge) or ""
        self._right = False
        self._bytes = 0

    def take(self, head: Head | None, data: bytes, ended: bool) -> None:
        if head is not None:
            said = head.headers.text(PROOF.lower().encode())
            self._right = hmac.compare_digest(said.encode(), self._wanted.encode())
        self._bytes += len(data)
        if not self._right or self._bytes > _ANSWER_BYTES:
            self.lost(True)
        elif ended and not self.answered.done():
            self.answered.set_result(None)

    def take_raw(self, data: bytes) -> None:
        self.lost(True)

    def lost(self, answered: bool) -> None:
        if not self.answered.done():
            self.answered.set_exception(ConnectionError("somebody else listens there"))

    def hold(self, full: bool) -> None:
        """So small a question is never held."""
