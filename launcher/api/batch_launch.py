"""Several sessions as one job, all or none: planning, submitting and stopping them together.

On Slurm it is one heterogeneous job with a component for each session; a member's job id is the job's with `+0`, `+1`.
Everything else of a member is as of any other session.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from launcher.errors import LauncherError, RequestError, SchedulerError, SettingsError
from launcher.schedulers import Scheduler, scheduler
from launcher.sessions import registry
from launcher.sessions.job import member_of, write_job_id
from launcher.sessions.members import Members
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status

if TYPE_CHECKING:
    from launcher.api.launcher import Launcher
    from launcher.api.session import Session

# A model's name, or the fields of a request with `model` among them.
Member: TypeAlias = "str | Mapping[str, Any]"
MOST = 128  # Slurm's own bound for the components of a heterogeneous job (MAX_HET_JOB_COMPS)
_KEYS = ("members", "defaults")


def planned(
    launcher: Launcher, models: Sequence[Member], config: str | None, common: Mapping[str, Any], door: str
) -> list[Plan]:
    """The plan of each member; `common` holds for all, and what `models` says of one wins over it.

    `config` is a file with `members:` (a list) and `defaults:`, or vec-inf's with `models:`; the names in `models` then
    choose from it, in their order, and both `common` and `models` win over it. Raises the first error of any, saying
    whose it is; writes nothing.
    """
    said = {word: value for word, value in common.items() if value is not None}
    file = _of_file(config) if config is not None else None
    own = [{"model": model} if isinstance(model, str) else dict(model) for model in models]
    # The call wins over the file, and what it says of one member over what it says of all.
    wanted = [_joined(_chosen(of, *file), said, _but_model(of)) if file else _joined(said, of) for of in own]
    if file and not own:
        wanted = [_joined(fields, said) for fields in file[0]]
    if not wanted:
        raise RequestError("A batch needs models.", "Name them: launcher batch-launch A B.")
    if len(wanted) > MOST:
        raise RequestError(
            f"A batch of {len(wanted)} sessions is too large.", f"Launch at most {MOST} at once."
        )
    plans = []
    for fields in wanted:
        model = fields.get("model")
        if not isinstance(model, str):
            raise RequestError("A member of the batch has no model.", "Write model: NAME for each.")
        try:
            plans.append(launcher.plan(model, door=door, **_but_model(fields)))
        except RequestError as error:
            raise RequestError(f"{model[:80]}: {error.message}", error.hint) from error
    _check_cluster(plans)
    _check_nodes(plans)
    return plans


def submit(
    launcher: Launcher, plans: Sequence[Plan], *, together: bool = False, new: int | None = None
) -> list[Session]:
    """Make all directories and submit the one job, also of one session; nothing is left behind when that fails.

    With `together` the end of one member ends all. `new` is how many sessions more there will be, where that is not all
    of them: one takes the place of another that is about to end.
    """
    from launcher.api.session import Session

    launcher.within_limits(len(plans) if new is None else new)
    where = scheduler(plans[0].cluster.scheduler, plans[0].cluster.ssh)
    made: list[SessionPaths] = []
    job_id = None
    try:
        for plan in plans:
            made.append(launcher.make(plan))  # noqa: PERF401 - what was made before one fails has to go
        job_id = _submit(plans, made, where, together)
        for place, paths in enumerate(made):
            write_job_id(paths.job, f"{job_id}+{place}" if len(made) > 1 else job_id)
    except BaseException as error:
        if job_id is not None:  # a job that nobody would find again
            where.cancel(job_id)
        import shutil  # its archives take as long to load as Slurm to answer

        for paths in made:
            shutil.rmtree(paths.root, ignore_errors=True)
        if isinstance(error, OSError):
            raise registry.storage_error(error, Path(plans[0].places.sessions)) from error
        if isinstance(error, SchedulerError):
            from launcher.api.refusals import explained

            raise explained(error, plans) from error
        raise
    return [Session(paths) for paths in made]


def script(plans: Sequence[Plan]) -> str:
    """The exact script that `submit` would give to the scheduler."""
    from launcher.schedulers.batch_script import batch_script
    from launcher.schedulers.script import job_script

    root = Path(plans[0].places.sessions) / plans[0].id
    return batch_script(plans, root) if len(plans) > 1 else job_script(plans[0], root)


def stop(sessions: Sequence[Session], *, wait: bool = True) -> list[Status]:
    """End all of `sessions`: all are asked before the first is waited for. Returns the statuses reached.

    Raises the first error of any, once all were asked.
    """
    asked: list[Status] = []
    troubles: list[Exception] = []
    for session in sessions:
        try:
            asked.append(session.stop(wait=False))
        except (LauncherError, OSError) as trouble:
            troubles.append(trouble)
    if troubles:
        raise troubles[0]
    return [session.stop() for session in sessions] if wait else asked


def leave_queue(session: Session, job_id: str) -> None:
    """A member's end was asked for before its batch had started: it will not start, and if none will, the job goes.

    Slurm cannot take one component out of a heterogeneous job that waits.
    """
    place, members = member_of(job_id), Members.read(session.paths.members)
    if place is None or members is None:
        return
    write_job_id(session.paths.job, job_id, over=True)
    if all(SessionPaths(Path(root)).stop.exists() for root in members.roots):
        session.scheduler.cancel(place[0])


def _submit(plans: Sequence[Plan], made: Sequence[SessionPaths], where: Scheduler, together: bool) -> str:
    from launcher.api.launcher import write_session

    if len(plans) == 1:
        write_session(plans[0], made[0])
        return where.submit(made[0].job_script)
    from launcher.schedulers.batch_script import batch_script

    members = Members(tuple(str(paths.root) for paths in made), together)
    for plan, paths in zip(plans, made, strict=True):
        write_session(plan, paths)
        members.write(paths.members)
    first = made[0]
    write_private(first.batch_script, batch_script(plans, first.root))
    first.batch_script.chmod(0o700)
    return where.submit(first.batch_script)


def _check_cluster(plans: Sequence[Plan]) -> None:
    others = [plan for plan in plans if plan.cluster != plans[0].cluster]
    if others:
        raise RequestError(
            f'{plans[0].model.id} would run on "{plans[0].cluster.name}", {others[0].model.id} on '
            f'"{others[0].cluster.name}": one job cannot.',
            "Choose profiles of one cluster.",
        )


def _check_nodes(plans: Sequence[Plan]) -> None:
    # A member is one component of the job, whose steps on other nodes would be another component's.
    for plan in plans:
        if plan.resources.nodes > 1 and len(plans) > 1:
            raise RequestError(
                f"{plan.model.id} would have {plan.resources.nodes} nodes, and in a batch each model has one.",
                "Launch it by itself, or ask for --nodes 1.",
            )


def _but_model(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in fields.items() if word != "model"}


def _joined(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """One request from several, the last of which wins; of arguments for the engine it stands last."""
    joined: dict[str, Any] = {}
    for layer in layers:
        args = [found for of in (joined, layer) if isinstance(found := of.get("engine_args"), list | tuple)]
        joined = {**joined, **layer}
        if len(args) > 1:
            joined["engine_args"] = (*args[0], *args[1])
    return joined


def _of_file(config: str) -> tuple[list[dict[str, Any]], Path]:
    from launcher.settings.files import read_checked

    file = Path(os.path.abspath(os.path.expanduser(config)))
    data = read_checked(file).data
    if not isinstance(data, dict) or not ("members" in data) ^ ("models" in data):
        raise SettingsError(
            f"{file}: a batch is a list of members, or vec-inf's block of models.",
            "Write members: at its top.",
        )
    if "members" in data:
        return _listed(data, file), file
    if not isinstance(data["models"], dict):
        raise SettingsError(f"{file}: models must be a block of names, and below each its keys.")
    return [{"model": str(name), "config": str(file)} for name in data["models"]], file


def _listed(data: Mapping[str, Any], file: Path) -> list[dict[str, Any]]:
    defaults, listed = data.get("defaults") or {}, data["members"]
    for key in data:
        if key not in _KEYS:
            raise SettingsError(f'{file}: unknown key "{str(key)[:80]}".', f"Use {' and '.join(_KEYS)}.")
    if not (
        isinstance(defaults, dict)
        and isinstance(listed, list)
        and all(isinstance(entry, str | dict) for entry in listed)
    ):
        raise SettingsError(
            f"{file}: members must be a list, each a model's name or a block of keys, and defaults a block of keys."
        )
    return [_joined(defaults, {"model": e} if isinstance(e, str) else e) for e in listed]


def _chosen(own: Mapping[str, Any], known: Sequence[dict[str, Any]], file: Path) -> dict[str, Any]:
    from launcher.planning import unknown

    model = own.get("model")
    for fields in known:
        if model in (fields.get("name"), fields.get("model")):
            return fields
    names = [str(fields.get("name") or fields.get("model")) for fields in known]
    error = unknown("member", str(model), names)
    raise RequestError(f"{file}: {error.message}", error.hint)


def job_of(sessions: Sequence[Session]) -> str | None:
    """The id of the one job that carries `sessions`; None where it is not one batch."""
    places = {place[0] for session in sessions if (place := member_of(session.job_id)) is not None}
    return places.pop() if len(places) == 1 else None
