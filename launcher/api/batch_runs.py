"""Batch runs of this user: beginning, finding and ending them, and the jobs of their own.

Owns where their folders are and which session answers; how a run goes is `launcher.batch`'s. A job of its own carries
the runner too: it goes on after logout, and the next one is submitted where a time limit ends it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from launcher.batch.input import empty
from launcher.batch.report import ACTIVE, CANCELLED, OVER, STOPPED, WAITING, Status
from launcher.batch.run import Run
from launcher.batch.spec import RETRIES, WINDOW, Spec
from launcher.batch.texts import Texts
from launcher.errors import LauncherError, RequestError, SessionError, StorageError
from launcher.sessions.lock import locked
from launcher.sessions.ownership import require_own
from launcher.sessions.paths import write_private
from launcher.sessions.status import PENDING

if TYPE_CHECKING:
    from launcher.api.launcher import Launcher
    from launcher.api.session import Session
    from launcher.sessions.plan import Plan
    from launcher.sessions.status import Status as SessionStatus

FOLDER = ".batch-runs"
_STARTS = 3  # in a row that brought nothing
_SUBMITTED_S = 30.0  # an sbatch that outlived who called it has ended by then


@dataclass(frozen=True, slots=True)
class Means:
    """What answers a run: the session of that id, or the address `url`, or jobs of its own of `model`, with the fields
    of a request in `launch`."""

    session: str | None = None
    url: str | None = None
    model: str | None = None
    launch: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it has jobs of its own."""
        return self.session is None and self.url is None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Those in `path`; raises SessionError."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise SessionError(f"{path.parent} holds no batch run.", "See: launcher batch ls") from error

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(dataclasses.asdict(self)) + "\n")


