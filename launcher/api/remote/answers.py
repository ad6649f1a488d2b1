"""What a launcher answers when another one asks it over ssh: one request on standard input, JSON lines as its answer.

Owns the requests; the other side is `launcher.api.remote.far`. Whoever may log in here as this user may ask all of it,
as with any other command: there is nothing to guard, but the key is only ever written into that connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import launcher
from launcher.api.launcher import Launcher
from launcher.api.remote.far import PROTOCOL
from launcher.api.remote.values import packed, packed_error, unpacked
from launcher.api.session import Session
from launcher.errors import LauncherError, RequestError, SessionError, StorageError

# Methods that only make sense where they are called, or hand out what cannot cross.
_NOT_OVER_SSH = {
    "submit",
    "stop_launched",
    "openai",
    "async_openai",
    "connect",
    "status_from",
    "keep",
    "call",
}


class Answers:
    """One conversation: `given` is read, `taken` is written; both are binary."""

    def __init__(self, given: BinaryIO, taken: BinaryIO) -> None:
        self._given, self._taken = given, taken
        self._launcher = Launcher()

    def greet(self) -> None:
        """Say who answers; after it nothing but answers is on standard output."""
        self._line({"launcher": launcher.__version__, "protocol": PROTOCOL})

    def serve(self, on_read: Callable[[], object]) -> int:
        """Read the request, call `on_read`, answer; the exit code."""
        try:
            request = json.loads(self._given.readline())
            do, wanted = str(request["do"]), dict(request["with"])
        except (ValueError, KeyError, TypeError):
            self._line(
                {"error": packed_error(RequestError("That is no request.", "Use launcher --cluster."))}
            )
            return RequestError.exit_code
        if do != "write":  # whose bytes are still to be read
            on_read()
        try:
            if do in ("list", "read", "write"):
                from launcher.api.remote.disk import serve

                result = serve(do, wanted, self._given, self._tell, self._bytes)
            else:
                result = self._answer(do, wanted)
            self._line({"result": result})
            return 0
        except LauncherError as error:
            self._line({"error": packed_error(error)})
            return error.exit_code
        except TypeError as error:  # a value that has no form for the way back
            self._line(
                {"error": packed_error(LauncherError(f"{do}: {error}.", "Ask on the cluster itself."))}
            )
            return LauncherError.exit_code
        except OSError as error:
            where = error.filename or "a file"
            self._line({"error": packed_error(StorageError(f"{where}: {error.strerror}."))})
            return StorageError.exit_code

    def _answer(self, do: str, wanted: Mapping[str, Any]) -> Any:
        known: dict[str, Callable[..., Any]] = {
            "hello": self._hello, "launcher": self._of_launcher, "session": self._of_session, "plan": self._plan,
            "statuses": self._statuses, "heard": self._heard, "wait": self._wait, "log": self._log,
            "profiles": self._profiles,
        }  # fmt: skip
        if do not in known:
            raise RequestError(f'This launcher knows no request "{do[:40]}".', "Both must be of one version.")
        return known[do](**wanted)

    def _hello(self) -> dict[str, Any]:
        from launcher.api.remote.package import fingerprint

        return {"version": launcher.__version__, "python": sys.version.split()[0], "package": fingerprint()}

    def _profiles(self) -> list[tuple[str, str]]:
        profiles = self._launcher.settings.profiles.values()
        return [(profile.name, profile.description) for profile in profiles]

    def _of_launcher(self, method: str, given: list[Any], named: dict[str, Any]) -> Any:
        return packed(_called(self._launcher, method, unpacked(given, _none), unpacked(named, _none)))

    def _of_session(self, session: str, method: str, given: list[Any], named: dict[str, Any]) -> Any:
        found = self._launcher.session(session)
        arguments, options = unpacked(given, _none), unpacked(named, _none)
        on, _, name = method.rpartition(".")
        if on == "keys":
            if name == "list":
                return packed(list(found.keys))
            return packed(_called(found.keys, name, arguments, options))
        return packed(_called(found, method, arguments, options))

    def _plan(self, model: str, door: str, wanted: dict[str, Any]) -> str:
        return self._launcher.plan(model, door=door, **unpacked(wanted, _none)).to_json()

    def _statuses(self, ids: Sequence[str]) -> Any:
        return packed(self._launcher.statuses([self._launcher.session(wanted) for wanted in ids]))

    def _heard(self) -> Any:
        sessions = self._launcher.sessions()
        found = self._launcher.statuses(sessions)
        return packed({session.id: status for session, status in zip(sessions, found, strict=True)})

    def _wait(self, ids: Sequence[str], timeout_s: float | None) -> Any:
        sessions = [self._launcher.session(wanted) for wanted in ids]

        def tell(session: Session, status: Any) -> None:
            self._tell({"id": session.id, "status": packed(status)})

        return packed(self._launcher.wait_all(sessions, timeout_s, tell))

    def _log(self, session: str, of: str, lines: int, at: int | None, follow: bool) -> Any:
        from launcher.api.remote.log import follow_here

        return follow_here(self._launcher.session(session), of, lines, at, follow, self._tell)

    def _tell(self, data: Any) -> None:
        self._line({"told": data})

    def _bytes(self, data: bytes) -> None:
        self._taken.write(json.dumps({"bytes": len(data)}).encode() + b"\n" + data)

    def _line(self, data: dict[str, Any]) -> None:
        # A reader that has gone is noticed by `launcher.cli.over_ssh`.
        with contextlib.suppress(BrokenPipeError):
            self._taken.write(json.dumps(data).encode() + b"\n")
            self._taken.flush()


def _called(on: object, method: str, given: Sequence[Any], named: Mapping[str, Any]) -> Any:
    if method.startswith("_") or method in _NOT_OVER_SSH or not hasattr(type(on), method):
        raise RequestError(
            f'"{method[:60]}" cannot be asked over ssh.', "Both launchers must be of one version."
        )
    found = getattr(on, method)
    try:
        return found(*given, **named) if callable(found) else found
    except TypeError as error:
        raise RequestError(f"{method}: {error}.", "Both launchers must be of one version.") from error


def _none(_: dict[str, Any]) -> Session:
    raise SessionError("A session cannot be sent to another cluster.", "Pass its id.")


def silent_output() -> BinaryIO:
    """Standard output for answers alone: whatever else is printed goes to standard error from now on."""
    sys.stdout.flush()
    taken = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return taken
