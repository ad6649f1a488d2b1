"""Where a session can be reached now, seen from its own files (`Near`) or through the launcher of its cluster (`Far`).

Both look, and both make, renew and revoke the key of a connection; on the cluster, `launcher connection ID --follow`
lets a `Far` order what its `Near` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from launcher.api.remote.values import packed_error, unpacked_error
from launcher.errors import LauncherError, RequestError, SchedulerError, SessionError
from launcher.schedulers.line import Line
from launcher.schedulers.ssh import control, open_master
from launcher.sessions import keys
from launcher.sessions.connection import Connection
from launcher.sessions.paths import SessionPaths
from launcher.sessions.status import READY, SHUTDOWN, UNHEALTHY, Status

_READY_S, _UNREADY_S = 30.0, 2.0  # how often the scheduler is asked; the files are read at every look
_ANSWER_S = 30.0  # a scheduler may be slow
KEY_S = 3600.0  # the key of a connection that was killed, and could not take it back, ends by itself
_HOST = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9.:_\]-]{0,254}")


@dataclass(frozen=True, slots=True)
class Seen:
    """One look; `over` is final, `connection` is None unless the session can be asked."""

    state: str
    message: str
    hint: str | None = None
    reason: str | None = None
    over: bool = False
    connection: Connection | None = None
    quote: str | None = None  # of the log that told
    log: str | None = None


class Watched(Protocol):
    """What is asked of a session whose files are here."""

    @property
    def id(self) -> str: ...
    @property
    def connection(self) -> Connection | None: ...
    @property
    def paths(self) -> SessionPaths: ...
    def status(self) -> Status: ...


class Whereabouts(Protocol):
    """A session as a connection to it needs it; with `ask`, ssh may ask on the terminal for a password or a code."""

    ask: bool

    def look(self, *, fresh: bool = False) -> Seen:
        """The session now; with `fresh` the scheduler is asked whatever was known."""

    def new_key(self, name: str) -> str:
        """Make a further key, which is good for `KEY_S`; its secret."""

    def renew(self, name: str) -> None:
        """Let it be good for `KEY_S` from now on; raises RequestError where somebody took it away."""

    def revoke(self, name: str) -> None:
        """Take the further key away, if it is still there."""

    def may_publish(self) -> None:
        """Raise RequestError where the site does not allow that a session is offered on an outside host."""

    def rest(self) -> None:
        """Hold no line to another host until the next look."""

    def abort(self) -> None:
        """Let another thread, which waits for an answer, wait no longer."""

    def close(self) -> None:
        """Let go of what this holds."""


class Near:
    """A session whose files are here."""

    ask = False

    def __init__(self, session: Watched) -> None:
        self._session = session
        self._status: Status | None = None
        self._asked = 0.0
        self._was: Connection | None = None

    def look(self, *, fresh: bool = False) -> Seen:
        connection, now = self._session.connection, time.monotonic()
        every_s = _READY_S if connection is not None else _UNREADY_S
        # Another connection is another life of the job: what the scheduler said before holds no more.
        if fresh or self._status is None or connection != self._was or now - self._asked >= every_s:
            self._ask(connection)
        assert self._status is not None
        status, self._was = self._status, connection
        if connection is not None and status.state not in (READY, UNHEALTHY):
            # Its port may be anybody's by now, and the key would go there.
            connection = None
        over = status.ended and (status.final or status.reason not in ("preempted", "node-fail"))
        said = (status.state, status.message, status.hint, status.reason)
        return Seen(*said, over, connection, status.quote, status.log)

    def _ask(self, connection: Connection | None) -> None:
        try:
            self._status = self._session.status()
        except SchedulerError:  # a controller that restarts does not end a connection that works
            if self._status is None or connection is None:
                raise
        except SessionError as error:  # its directory is gone
            if self._status is None:
                raise
            self._status = dataclasses.replace(
                self._status, state=SHUTDOWN, message=error.message, hint=error.hint, final=True
            )
        self._asked = time.monotonic()

    def new_key(self, name: str) -> str:
        _, secret = keys.new(self._session.paths, name, lifetime_s=KEY_S)
        return secret

    def renew(self, name: str) -> None:
        keys.renew(self._session.paths, name, KEY_S)

    def revoke(self, name: str) -> None:
        with contextlib.suppress(RequestError):
            keys.revoke(self._session.paths, name)

    def may_publish(self) -> None:
        from launcher.settings.layers import load

        if not load().allow.publish:
            raise RequestError(
                "This site does not let a session be offered on an outside host.",
                "Ask its staff for allow.publish: true, or connect from where you are.",
            )

    def rest(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class Far:
    """A session of the cluster behind the ssh host `host`, whose launcher is started by the words `launcher`."""

    def __init__(self, host: str, launcher: Sequence[str], session_id: str, *, ask: bool = False) -> None:
        self.ask = ask
        self._host, self._command = host, [*launcher, "connection", "--follow", "--", session_id]
        self._line: Line | None = None
        self._opened, self._orders = False, 0
        self._asking = threading.Lock()  # who publishes asks in another thread than the one that watches

    def look(self, *, fresh: bool = False) -> Seen:
        told = self._order({"order": "look", "fresh": fresh})
        try:
            at = told.pop("connection")
            seen = Seen(**told, connection=None if at is None else Connection(**at))
        except (KeyError, TypeError):
            raise self._strange() from None
        if (at := seen.connection) is not None and not _is_address(at):
            raise self._strange()
        return seen

    def new_key(self, name: str) -> str:
        secret = self._order({"order": "key", "name": name}).get("secret")
        if not _is_word(secret):
            raise self._strange()
        return str(secret)

    def renew(self, name: str) -> None:
        self._order({"order": "renew", "name": name})

    def revoke(self, name: str) -> None:
        self._order({"order": "revoke", "name": name})

    def may_publish(self) -> None:
        self._order({"order": "publish"})

    def abort(self) -> None:
        if self._line is not None:
            self._line.abort()

    def close(self) -> None:
        self.rest()
        if self._opened:
            control(self._host, "stop")  # it ends when nobody uses it any more

    def rest(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _order(self, order: dict[str, object]) -> dict[str, Any]:
        with self._asking:
            return self._ordered(order)

    def _ordered(self, order: dict[str, object]) -> dict[str, Any]:
        if self._line is None:
            self._opened = open_master(self._host, ask=self.ask) or self._opened
            self._line = Line(self._host, self._command)
        self._orders += 1
        # Whatever else is printed there, by a shell's start-up file perhaps, does not begin like that.
        marks = tuple(f'{{"answer": {self._orders}{end}' for end in ",}")
        order = {"number": self._orders, **order}
        answer: dict[str, Any]
        try:
            answer = json.loads(
                self._line.ask(json.dumps(order), _ANSWER_S, lambda line: line.startswith(marks))
            )
            del answer["answer"]
        except SchedulerError:
            self.rest()  # the next order starts anew
            raise
        except (ValueError, RecursionError):
            raise self._strange() from None
        if isinstance(answer.get("error"), dict):
            raise unpacked_error(answer["error"])
        return answer

    def _strange(self) -> SchedulerError:
        self.rest()
        return SchedulerError(
            f"The launcher on {self._host} gave an answer that is not understood.",
            "It may be of another version: compare `launcher --version`.",
        )


def _is_word(value: object) -> bool:
    """Whether it can be shown on a terminal, and be in the environment of a program."""
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_address(at: Connection) -> bool:
    """Whether that is an address: the words of another cluster become names of files, and words for ssh, here."""
    words = (at.id, at.host, at.base_url, at.model, at.key, *([] if at.page_url is None else [at.page_url]))
    if not all(map(_is_word, words)) or not _HOST.fullmatch(at.host):
        return False
    urls = [url for url in (at.base_url, at.page_url) if url is not None]
    return type(at.port) is int and 0 < at.port < 65536 and all(url.startswith("http") for url in urls)


def answered(near: Near, line: str) -> str:
    """The line that answers the order `line`, on the cluster's side; what goes wrong is in the answer."""
    answer: dict[str, Any]
    number = None
    try:
        order = json.loads(line)
        number = order["number"]
        answer = _obeyed(near, order)
    except LauncherError as error:
        answer = {"error": packed_error(error)}
    except (ValueError, KeyError, TypeError, AttributeError):
        answer = {"error": packed_error(RequestError("An order is a JSON object."))}
    return json.dumps({"answer": number, **answer})


def _obeyed(near: Near, order: dict[str, Any]) -> dict[str, Any]:
    match order["order"]:
        case "look":
            return dataclasses.asdict(near.look(fresh=bool(order.get("fresh"))))
        case "key":
            return {"secret": near.new_key(str(order["name"]))}
        case "renew":
            near.renew(str(order["name"]))
        case "revoke":
            near.revoke(str(order["name"]))
        case "publish":
            near.may_publish()
        case _:
            raise RequestError("This launcher does not know that order.", "It is older than the other one.")
    return {}
