"""A connection from this machine to a session: a local address that stays while the job or ssh behind it changes.

Owns the thread that watches both, and the connection's own key, which outlives a restart of the job and is taken back
at the end. How one gets there is launcher.api.tunnel.ways', what the session does is launcher.api.tunnel.whereabouts'.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from launcher.api.tunnel.relay import LOOPBACK, Relay, Target
from launcher.api.tunnel.ways import Published, Way, Ways, answers, knows
from launcher.api.tunnel.whereabouts import KEY_S, Far, Near, Seen, Whereabouts
from launcher.errors import LauncherError, RequestError, SessionError, StorageError
from launcher.schedulers.ssh import can_ask
from launcher.sessions.connection import Connection
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from launcher.api.session import Session

_TICK_S, _NEAR_S, _FAR_S, _FRESH_S = 0.5, 0.5, 2.0, 3.0
_LONGEST_PAUSE_S = 30.0
_KEY_KNOWN_S, _ANSWER_S, _END_S = 20.0, 5.0, 3.0
_RENEW_S = KEY_S / 6
_HIDDEN_MAX = 3  # looks; a network file system may hide a file for a moment


def connect(
    session: Session,
    *,
    via: str | None = None,
    port: int = 0,
    timeout_s: float | None = None,
    ask: bool | None = None,
    ask_later: bool = True,
    progress: Callable[[Status], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Tunnel:
    """Wait until `session` is ready and connect a port of this machine to it.

    `via` names the ssh host to go through; without it the node is tried directly, then over ssh, then by way of the
    cluster's `login_host`. `timeout_s` counts once the job runs. With `ask` (None: where there is a terminal) ssh may
    ask for a password or a code, with `ask_later` also when it connects again. `progress` gets each change while
    waiting, as in `Session.wait`, `tell` a sentence for what happens later. Raises EngineError or SessionError when the
    session is over, SchedulerError when there is no way to it.
    """
    asks = can_ask() if ask is None else ask
    far = getattr(session, "far", None)  # one of another cluster: nothing of it is here
    there: Whereabouts
    if far is None:
        there, look_s = Near(session), _NEAR_S
        ways = Ways.of(session.plan.cluster, via, ask=asks)
    else:
        there, look_s = Far(far.host, far.words(), session.id, ask=asks), _FAR_S
        ways = Ways(far.host if via is None else via, ask=asks)
    tunnel = Tunnel(session.id, there, ways, look_s, tell or (lambda _: None))
    try:
        seen = there.look()
        if seen.connection is None:
            there.rest()
            session.wait(timeout_s, progress)  # raises where it is over
            seen = there.look(fresh=True)
        if seen.connection is None:
            raise SessionError(f"Session {session.id} is {seen.state} again. {seen.message}", "Connect anew.")
        tunnel.begin(seen, port)
        if not ask_later:
            there.ask = ways.ask = False
    except BaseException:
        tunnel.close()
        raise
    return tunnel


class Tunnel:
    """A connection that stands; `base_url` and `key` are for any OpenAI client. As a context manager it is closed.

    `over` is how the session ended, as far as it has.
    """

    def __init__(
        self, session_id: str, there: Whereabouts, ways: Ways, look_s: float, tell: Callable[[str], None]
    ) -> None:
        self.id, self.key, self.model, self.way = session_id, "", "", ""
        self.over: Seen | None = None
        self.published: dict[str, int] = {}
        self._there, self._ways, self._look_s, self._tell = there, ways, look_s, tell
        self._closing, self._finished, self._trouble = (threading.Event() for _ in range(3))
        # The last of `close` and the thread takes all away: the thread may still wait for a network that is gone.
        self._leaving, self._closed, self._watched = threading.Lock(), False, False
        self._relay: Relay | None = None
        self._thread: threading.Thread | None = None
        self._way: Way | None = None
        self._target: Target | None = None
        self._at: Connection | None = None
        self._outside: dict[str, Published] = {}
        self._key_name: str | None = None
        self._renewed_at = 0.0
        self._told, self._hidden = "", 0
        self._looked_at = self._fresh_at = 0.0

    @property
    def port(self) -> int:
        """The port of this machine."""
        assert self._relay is not None
        return self._relay.port

    @property
    def base_url(self) -> str:
        """What OPENAI_BASE_URL is to be; it stays the same as long as the connection is open."""
        assert self._at is not None
        return self._local(self._at.base_url)

    @property
    def page_url(self) -> str | None:
        """The page of the session, for a browser on this machine; None without a page."""
        assert self._at is not None
        return None if self._at.page_url is None else self._local(self._at.page_url)

    def openai(self, **options: Any) -> OpenAI:
        """An OpenAI client for it."""
        from openai import DefaultHttpxClient, OpenAI

        # A cluster's http_proxy is for the world outside, and would be given the key.
        options.setdefault("http_client", DefaultHttpxClient(trust_env=False))
        return OpenAI(base_url=self.base_url, api_key=self.key, **options)

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        """An OpenAI client for asyncio."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        options.setdefault("http_client", DefaultAsyncHttpxClient(trust_env=False))
        return AsyncOpenAI(base_url=self.base_url, api_key=self.key, **options)

    def publish(self, host: str, *, ask: bool = False) -> int:
        """Offer it on the loopback of the outside host `host` too; the port there, which ssh chooses.

        Raises RequestError where the site does not allow that.
        """
        self._there.may_publish()
        if host not in self.published:
            outside = Published(host, ask=ask)
            try:
                self.published[host] = outside.open(self.port)
            except BaseException:
                outside.close()
                raise
            self._outside[host] = outside
        return self.published[host]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the session is over; whether it is."""
        return self._finished.wait(timeout_s)

    def close(self) -> None:
        """End the connection and take its key back; the session goes on. Can be called twice."""
        self._closing.set()
        busy = self._thread
        if busy is not None:
            busy.join(_END_S)
            if busy.is_alive():  # it waits for an answer over a network that is gone
                self._there.abort()
                self._ways.abort()
                busy.join(_END_S)
        if self._relay is not None:
            self._relay.close()
        with self._leaving:
            self._closed, last = True, busy is None or self._watched
        if last:
            self._leave()
        self._finished.set()

    def _leave(self) -> None:
        if self._key_name is not None:
            with contextlib.suppress(LauncherError, OSError):
                self._there.revoke(self._key_name)
            self._key_name = None
        for outside in self._outside.values():
            outside.close()
        self._ways.close()
        self._there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Tunnel to {self.id}>"  # without the key

    # -- from here on: what the connection does by itself

    def begin(self, first: Seen, port: int) -> None:
        """Open the connection to the session as it was seen, and keep it open from now on."""
        assert first.connection is not None
        self._relay = Relay(port, self._trouble.set)
        self._lead(first.connection)
        self._make_key(first.connection)
        self._thread = threading.Thread(target=self._keep, name=f"connect {self.id}", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        try:
            self._watch()
        finally:
            with self._leaving:
                self._watched, last = True, self._closed
            if last:
                self._leave()

    def _watch(self) -> None:
        pause_s = _TICK_S
        while not self._closing.wait(pause_s):
            try:
                if self._step():
                    return
                pause_s = _TICK_S
            except (LauncherError, OSError) as error:
                message = error.message if isinstance(error, LauncherError) else str(error)
                self._say(f"{message} Trying again; the address here stays the same.")
                # A question that went unanswered does not take away a way that stands.
                if self._way is None or not self._way.alive():
                    self._hold(message)
                pause_s = min(_LONGEST_PAUSE_S, max(1.0, 2 * pause_s))

    def _step(self) -> bool:
        """Look once, and follow what has changed; whether it is all over."""
        now = time.monotonic()
        lost = self._way is not None and not self._way.alive()
        # Who connects and leaves without a word is no reason to ask the scheduler each time.
        fresh = lost or (self._trouble.is_set() and now - self._fresh_at >= _FRESH_S)
        if not fresh and now - self._looked_at < self._look_s:
            return False
        self._looked_at = now
        if lost and self._target is not None:
            self._say(f"The connection {self.way} was lost. Trying again; the address here stays the same.")
            self._hold("The connection to the session was lost and is being made again.")
        if fresh:
            self._trouble.clear()
            self._fresh_at = now
        seen = self._there.look(fresh=fresh)
        if seen.over:
            self.over = seen
            self._hold(f"The session is over. {seen.message}", over=True)
            self._say(f"Session {self.id} is over. {seen.message}")
            self._finished.set()
            return True
        if seen.connection is None:
            self._hidden += 1
            if self._target is not None and (self._hidden >= _HIDDEN_MAX or not knows(seen.state)):
                self._hold(f"The session is {seen.state}. {seen.message}")
                self._say(f"The session is {seen.state}: {seen.message} The address here stays the same.")
            return False
        self._hidden = 0
        self._renew_key()
        moved = self._at is None or _place(seen.connection) != _place(self._at)
        if moved:  # the old port may be anybody's by now, and the key would go there
            self._hold("The session has moved, and the way there is being made.")
        if self._target is None or (fresh and not answers(self._target, _ANSWER_S)):
            self._lead(seen.connection)
            where = f"now to {seen.connection.host}" if moved else "again"
            self._say(f"Connected {where}, {self.way}; the address here is the same: {self.base_url}")
        if self._key_name is None and seen.connection.key != self.key:
            self.key = seen.connection.key
            self._say("The session has another key now: connect anew.")
        for host, outside in list(self._outside.items()):
            if not outside.alive():
                self.published[host] = outside.open(self.port)
                self._say(f"Offered again on {host}: http://{LOOPBACK}:{self.published[host]}/v1")
        return False

    def _lead(self, connection: Connection) -> None:
        assert self._relay is not None
        self._way, self._target = self._ways.open(connection.host, connection.port)
        self._at, self.model, self.way = connection, connection.model, self._way.words
        self._relay.lead(self._target)

    def _hold(self, message: str, *, over: bool = False) -> None:
        assert self._relay is not None
        self._target = None
        self._relay.hold(message, over=over)

    def _make_key(self, connection: Connection) -> None:
        """A key of this connection's own: the session's changes with every start of its job."""
        name = f"connect-{re.sub(r'[^A-Za-z0-9.-]', '-', socket.gethostname())[:30]}-{secrets.token_hex(3)}"
        try:
            self.key, self._key_name, self._renewed_at = self._there.new_key(name), name, time.time()
        except LauncherError as error:  # a full home, say
            self.key = connection.key
            self._say(
                f"{error.message} The session's own key is used, which changes when its job starts again."
            )
            return
        assert self._target is not None
        until = time.monotonic() + _KEY_KNOWN_S
        while not answers(self._target, _ANSWER_S, self.key):
            # The gateway looks for a key that it does not know; a network file system may hide the file from it.
            if time.monotonic() > until:
                raise SessionError(f"Session {self.id} does not take the new key.", "Try again.")
            time.sleep(_TICK_S)

    def _renew_key(self) -> None:
        # By the clock of the day: the other one stands still while a laptop sleeps.
        if self._key_name is None or abs(time.time() - self._renewed_at) < _RENEW_S:
            return
        try:
            self._there.renew(self._key_name)
        except (RequestError, StorageError) as error:  # somebody revoked it, or the home is full
            self._say(
                f"{error.message} The key of this connection cannot be renewed, and ends within the hour."
            )
        self._renewed_at = time.time()

    def _say(self, sentence: str) -> None:
        if sentence != self._told and not self._closing.is_set():
            self._told = sentence
            self._tell(sentence)

    def _local(self, url: str) -> str:
        return urlsplit(url)._replace(scheme="http", netloc=f"{LOOPBACK}:{self.port}").geturl()


def _place(connection: Connection) -> tuple[object, ...]:
    return connection.host, connection.port, connection.job_id
