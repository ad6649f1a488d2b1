"""The form's fields as OOD's plain data: labels, limits, and the directives that hide what does not belong together.

Option values are texts: OOD raises for numbers. Directives (`data-…`) work only where the site has `bc_dynamic_js`;
nothing here relies on them, since `launcher plan` checks everything again. A hidden field is posted all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.ondemand.offered import Offered
from launcher.ondemand.plain import directive, plain
from launcher.settings.schema import Cluster, Profile, Settings

AUTO = "auto"  # the hardware that the launcher chooses; a directive cannot speak of an empty value
ADVANCED = (
    "custom_model", "revision", "gpus", "context_length", "account", "qos", "idle_minutes", "engine_args",
    "trust_remote_code", "try_anyway",
)  # fmt: skip
NAMES = ("model", "profile", "bc_num_hours", "advanced", *ADVANCED)
_CONTEXT_MAX = 100_000_000


def fields(settings: Settings, profiles: Sequence[Profile], models: Sequence[Offered]) -> dict[str, Any]:
    """Every field that this site's form has, by name and in order."""
    found: dict[str, Any] = {}
    hidden = set(settings.form.hide)
    if models and "model" not in hidden:
        others = settings.form.more and settings.allow.models == "any" and "custom_model" not in hidden
        found["model"] = _model(models, others=others)
    if "profile" not in hidden:
        found["profile"] = _profile(profiles, settings)
    if "bc_num_hours" not in hidden:
        found["bc_num_hours"] = _hours(profiles, settings)
    more = _advanced(settings, profiles)
    if not models and "custom_model" in more:
        found = {"custom_model": {**more.pop("custom_model"), "label": "Model", "help": _ANY}} | found
    more = {name: field for name, field in more.items() if name not in hidden}
    if not settings.form.more:
        return found
    if more and "advanced" not in hidden:
        data = {f"hide-{name.replace('_', '-')}-when-unchecked": True for name in more}
        found["advanced"] = {"widget": "check_box", "label": "More options", "html_options": {"data": data}}
    return found | more


_ANY = "An id such as `org/name`, or the path of a folder on the cluster."


def _model(models: Sequence[Offered], *, others: bool) -> dict[str, Any]:
    groups: dict[str, list[Any]] = {}
    for model in models:
        ends = filter(None, map(directive, model.unfit))
        option = [model.label, model.value, {f"data-option-for-profile-{end}": False for end in ends}]
        groups.setdefault(model.group, []).append(option)
    # Rails makes optgroups of pairs whose second part is a list.
    lines = [[name, options] for name, options in groups.items()]
    return {
        "widget": "select", "label": "Model", "required": True, "options": lines if len(lines) > 1 else lines[0][1],
        "help": f"What will answer.{' Another one can be named under *More options*.' if others else ''}",
    }  # fmt: skip


def _profile(profiles: Sequence[Profile], settings: Settings) -> dict[str, Any]:
    clusters = {p.cluster for p in profiles}
    gpus_too = any(p.gpus_max for p in profiles)
    options = [_hardware(p, settings, cluster_too=len(clusters) > 1, gpus_too=gpus_too) for p in profiles]
    chosen = settings.session.profile
    default = chosen if chosen in {p.name for p in profiles} else profiles[0].name
    if len(profiles) > 1 and AUTO not in {p.name for p in profiles}:
        limits = {"data-max-bc-num-hours": max(_hours_max(p, settings) for p in profiles)}
        if gpus_too:
            limits["data-max-gpus"] = max(_gpus_max(p, settings) for p in profiles)
        options.insert(0, ["Choose for me: the first that the model fits on", AUTO, limits])
        default = AUTO
    return {
        "widget": "select", "label": "Hardware", "required": True, "value": default, "options": options,
    }  # fmt: skip


def _hardware(profile: Profile, settings: Settings, *, cluster_too: bool, gpus_too: bool) -> list[Any]:
    size = [f"cluster {profile.cluster}"] if cluster_too else []
    nodes = f"{profile.nodes} nodes, each " if profile.nodes > 1 else ""
    if profile.gpus:
        most = _gpus_max(profile, settings)
        count = f"{profile.gpus} to {most}" if most > profile.gpus else str(profile.gpus)
        memory = f"{profile.gpu_memory_gb:g} GB" if profile.gpu_memory_gb else ""
        kind = " ".join(filter(None, (profile.gpu_type, memory))) or "GPU"
        size.append(f"{nodes}{count} × {kind}")
        nodes = ""
    if profile.cpus:
        size.append(f"{nodes}{profile.cpus} cores")
    if profile.memory_gb and not profile.gpus:
        size.append(f"{profile.memory_gb:g} GB")
    hours = settings.limits.hours
    size.append(f"up to {min(profile.hours_max, hours or profile.hours_max):g} h")
    label = f"{plain(profile.description) or profile.name} ({plain(', '.join(size))})"
    # On every option, because a limit stays until another option says one.
    data: dict[str, Any] = {"data-max-bc-num-hours": _hours_max(profile, settings)}
    if gpus_too:
        data["data-max-gpus"] = max(1, _gpus_max(profile, settings))
    return [label, profile.name, data | _elsewhere(profile, settings.clusters)]