class BatchRun:
    """One run: what it asks for (`spec`), how it stands, its end."""

    def __init__(self, launcher: Launcher, run: Run) -> None:
        self.launcher = launcher
        self.run = run

    @property
    def id(self) -> str:
        return self.run.folder.name

    @property
    def spec(self) -> Spec:
        return self.run.spec

    @property
    def means(self) -> Means:
        """What answers it."""
        return Means.read(self.run.folder / "means.json")

    @property
    def sessions(self) -> list[str]:
        """The ids of the sessions it had for itself, the latest last."""
        return [one["id"] for one in self._starts()]

    @property
    def session(self) -> Session | None:
        """The latest of them, where its files are still there."""
        for wanted in self.sessions[-1:]:
            with contextlib.suppress(SessionError):
                return self.launcher.session(wanted)
        return None

    def status(self) -> Status:
        """How it stands; one whose job waits or starts is `waiting`."""
        found = self.run.status()
        if found.state in OVER | ACTIVE or not self.means.own or (own := self.session) is None:
            return found
        now = own.status()
        if not lives(own, now):
            return found
        return dataclasses.replace(found, state=WAITING, session=own.id, message=now.message, code="")

    def cancel(self) -> Status:
        """End it; what is answered stays. Its job ends too."""
        found = self.run.cancel()
        if self.means.own and (session := self.session) is not None and not self.run.running:
            session.stop(wait=False)
        return found if found.state != STOPPED else dataclasses.replace(found, state=CANCELLED)

    @property
    def texts(self) -> Texts | None:
        """The folder of texts whose answers it is, if it is one's."""
        return Texts.read(self.run.folder / "texts.json")

    def answered_by(self, *, session: str | None = None, url: str | None = None) -> None:
        """From now on that session, or that address, answers; raises RequestError, SessionError."""
        spec = self.spec
        means, names, served = _means(self.launcher, Path(spec.input), None, session, url, {})
        names = tuple(dict.fromkeys((*spec.models, *names))) if spec.models else ()
        dataclasses.replace(spec, models=names, served=served).write(self.run.spec_path)
        means.write(self.run.folder / "means.json")

    def start(self) -> Session:
        """Submit a job of its own; raises RequestError while one lives."""
        session, new = self._begun()
        if not new:
            raise SessionError(f"Session {session.id} carries the run already.", "See: launcher batch status")
        return session

    def go_on(self, former: Plan) -> Session | None:
        """Submit the next job after that of `former`, which is about to end; None where that is of no use."""
        with self._starting():
            starts = self._starts()
            if (
                not starts
                or starts[-1]["id"] != former.id
                or self.run.status().state in OVER
                or self._in_vain()
            ):
                return None
            name = f"{former.id.rpartition('-')[0]}-{secrets.token_hex(4)}"
            plan = dataclasses.replace(former, id=name, created_at=time.time())
            return self._submit(plan, replaces=1)

    def again(self) -> Session | None:
        """Submit another job after one that is over without the run being so; None where three brought nothing."""
        return None if self._in_vain() else self._begun()[0]

    def _begun(self) -> tuple[Session, bool]:
        """The session that carries it, and whether it was submitted now."""
        with self._starting():
            last = self.session
            if last is not None and lives(last, last.status()):
                return last, False
            return self._submit(planned(self.launcher, self.means, self.run.folder)), True

    def _submit(self, plan: Plan, replaces: int = 0) -> Session:
        from launcher.api.batch_launch import submit

        path, before = self.run.folder / "sessions.json", self._starts()
        # Before it is submitted: a job that nobody remembers would be followed by a second one.
        write_private(path, json.dumps([*before, {"id": plan.id, "done": self.run.status().done}]) + "\n")
        try:
            (session,) = submit(self.launcher, [plan], new=1 - replaces)
        except BaseException:
            write_private(path, json.dumps(before) + "\n")
            raise
        return session

    @property
    def goes_on(self) -> bool:
        """Whether some process, or a job that is not over, is at it."""
        return self.run.running or ((own := self.session) is not None and lives(own, own.status()))

    def forget(self) -> bool:
        """Remove its folder, and no file of its user's; False where it goes on. Raises OSError."""
        with self._starting():
            if self.goes_on:
                return False
            # In one step, so that nobody finds half of it.
            aside = self.run.folder.with_name(f".{self.id}.{secrets.token_hex(4)}.removed")
            self.run.folder.rename(aside)
            (aside / "run.json").unlink(missing_ok=True)
            shutil.rmtree(aside)
            return True

    @property
    def brought(self) -> bool:
        """Whether the latest of its sessions has answered anything."""
        return any(self.run.status().done > one["done"] for one in self._starts()[-1:])

    def _in_vain(self) -> bool:
        """Whether the latest sessions have brought nothing."""
        lately = [one["done"] for one in self._starts()[-_STARTS:]]
        return len(lately) == _STARTS and lately[0] >= self.run.status().done

    def _starts(self) -> list[dict[str, Any]]:
        try:
            found = json.loads((self.run.folder / "sessions.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [one for one in found if isinstance(one, dict) and {"id", "done"} <= one.keys()]

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """One at a time: a command that waits and a job that ends may both want the next one."""
        with locked(self.run.folder / "sessions.lock"):
            yield


def lives(session: Session, now: SessionStatus) -> bool:
    """Whether its job is not over; where its submission was killed, none is known to the scheduler either."""
    never = now.state == PENDING and now.job_id is None and now.reason is None
    return not (now.ended or (never and time.time() - session.plan.created_at > _SUBMITTED_S))


def begin(
    launcher: Launcher,
    input: str | Path,  # noqa: A002 - OpenAI's word for it
    output: str | Path | None = None,
    *,
    model: str | None = None,
    session: str | None = None,
    url: str | None = None,
    endpoint: str | None = None,
    window: int = WINDOW,
    retries: int = RETRIES,
    strict: bool = False,
    texts: Texts | None = None,
    **launch: Any,
) -> BatchRun:
    """Make the run that answers `input` into `output`, or find the one that does already; nothing is sent yet.

    Raises RequestError for what cannot be, and what planning raises where it gets a job of its own.
    """
    launch = {name: value for name, value in launch.items() if value is not None}
    if session is not None and url is not None:
        raise RequestError("A run has one session or one address.", "Leave out --session or --url.")
    if (session is not None or url is not None) and launch:
        name = sorted(launch)[0].replace("_", "-")
        raise RequestError(f"What runs already takes no --{name}.", "Leave out that, or --session and --url.")
    source = Path(os.path.abspath(input))
    if not source.is_file():
        raise RequestError(f"{source} is no file.", "Name a file of requests, one JSON object a line.")
    if empty(source):
        raise RequestError(f"{source} has no request.", "Write one JSON object a line.")
    out = answers_of(source) if output is None else Path(os.path.abspath(output))
    if out.is_dir() or not out.parent.is_dir():
        raise RequestError(f"{out} cannot be the output.", "Name a file in a folder that is there with -o.")
    spec = Spec(
        str(source), str(out), str(out.with_name(f"{out.name.removesuffix('.jsonl')}.errors.jsonl")),
        endpoint, window=window, retries=retries, strict=strict, changing=texts is not None,
    ).checked()  # fmt: skip
    means, names, served = _means(launcher, source, model, session, url, launch)
    spec = dataclasses.replace(spec, models=names, served=served)
    made = BatchRun(launcher, Run.create(_folder(launcher, out), spec))
    if texts is not None:
        texts.write(made.run.folder / "texts.json")
    means.write(made.run.folder / "means.json")
    return made


def answers_of(source: Path) -> Path:
    """Where the answers go when no other place is named: requests.answers.jsonl beside requests.jsonl."""
    return source.with_name(f"{source.name.removesuffix('.jsonl')}.answers.jsonl")


def find(launcher: Launcher, wanted: str) -> BatchRun:
    """The run of this id or the beginning of one, or with this input or output; raises SessionError."""
    known = every(launcher)
    path = os.path.abspath(os.path.expanduser(wanted))
    for fits in (
        [one for one in known if one.id == wanted],
        [one for one in known if path in (one.spec.output, str(one.run.folder))],
        [one for one in known if path == one.spec.input],
        [one for one in known if wanted and one.id.startswith(wanted)],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            names = ", ".join(one.id for one in fits)
            raise SessionError(f'"{wanted[:80]}" may be any of {names}.', "Give more of the id.")
    latest = ", ".join(one.id for one in known[-5:])
    raise SessionError(
        f'There is no batch run "{wanted[:80]}".',
        f"Your latest: {latest}." if latest else "You have none; begin one with: launcher batch run FILE",
    )


def every(launcher: Launcher) -> list[BatchRun]:
    """All runs of mine, the oldest first."""
    found: list[tuple[float, BatchRun]] = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(launcher.folder / FOLDER):
            one = BatchRun(launcher, Run(Path(entry.path)))
            try:
                _ = one.spec, one.means
                found.append((one.run.spec_path.stat().st_mtime, one))
            except (LauncherError, OSError):
                continue  # half made, or not ours
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].id))]


