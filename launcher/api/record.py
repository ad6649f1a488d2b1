"""The record of a session: what ran, from which files, where and how long, read back from `record.json`.

Owns finding and reading it. A session that runs has a preliminary one, which is made from what it has said so far.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import SessionError
from launcher.sessions.plan import SCHEMA as PLAN_SCHEMA
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from launcher.api.launcher import Launcher
    from launcher.api.session import Session

SCHEMA = 1
_LONGEST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `data` is what the file holds, `source` where it came from.

    `preliminary`: the session runs, or was killed before it could write the last word.
    """

    plan: Plan
    data: Mapping[str, Any]
    source: str
    preliminary: bool = False

    def part(self, name: str) -> dict[str, Any]:
        """One block of the record; empty where an older launcher did not write it."""
        found = self.data.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def weights(self) -> list[dict[str, Any]]:
        """Name, bytes and SHA-256 (None where it was not computed) of each file of the model."""
        found = self.data.get("weights")
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    @property
    def gpus(self) -> list[str]:
        """Each GPU of the node as nvidia-smi names it: name, memory, driver, id."""
        found = self.part("hardware").get("gpus")
        return [line for line in found if isinstance(line, str)] if isinstance(found, list) else []

    @property
    def image(self) -> dict[str, Any]:
        """The container image with its id, size and time; empty without one."""
        found = self.part("environment").get("image")
        return found if isinstance(found, dict) else {}

    @property
    def engine_version(self) -> str | None:
        found = self.part("versions").get(self.plan.engine)
        return str(found) if found else None


def find(launcher: Launcher, wanted: str) -> Record:
    """The record in the file `wanted`, or that of the session called so.

    Raises SessionError where there is none, or the file is no record.
    """
    path = Path(os.path.expanduser(wanted))
    if wanted.endswith(".json") or ("/" in wanted and path.is_file()):
        return read(path)
    return of(launcher.session(wanted))


def of(session: Session) -> Record:
    """The record of `session`, whatever state it is in."""
    if session.paths.record.exists():
        return read(session.paths.record)
    status = session.status()
    if session.paths.preliminary.exists():
        found = read(session.paths.preliminary)
        data = {**found.data, "end": _end(status)}
        return dataclasses.replace(found, data=data, preliminary=True)
    data = {
        "schema": SCHEMA,
        "preliminary": True,
        "plan": dataclasses.asdict(session.plan),
        "job_id": status.job_id,
        "end": _end(status),
    }
    return Record(session.plan, data, str(session.paths.plan), True)


def read(path: Path) -> Record:
    """The record in the file `path`; raises SessionError for one that is none."""
    try:
        if not path.is_file():  # nor wait for the other end of a pipe
            raise SessionError(f"There is no record {path}.", "Give a session's id or its record.json.")
        with path.open("rb") as file:
            text = file.read(_LONGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it cannot be a file's name"
        raise SessionError(f"{path}: {why}.", "Give a session's id or its record.json.") from error
    return parse(text, str(path))


def parse(text: bytes, source: str) -> Record:
    """The record that `text` is; `source` is for the words of the SessionError."""
    try:
        if len(text) > _LONGEST_BYTES:
            raise ValueError("it is too big")
        data: dict[str, Any] = json.loads(text)
        if data["schema"] != SCHEMA:
            raise SessionError(
                f"{source} has schema {data['schema']}, this launcher reads {SCHEMA}.",
                "Use the launcher that wrote it.",
            )
        plan = Plan.from_json(json.dumps({"schema": PLAN_SCHEMA, **data["plan"]}), source)
        _check(plan)
        return Record(plan, data, source, bool(data.get("preliminary")))
    except SessionError as error:
        if error.__cause__ is None:  # another schema
            raise
        raise _no_record(source, error.__cause__) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_record(source, error) from error


def _no_record(source: str, error: BaseException) -> SessionError:
    if isinstance(error, json.JSONDecodeError | UnicodeError):
        why = "it was cut off, or is no JSON"
    elif isinstance(error, KeyError):
        why = f"{error.args[0]} is missing"
    else:
        why = str(error) if isinstance(error, ValueError) else "a value in it is of another kind"
    return SessionError(f"{source} is not a record: {why}.", "Give the record.json of a session.")


def _check(plan: Plan) -> None:
    """Raise TypeError where the plan of somebody's file has values of another kind than a launcher writes."""
    words = (
        plan.id,
        plan.name,
        plan.user,
        plan.engine,
        plan.model.id,
        plan.resources.profile,
        plan.cluster.name,
    )
    optional = (
        plan.work_dir,
        plan.model.snapshot,
        plan.model.revision,
        plan.environment.path,
        plan.environment.image,
    )
    numbers = (plan.limits.hours, plan.limits.idle_minutes, plan.resources.nodes, plan.resources.gpus)
    listed = (
        *plan.engine_args, *plan.environment.modules, *plan.environment.binds, *plan.resources.sbatch_args
    )  # fmt: skip
    env = plan.environment.env
    if not (
        all(isinstance(word, str) for word in (*words, *listed, *env, *env.values()))
        and all(word is None or isinstance(word, str) for word in optional)
        and all(type(number) in (int, float) for number in numbers)
        and type(plan.resources.cpus) in (int, type(None))
    ):
        raise TypeError("a value of another kind")


def _end(status: Status) -> dict[str, Any] | None:
    if not status.ended:
        return None
    return {"state": status.state, "reason": status.reason, "message": status.message}