def _elsewhere(profile: Profile, clusters: Mapping[str, Cluster]) -> dict[str, bool]:
    others = (c for c in clusters.values() if c.name != profile.cluster and c.scheduler == "slurm")
    ends = (directive(ood) for cluster in others for ood in cluster.ondemand or (cluster.name,))
    return {f"data-option-for-cluster-{end}": False for end in ends if end}


def _hours(profiles: Sequence[Profile], settings: Settings) -> dict[str, Any]:
    chosen = next((p for p in profiles if p.name == settings.session.profile), profiles[0])
    wanted = chosen.hours if chosen.hours is not None else settings.session.hours
    return {
        "widget": "number_field", "label": "Hours", "required": True, "min": 1, "step": 1,
        "max": max(_hours_max(p, settings) for p in profiles),
        "value": str(max(1, min(int(wanted), _hours_max(chosen, settings)))),
        "help": "The session ends after this time, and earlier when nobody uses it.",
    }  # fmt: skip


def _advanced(settings: Settings, profiles: Sequence[Profile]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.allow.models == "any":
        found["custom_model"] = _text("Another model", f"{_ANY} It takes the place of *Model*.")
    found["revision"] = _text("Revision", "A branch, a tag or a commit; empty for the usual one.")
    if any(p.gpus_max for p in profiles):
        most = max(_gpus_max(p, settings) for p in profiles)
        found["gpus"] = _number("GPUs", 1, most, "On one node; empty for as many as the model needs.")
    found["context_length"] = _number(
        "Context length", 1, _CONTEXT_MAX,
        "In tokens; empty for the model's own, or the longest that the hardware has room for.",
    )  # fmt: skip
    found["account"] = _account(profiles)
    if (qos := _choices("QoS", profiles, lambda p: p.qos_choices, lambda p: True)) is not None:
        found["qos"] = qos
    found["idle_minutes"] = _idle(settings)
    if settings.allow.engine_args:
        found["engine_args"] = _text("Engine arguments", "For example `--max-num-seqs 16`.")
    if settings.allow.trust_remote_code:
        found["trust_remote_code"] = _box("Run Python code that comes with the model")
    found["try_anyway"] = _box("Start it even if it does not seem to fit")
    return found


def _account(profiles: Sequence[Profile]) -> dict[str, Any]:
    listed = _choices("Account", profiles, lambda p: p.accounts, lambda p: not p.account_required)
    if listed is not None and all(p.accounts or p.account for p in profiles):
        return listed
    needed = [plain(p.description, 40) or p.name for p in profiles if p.account_required and not p.account]
    help_ = "The Slurm account to charge; empty for your default one."
    if needed:
        help_ = "The Slurm account to charge; some of the hardware needs one."
    return _text("Account", help_)


def _choices(label: str, profiles: Sequence[Profile], of: Any, free: Any) -> dict[str, Any] | None:
    """A list of all that some profile offers, each hidden where the chosen profile does not offer it."""
    words = list(dict.fromkeys(word for p in profiles for word in of(p)))
    if not words:
        return None
    usual = ["The usual one", "", _hidden(p for p in profiles if not free(p))]
    offers = [
        [plain(word), word, _hidden(p for p in profiles if of(p) and word not in of(p))] for word in words
    ]
    return {
        "widget": "select",
        "label": label,
        "options": [usual, *offers] if any(map(free, profiles)) else offers,
    }


def _hidden(profiles: Any) -> dict[str, bool]:
    ends = (directive(profile.name) for profile in profiles)
    return {f"data-option-for-profile-{end}": False for end in ends if end}


def _idle(settings: Settings) -> dict[str, Any]:
    limit = int(settings.session.idle_minutes)
    field = {
        "widget": "number_field", "label": "Stop when unused for (minutes)", "min": 0, "step": 1,
        "value": str(limit), "help": "0: never.",
    }  # fmt: skip
    if limit and settings.locked("session.idle_minutes"):
        field |= {"min": 1, "max": limit, "help": f"At most {limit}."}
    return field


def _text(label: str, help_: str) -> dict[str, Any]:
    return {"widget": "text_field", "label": label, "value": "", "help": help_}


def _number(label: str, least: int, most: int, help_: str) -> dict[str, Any]:
    return {
        "widget": "number_field",
        "label": label,
        "min": least,
        "max": most,
        "step": 1,
        "value": "",
        "help": help_,
    }


def _box(label: str) -> dict[str, Any]:
    return {"widget": "check_box", "label": label, "value": "0"}


def _hours_max(profile: Profile, settings: Settings) -> int:
    # Whole hours, at least one; `launcher.ondemand.plan` knows that an hour may be more than there is.
    return max(1, int(min(profile.hours_max, settings.limits.hours or profile.hours_max)))


def _gpus_max(profile: Profile, settings: Settings) -> int:
    most = max(profile.gpus_max or 0, profile.gpus)
    return most if settings.limits.gpus is None else max(profile.gpus, min(most, settings.limits.gpus))