def planned(launcher: Launcher, means: Means, folder: Path) -> Plan:
    """The plan of a job of its own; raises what planning raises."""
    from launcher.api.clusters import elsewhere

    if (there := elsewhere(launcher.settings, means.launch.get("profile"))) is not None:
        raise RequestError(
            f'Profile "{means.launch["profile"]}" is on another cluster, which does not see the files here.',
            f"Bring them there, and run: launcher --cluster {there[0]} batch run",
        )
    plan = launcher.plan(means.model, door="shell", page=False, **means.launch)
    if plan.engine == "whisper":
        raise RequestError(
            f'Model "{plan.model.id}" transcribes, and a batch run sends texts.', "Use: launcher transcribe"
        )
    return dataclasses.replace(plan, batch=str(folder))


def _means(
    launcher: Launcher,
    source: Path,
    model: str | None,
    session: str | None,
    url: str | None,
    launch: dict[str, Any],
) -> tuple[Means, tuple[str, ...], str | None]:
    """What answers, the names that lines may give the model, and what it is called there."""
    if url is not None:
        if not re.fullmatch(r"https?://[!-~]+", url):
            raise RequestError(f'"{url[:80]}" is no address.', "Write http://HOST:PORT/v1.")
        return Means(url=url), (model,) if model else (), None
    if session is not None:
        found = launcher.session(session)
        if found.plan.engine == "whisper":
            raise RequestError(
                f"Session {found.id} transcribes, and a batch run sends texts.", "Name another one."
            )
        names = _names(found.plan, model)
        if model is not None and model not in (found.plan.model.id, found.plan.model.served_name):
            raise RequestError(
                f'Session {found.id} serves "{found.plan.model.id}", not "{model[:80]}".',
                "Leave out --model.",
            )
        return Means(session=found.id), names, found.plan.model.served_name
    means = Means(model=model or _first_model(source), launch=launch)
    plan = planned(launcher, means, Path(os.devnull))
    return means, _names(plan, means.model), plan.model.served_name


def _names(plan: Plan, asked: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in (plan.model.served_name, plan.model.id, asked) if name))


def _first_model(source: Path) -> str:
    """The model that the first line names."""
    with source.open("rb") as file:
        text = file.readline(1 << 20)
    try:
        model = json.loads(text)["body"]["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        model = None
    if not isinstance(model, str):
        raise RequestError(
            "Which model shall answer? The first line names none.", "Add --model, --session or --url."
        )
    return model


def _folder(launcher: Launcher, output: Path) -> Path:
    # One output is one run: the same command finds it again.
    stem = re.sub(
        r"[^a-z0-9]+", "-", output.name.removesuffix(".jsonl").removesuffix(".answers").lower()
    ).strip("-")
    told = hashlib.sha256(os.fsencode(os.path.realpath(output))).hexdigest()[:8]
    folder = launcher.folder / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}.", "Set places.sessions.") from error
    require_own(folder, "places.sessions")
    return folder / f"{stem[:40] or 'run'}-{told}"
