"""`RemoteLauncher`: the same as `Launcher`, where the work is done by the launcher of another cluster, over ssh.

Nothing of a session is here but what was last heard of it; its files, its key and its job are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from launcher.api.launcher import Launcher
from launcher.api.remote.far import Far, far_of
from launcher.api.remote.session import RemoteSession, forwarding
from launcher.api.remote.values import packed, unpacked
from launcher.api.session import Session
from launcher.errors import RequestError
from launcher.sessions.connection import Connection
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from launcher.settings.schema import Settings

_LAUNCHING = {"launch", "batch_launch", "rerun"}


@forwarding(Launcher, here={"settings", "of", "stop_launched"})
class RemoteLauncher(Launcher):
    """The launcher of the cluster `cluster`, as its user; paths that are passed or returned are those there."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        cluster: str | None = None,
        auto_cleanup: bool | None = None,
    ) -> None:
        super().__init__(settings, cluster=cluster, auto_cleanup=auto_cleanup)
        if self._cluster is None:
            raise RequestError("A RemoteLauncher needs a cluster.", 'Write Launcher(cluster="NAME").')
        self.far: Far = far_of(self._cluster, self.settings)

    def call(self, method: str, *given: Any, **named: Any) -> Any:
        """What the launcher there returns from its method of this name; raises what that raises."""
        answer = self.far.ask("launcher", method=method, given=packed(list(given)), named=packed(named))
        found = unpacked(answer, self._session)
        if method in _LAUNCHING:
            self._launched += found if isinstance(found, list) else [found]
        return found

    def plan(self, model: str | None, *, door: str = "python", **wanted: Any) -> Plan:
        """The plan that the cluster would make for `model`. Writes nothing."""
        found: Plan = Plan.from_json(self.far.ask("plan", model=model, door=door, wanted=packed(wanted)))
        return found

    def launch(self, model: str, *, door: str = "python", **wanted: Any) -> RemoteSession:
        """Submit a session of `model` there and return at once."""
        session: RemoteSession = self.call("launch", model, door=door, **wanted)
        return session

    def submit(self, plan: Plan) -> Session:
        """Not over ssh: a plan holds paths of the host that made it."""
        raise RequestError(
            f"A plan cannot be sent to cluster {self.far.cluster}.", "Call launch() with the same values."
        )

    def batch_run(self, *given: Any, **named: Any) -> NoReturn:
        """Not over ssh: the files would have to be there."""
        raise RequestError(
            "A batch run reads and writes files of the cluster that it runs on.",
            f"Bring the file there, and run: launcher --cluster {self.far.cluster} batch run FILE",
        )

    def batch_runs(self) -> NoReturn:
        """Not over ssh, either."""
        self.batch_run()

    def session(self, wanted: str) -> RemoteSession:
        """The session there with this id (or the beginning of one), job id, or directory."""
        found: RemoteSession = self.call("session", wanted)
        return found

    def sessions(self) -> list[Session]:
        """All sessions there, the oldest first."""
        found: list[Session] = self.call("sessions")
        return found

    def statuses(self, sessions: list[Session]) -> list[Status]:
        """The status of each session, with one question however many there are."""
        if not sessions:
            return []
        found: list[Status] = unpacked(self.far.ask("statuses", ids=[s.id for s in sessions]), self._session)
        return found

    def wait_all(
        self,
        sessions: Sequence[Session],
        timeout_s: float | None = None,
        progress: Callable[[Session, Status], None] | None = None,
    ) -> list[Connection]:
        """Wait until all are ready, as `Session.wait` does for one; a lost connection is taken up again."""
        if not all(isinstance(session, RemoteSession) for session in sessions):
            return super().wait_all(sessions, timeout_s, progress)
        by_id = {session.id: session for session in sessions}

        def tell(said: dict[str, Any]) -> None:
            if progress is not None:
                progress(by_id[said["id"]], unpacked(said["status"], self._session))

        return waited(self.far, list(by_id), timeout_s, tell)

    def _session(self, data: dict[str, Any]) -> RemoteSession:
        return RemoteSession(self.far, data)

    @property
    def folder(self) -> Path:
        """Not over ssh: the folder of the sessions is there."""
        raise RequestError(f"The sessions of {self.far.cluster} are not here.", "Ask its launcher.")


def waited(
    far: Far, ids: Sequence[str], timeout_s: float | None, tell: Callable[[dict[str, Any]], object]
) -> list[Connection]:
    """The connections of these sessions once all are ready; `tell` gets each changed status as it was packed."""

    def once() -> Any:
        with far.talk("wait", ids=list(ids), timeout_s=timeout_s) as talk:
            parts = talk.told()
            while True:
                try:
                    tell(next(parts))
                except StopIteration as end:
                    return end.value

    def nothing(data: dict[str, Any]) -> Session:
        return RemoteSession(far, data)

    found: list[Connection] = unpacked(far.insist(once), nothing)
    return found
