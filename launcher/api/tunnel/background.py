"""Connections that stay in the background: each keeps a Unix socket in a folder of the user's alone.

Through it the next shell gets the address and the key, and is told to end it. Nothing is on disk but the socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from launcher.api.tunnel.tunnel import Tunnel
from launcher.errors import StorageError
from launcher.schedulers.ssh import private_folder

_SUFFIX = ".connection"
_ANSWER_S, _END_S = 10.0, 60.0
_WORD_MAX = 64


@dataclass(frozen=True, slots=True)
class Kept:
    """A connection as it describes itself to the next shell; `socket` is where one in the background listens."""

    id: str
    cluster: str | None
    base_url: str
    page_url: str | None
    model: str
    port: int
    way: str
    key: str = field(repr=False)
    socket: Path | None = None

    @classmethod
    def of(cls, tunnel: Tunnel, cluster: str | None) -> Self:
        """What there is to say of `tunnel`, which leads to a session of `cluster`."""
        return cls(
            id=tunnel.id, cluster=cluster, base_url=tunnel.base_url, page_url=tunnel.page_url, model=tunnel.model,
            port=tunnel.port, way=tunnel.way, key=tunnel.key,
        )  # fmt: skip

    @classmethod
    def asked(cls, path: Path) -> Self | None:
        """The one behind the socket `path`; None where nobody answers any more."""
        said = _said(path, "show")
        found = None if said is None else cls.told(said)
        return None if found is None else replace(found, socket=path)

    @classmethod
    def told(cls, text: str) -> Self | None:
        """The one that described itself by `text`."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def facts(self) -> dict[str, Any]:
        """What `told` makes one of, key included."""
        return {name: value for name, value in asdict(self).items() if name != "socket"}

    def close(self) -> None:
        """End it; returns when nothing of it is left."""
        if self.socket is not None:
            _said(self.socket, "close", _END_S)


def kept() -> list[Kept]:
    """All that run; the sockets of those that were killed are removed."""
    folder = private_folder()
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder is not None else ():
        one = Kept.asked(path)
        if one is not None:
            found.append(one)
    return found


class Keeper:
    """Answers the next shells for `tunnel` until one says `close` or the session is over."""

    def __init__(self, tunnel: Tunnel, cluster: str | None) -> None:
        folder = private_folder()
        if folder is None:
            raise StorageError("There is no folder that is yours alone.", "Set XDG_RUNTIME_DIR to one.")
        name = hashlib.sha256(f"{cluster}\n{tunnel.id}\n{os.getpid()}".encode()).hexdigest()[:16]
        self._path = folder / f"{name}{_SUFFIX}"
        self._tunnel, self._cluster = tunnel, cluster
        self._closer: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        # One that does not listen yet would be taken for one that was killed.
        beside = self._path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        self._listener.bind(str(beside))
        self._listener.listen()
        beside.rename(self._path)
        self.closing = threading.Event()
        threading.Thread(target=self._answer, name="keeper", daemon=True).start()

    def close(self) -> None:
        """Take the socket away, and tell who wanted the end that it is reached."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()
        if self._closer is not None:
            with contextlib.suppress(OSError):
                self._closer.sendall(b"{}")
            self._closer.close()

    def _answer(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(_ANSWER_S)
            with contextlib.suppress(OSError):
                word = client.recv(_WORD_MAX)
                if word == b"close" and self._closer is None:
                    self._closer = client
                    self.closing.set()
                    continue
                if word == b"show":
                    client.sendall(json.dumps(Kept.of(self._tunnel, self._cluster).facts()).encode())
            client.close()


def _said(path: Path, word: str, timeout_s: float = _ANSWER_S) -> str | None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
            client.sendall(word.encode())
            pieces = []
            while piece := client.recv(1 << 16):
                pieces.append(piece)
        except ConnectionRefusedError:  # it was killed
            path.unlink(missing_ok=True)
            return None
        except OSError:
            return None
    return b"".join(pieces).decode()
