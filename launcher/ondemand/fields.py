"""The form's fields as OOD's plain data: labels, limits, and the directives that hide what does not belong together.

Option values are texts: OOD raises for numbers. Directives (`data-…`) work only where the site has `bc_dynamic_js`,
form.js only where it allows scripts; nothing here relies on them, since `launcher plan` checks everything again. A
field that a directive hides is posted all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from launcher.ondemand.offered import SPEECH, Offered
from launcher.ondemand.plain import directive, plain
from launcher.planning.limits import needs_account
from launcher.planning.times import hours_by_default
from launcher.settings.schema import Cluster, Profile, Settings

_FIRST = (
    "*Choose for me* goes through this list from the top and takes the first that the model fits on and that gives "
    "the hours and GPUs asked for; a processor only where no GPU does."
)
AUTO = "auto"  # the hardware that the launcher chooses; a directive cannot speak of an empty value
# Fields that an engine has no use for: form.js hides them, `launcher plan` leaves out what they say. Of GPUs a Whisper
# session uses one.
UNUSED = {"whisper": ("gpus", "context_length", "trust_remote_code")}


def fields(settings: Settings, profiles: Sequence[Profile], models: Sequence[Offered]) -> dict[str, Any]:
    """Every field that this site's form has, by name and in order; `profiles` as the site's limits leave them."""
    found: dict[str, Any] = {}
    hidden = set(settings.form.hide)
    model = _usual_model(settings, profiles, models)
    if model is not None and "model" not in hidden:
        others = settings.form.more and settings.allow.models == "any" and "custom_model" not in hidden
        found["model"] = _model(models, model, settings, profiles, others=others)
    if "profile" not in hidden:
        found["profile"] = _profile(profiles, settings)
    if "bc_num_hours" not in hidden:
        found["bc_num_hours"] = _hours(profiles, settings, model)
    more = _advanced(settings, profiles, speech=any(model.engine == "whisper" for model in models))
    if any(map(needs_account, profiles)) and "account" not in hidden:
        found["account"] = more.pop("account")
    if not models and "custom_model" in more:
        found = {"custom_model": {**more.pop("custom_model"), "label": "Model", "help": _ANY}} | found
    more = {name: field for name, field in more.items() if name not in hidden}
    if not settings.form.more:
        return found
    if more and "advanced" not in hidden:
        data = {f"hide-{name.replace('_', '-')}-when-unchecked": True for name in more}
        found["advanced"] = {"widget": "check_box", "label": "More options", "html_options": {"data": data}}
    return found | more


def usual_profile(settings: Settings, profiles: Sequence[Profile]) -> Profile:
    """The one of `profiles` that comes first where nobody chooses."""
    chosen = settings.session.profile
    return next((profile for profile in profiles if profile.name == chosen), profiles[0])


def _usual_model(
    settings: Settings, profiles: Sequence[Profile], models: Sequence[Offered]
) -> Offered | None:
    """The first that a launch could take as the form opens."""
    cluster = usual_profile(settings, profiles).cluster
    here = _giving_an_hour([p for p in profiles if p.cluster == cluster])
    ready = (m for m in models if m.ready and any(p.name not in m.unfit for p in here))
    return next(ready, models[0] if models else None)


def _giving_an_hour(profiles: Sequence[Profile]) -> list[Profile]:
    # A whole hour is the form's least; less is given only where no profile gives as much.
    return [p for p in profiles if p.hours_max >= 1] or list(profiles)


_ANY = "An id such as `org/name`, or the path of a folder on the cluster."


def _model(
    models: Sequence[Offered],
    usual: Offered,
    settings: Settings,
    profiles: Sequence[Profile],
    *,
    others: bool,
) -> dict[str, Any]:
    groups: dict[str, list[Any]] = {}
    clusters = {p.cluster: {q.name for q in profiles if q.cluster == p.cluster} for p in profiles}
    for model in models:
        ends = filter(None, map(directive, model.unfit))
        data: dict[str, Any] = {f"data-option-for-profile-{end}": False for end in ends}
        unfit = set(model.unfit)
        for name in (name for name, theirs in clusters.items() if theirs <= unfit):
            data |= _not_on(settings.clusters[name])
        if model.engine in UNUSED:
            data["data-without"] = " ".join(UNUSED[model.engine])
        groups.setdefault(model.group, []).append([model.label, model.value, data])
    # Rails makes optgroups of pairs whose second part is a list.
    lines = [[name, options] for name, options in groups.items()]
    help_ = ["What will answer."]
    if SPEECH in groups:
        help_.append(f"Models under *{SPEECH}* write down what is said in recordings.")
    if others:
        help_.append("Another one can be named under *More options*.")
    return {
        "widget": "select", "label": "Model", "required": True, "value": usual.value,
        "options": lines if len(lines) > 1 else lines[0][1],
        "help": " ".join(help_),
    }  # fmt: skip


def _profile(profiles: Sequence[Profile], settings: Settings) -> dict[str, Any]:
    clusters = {p.cluster for p in profiles}
    gpus_too = any(p.gpus_max for p in profiles)
    options = [_hardware(p, settings, cluster_too=len(clusters) > 1, gpus_too=gpus_too) for p in profiles]
    field = {
        "widget": "select", "label": "Hardware", "required": True, "value": usual_profile(settings, profiles).name,
        "options": options,
    }  # fmt: skip
    if len(profiles) > 1 and AUTO not in {p.name for p in profiles}:
        limits = {"data-max-bc-num-hours": max(map(_hours_max, profiles))}
        if gpus_too:
            limits["data-max-gpus"] = max(map(_gpus_max, profiles))
        options.insert(0, ["Choose for me", AUTO, limits])
        field |= {"value": AUTO, "help": _FIRST}
    return field


def _hardware(profile: Profile, settings: Settings, *, cluster_too: bool, gpus_too: bool) -> list[Any]:
    size = [f"cluster {profile.cluster}"] if cluster_too else []
    nodes = f"{profile.nodes} nodes, each " if profile.nodes > 1 else ""
    if profile.gpus:
        most = _gpus_max(profile)
        count = f"{profile.gpus} to {most}" if most > profile.gpus else str(profile.gpus)
        memory = f"{profile.gpu_memory_gb:g} GB" if profile.gpu_memory_gb else ""
        kind = " ".join(filter(None, (profile.gpu_type, memory))) or "GPU"
        size.append(f"{nodes}{count} × {kind}")
        nodes = ""
    if profile.cpus:
        size.append(f"{nodes}{profile.cpus} core{'s' * (profile.cpus != 1)}")
    if profile.memory_gb and not profile.gpus:
        size.append(f"{profile.memory_gb:g} GB")
    size.append(f"up to {profile.hours_max:g} h")
    label = f"{plain(profile.description) or profile.name} ({plain(', '.join(size))})"
    # On every option, because a limit stays until another option says one.
    data: dict[str, Any] = {"data-max-bc-num-hours": _hours_max(profile)}
    if gpus_too:
        data["data-max-gpus"] = _gpus_max(profile)
    return [label, profile.name, data | _elsewhere(profile, settings.clusters)]


def _elsewhere(profile: Profile, clusters: Mapping[str, Cluster]) -> dict[str, bool]:
    others = (c for c in clusters.values() if c.name != profile.cluster and c.in_form)
    return {key: False for cluster in others for key in _not_on(cluster)}


def _not_on(cluster: Cluster) -> dict[str, bool]:
    ends = map(directive, cluster.ondemand or (cluster.name,))
    return {f"data-option-for-cluster-{end}": False for end in ends if end}


def _hours(profiles: Sequence[Profile], settings: Settings, model: Offered | None) -> dict[str, Any]:
    hours = hours_by_default(usual_profile(settings, profiles), settings)
    fitting = [p for p in profiles if model is None or p.name not in model.unfit]
    # Whichever cluster is chosen, some hardware of it gives so many.
    for cluster in {p.cluster for p in fitting}:
        there = _giving_an_hour([p for p in fitting if p.cluster == cluster])
        hours = min(hours, max(p.hours_max for p in there))
    return {
        "widget": "number_field", "label": "Hours", "required": True, "min": 1, "step": 1,
        "max": max(map(_hours_max, profiles)), "value": str(max(1, int(hours))),
        "help": "The session ends after this time, and earlier when nobody uses it.",
    }  # fmt: skip


def _advanced(settings: Settings, profiles: Sequence[Profile], *, speech: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if settings.allow.models == "any":
        found["custom_model"] = _text("Another model", f"{_ANY} It takes the place of *Model*.")
    found["revision"] = _text("Revision", "A branch, a tag or a commit; empty for the usual one.")
    if any(p.gpus_max for p in profiles):
        most = max(map(_gpus_max, profiles))
        where = "On each node" if any(p.nodes > 1 for p in profiles) else "On one node"
        found["gpus"] = _number("GPUs", 1, most, f"{where}; empty for as many as the model needs.")
    # A text field: a number field would take neither 32k nor 32,768.
    found["context_length"] = _text(
        "Context length",
        "In tokens, such as `32768` or `32k`; empty for the model's own, or the longest that there is room for.",
    )
    found["account"] = _account(settings, profiles)
    if (qos := _choices("QoS", profiles, lambda p: p.qos_choices, lambda p: True)) is not None:
        found["qos"] = qos
    found["idle_minutes"] = _idle(settings)
    if settings.allow.engine_args:
        example = "For example `--max-num-seqs 16`"
        found["engine_args"] = _text(
            "Engine arguments",
            f"{example}; for a Whisper model `--beam-size 1`." if speech else f"{example}.",
        )
    if settings.allow.trust_remote_code:
        found["trust_remote_code"] = _box("Run Python code that comes with the model")
    found["try_anyway"] = _box("Start it even if it does not seem to fit")
    return found


def _account(settings: Settings, profiles: Sequence[Profile]) -> dict[str, Any]:
    listed = _choices("Account", profiles, lambda p: p.accounts, lambda p: not needs_account(p))
    if listed is not None and all(p.accounts or p.account for p in profiles):
        first = usual_profile(settings, profiles)
        if needs_account(first):
            anywhere = (a for a in first.accounts if all(a in p.accounts for p in profiles if p.accounts))
            listed["value"] = next(anywhere, first.accounts[0])
        return listed
    if all(map(needs_account, profiles)):
        return _text("Account", "The Slurm account to charge.") | {"required": True}
    some = any(map(needs_account, profiles))
    return _text(
        "Account",
        "The Slurm account to charge; "
        + ("some of the hardware needs one." if some else "empty for your default one."),
    )


def _choices(
    label: str,
    profiles: Sequence[Profile],
    of: Callable[[Profile], Sequence[str]],
    free: Callable[[Profile], bool],
) -> dict[str, Any] | None:
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


def _hidden(profiles: Iterable[Profile]) -> dict[str, bool]:
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


def _gpus_max(profile: Profile) -> int:
    return max(profile.gpus_max or 0, profile.gpus, 1)


def _hours_max(profile: Profile) -> int:
    # Whole hours, at least one; `launcher.ondemand.plan` knows that an hour may be more than there is.
    return max(1, int(profile.hours_max))
