"""`RemoteSession`: a session of another cluster, which its own launcher watches and stops for us over ssh."""

from __future__ import annotations

import atexit
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from launcher.api.keys import FurtherKeys
from launcher.api.remote.far import Far
from launcher.api.remote.values import packed, unpacked
from launcher.api.session import Session
from launcher.errors import SessionError
from launcher.schedulers import Scheduler
from launcher.sessions.connection import Connection
from launcher.sessions.job import Job
from launcher.sessions.keys import NamedKey
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from launcher.api.tunnel.tunnel import Tunnel

T = TypeVar("T")


def forwarding(base: type, here: set[str]) -> Callable[[type[T]], type[T]]:
    """Let the launcher there do what `base` has and the class does not, but for the names in `here`.

    What another module adds to `base` so works over ssh from the first day; its values must be able to cross.
    """

    def forwarded(name: str) -> Callable[..., Any]:
        def method(self: Any, *given: Any, **named: Any) -> Any:
            return self.call(name, *given, **named)

        method.__name__, method.__doc__ = name, getattr(base, name).__doc__
        return method

    def complete(kind: type[T]) -> type[T]:
        for name in vars(base):
            if not name.startswith("_") and name not in vars(kind) and name not in here:
                setattr(kind, name, forwarded(name))
        return kind

    return complete


@forwarding(Session, here={"id", "connect"})
class RemoteSession(Session):
    """One session of another cluster; `paths` are its files there, `plan.cluster` is named as the settings here do."""

    def __init__(self, far: Far, data: dict[str, Any]) -> None:
        # Not the base's, which reads the plan from its file.
        self.far = far
        self.paths = SessionPaths(Path(data["root"]))
        plan = Plan.from_json(data["plan"], f"the plan from {far.cluster}")
        there = dataclasses.replace(
            plan.cluster, name=far.cluster, ssh=far.host, login_host=plan.cluster.login_host or far.host
        )
        self.plan = dataclasses.replace(plan, cluster=there)
        self._job_id: str | None = data["job_id"]
        self._tunnel: Tunnel | None = None

    def call(self, method: str, *given: Any, **named: Any) -> Any:
        """What this session's method of this name returns there; raises what that raises."""
        answer = self.far.ask(
            "session", session=self.id, method=method, given=packed(list(given)), named=packed(named)
        )
        return unpacked(answer, lambda data: RemoteSession(self.far, data))

    @property
    def scheduler(self) -> Scheduler:
        """What is asked about its job: the launcher there."""
        return cast(Scheduler, RemoteScheduler(self.far))

    @property
    def job_id(self) -> str | None:
        """The job that carries the session; None until it is known (OOD submits its own)."""
        if self._job_id is None:
            self._job_id = self.call("job_id")
        return self._job_id

    @property
    def connection(self) -> Connection | None:
        """How to reach it from a host of that cluster, with its key; None unless it is ready."""
        found: Connection | None = self.call("connection")
        return found

    @property
    def keys(self) -> FurtherKeys:
        """Its further keys, beside its own."""
        return _RemoteKeys(self)

    def needs_scheduler(self) -> bool:
        """Always: nothing of it is here."""
        return True

    def ended_before(self, when: float) -> bool:
        """Whether the session was over before the Unix time `when`."""
        over: bool = self.call("ended_before", when)
        return over

    def status(self) -> Status:
        """The state now, as the launcher there sees it."""
        found: Status = self.call("status")
        if found.job_id is not None:
            self._job_id = found.job_id  # a session that is run again may have another
        return found

    def status_from(self, jobs: dict[str, Job] | None, job_id: str | None) -> Status:
        """The state as it was heard together with those of the others."""
        if not isinstance(jobs, _Heard):
            return self.status()
        if self.id not in jobs.statuses:
            raise SessionError(f"The directory of session {self.id} is gone.", "Its job ends by itself.")
        return jobs.statuses[self.id]

    def wait(
        self, timeout_s: float | None = None, progress: Callable[[Status], None] | None = None
    ) -> Connection:
        """As `Session.wait`; a connection to the cluster that is lost meanwhile is taken up again."""
        from launcher.api.remote import waited

        def tell(said: dict[str, Any]) -> None:
            if progress is not None:
                progress(unpacked(said["status"], lambda data: RemoteSession(self.far, data)))

        (connection,) = waited(self.far, [self.id], timeout_s, tell)
        return connection

    def stop(self, *, wait: bool = True, reason: str = "user", words: str | None = None) -> Status:
        """End the session; harmless when it is over. Returns the status reached."""
        why = {} if reason == "user" else {"reason": reason, "words": words}
        # Asked for a second time where the connection broke meanwhile: that does no harm.
        found: Status = self.far.insist(lambda: self.call("stop", wait=wait, **why))
        self._disconnect()
        return found

    def openai(self, **options: Any) -> OpenAI:
        """An OpenAI client for this session, through ssh; raises SessionError unless it is ready."""
        return self._connected().openai(**options)

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        """The same for asyncio."""
        return self._connected().async_openai(**options)

    def _connected(self) -> Tunnel:
        # One for all clients of this session; it ends with the session, or with this program.
        self.ready()
        if self._tunnel is None:
            self._tunnel = self.connect()
            atexit.register(self._disconnect)
        return self._tunnel

    def _disconnect(self) -> None:
        atexit.unregister(self._disconnect)
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()

    def keep(self, status: Status) -> None:
        """Nothing: the launcher there has kept it."""

    def job_lives(self, job_id: str) -> bool:
        """Whether the cluster still has the job waiting or running."""
        lives: bool = self.call("job_lives", job_id)
        return lives

    def log(self, of: str = "engine", lines: int = 100, *, follow: bool = False) -> Iterator[str]:
        """The end of one of its logs (`engine`, `gateway`, `page`, `job`) in pieces; with `follow` until it ends."""
        from launcher.api.remote.log import pieces

        return pieces(self, of, lines, follow=follow)


@dataclasses.dataclass(frozen=True)
class RemoteScheduler:
    """The launcher there as what is asked about jobs: one question for all sessions of this user."""

    far: Far
    POLL_S = 5.0  # a program is started there for each

    def jobs(self, job_ids: list[str]) -> dict[str, Job]:
        """The statuses of all sessions there, for `status_from`."""
        said = self.far.ask("heard")
        return _Heard(unpacked(said, lambda data: RemoteSession(self.far, data)))


class _Heard(dict[str, Job]):
    # No jobs, but what the other launcher made of them.
    def __init__(self, statuses: dict[str, Status]) -> None:
        super().__init__()
        self.statuses = statuses


class _RemoteKeys(FurtherKeys):
    def __init__(self, session: RemoteSession) -> None:
        super().__init__(session)
        self._far_session = session

    def __iter__(self) -> Iterator[NamedKey]:
        found: list[NamedKey] = self._far_session.call("keys.list")
        return iter(found)

    def new(self, name: str, **wanted: Any) -> tuple[NamedKey, str]:
        made: tuple[NamedKey, str] = self._far_session.call("keys.new", name, **wanted)
        return made

    def revoke(self, name: str) -> NamedKey:
        gone: NamedKey = self._far_session.call("keys.revoke", name)
        return gone
