"""The form: which fields Open OnDemand shows, made from the settings. `form.yml.erb` pastes it as it is.

JSON is good YAML, and needs no aliases, which OOD refuses (facts: `YAML.safe_load` in app.rb). Select options are
texts: OOD raises for numbers. The limits here are a convenience; `launcher plan` checks everything again.
"""

from __future__ import annotations

import re
from typing import Any

from launcher.api import Launcher
from launcher.errors import LauncherError
from launcher.settings.schema import CatalogModel, Profile, Settings

_ADVANCED = ("custom_model", "revision", "account", "idle_minutes", "engine_args")


def offer(launcher: Launcher) -> dict[str, Any]:
    """OOD's form as plain data; where the settings are broken, a form without fields that says so."""
    try:
        settings = launcher.settings
    except LauncherError as error:
        return _closed(str(error))
    clusters = {name: c for name, c in settings.clusters.items() if c.scheduler == "slurm"}
    profiles = [p for p in settings.profiles.values() if p.cluster in clusters]
    models = [m for m in settings.catalog.values() if not m.hidden]
    if not profiles:
        return _closed("The site's site.yml describes no profile on a Slurm cluster.")
    form = ["model", "profile", "bc_num_hours", "advanced", *_ADVANCED]
    if not settings.allow.engine_args:
        form.remove("engine_args")
    if settings.allow.models == "catalog":
        form.remove("custom_model")
    fields = _fields(settings, models, profiles)
    return {
        "cluster": [ood for c in clusters.values() for ood in (c.ondemand or (c.name,))],
        "form": form,
        "attributes": {name: fields[name] for name in form},
    }


def _closed(reason: str) -> dict[str, Any]:
    shown = re.sub(r"([\\`*_{}\[\]<>()#+!|-])", r"\\\1", reason)  # the header is Markdown
    return {
        "cluster": "*",
        "form": [],
        "form_header": f"**This app is not ready.** {shown} Please tell the site's staff.",
    }


def _fields(settings: Settings, models: list[CatalogModel], profiles: list[Profile]) -> dict[str, Any]:
    hours_max = max(p.hours_max for p in profiles)
    default = next((p for p in profiles if p.name == settings.session.profile), profiles[0])
    hours = default.hours if default.hours is not None else min(settings.session.hours, default.hours_max)
    return {
        "model": {
            "widget": "select", "label": "Model", "required": True,
            "help": "What will answer. Another one can be named under *More options*.",
            "options": [_model(m, profiles) for m in models],
        },
        "profile": {
            "widget": "select", "label": "Hardware", "required": True, "value": default.name,
            "options": [_profile(p, settings) for p in profiles],
        },
        "bc_num_hours": {
            "widget": "number_field", "label": "Hours", "required": True, "min": 1, "step": 1,
            "max": max(1, int(hours_max)), "value": max(1, int(hours)),
            "help": "The session ends after this time, and earlier when nobody uses it.",
        },
        "advanced": {
            "widget": "check_box", "label": "More options",
            "html_options": {"data": {f"hide-{n.replace('_', '-')}-when-unchecked": True for n in _ADVANCED}},
        },
        "custom_model": {
            "widget": "text_field", "label": "Another model", "value": "",
            "help": "An id such as `org/name`, or the path of a folder on the cluster; it takes the place of *Model*.",
        },
        "revision": {"widget": "text_field", "label": "Revision", "value": "",
                     "help": "A branch, a tag or a commit; empty for the usual one."},
        "account": {"widget": "text_field", "label": "Account", "value": "",
                    "help": "The Slurm account to charge; empty for your default one."},
        "idle_minutes": {
            "widget": "number_field", "label": "Stop when unused for (minutes)", "min": 0, "step": 1,
            "value": int(settings.session.idle_minutes), "help": "0: never.",
        },
        "engine_args": {
            "widget": "text_field", "label": "Engine arguments", "value": "",
            "help": "For example `--max-model-len 16384`.",
        },
    }  # fmt: skip


def _model(model: CatalogModel, profiles: list[Profile]) -> list[Any]:
    option: list[Any] = [model.title or model.id or model.name, model.name]
    hidden = [p.name for p in profiles if model.profiles and p.name not in model.profiles]
    return (
        [*option, {}]
        if not hidden
        else [*option, {f"data-option-for-profile-{name}": False for name in hidden}]
    )


def _profile(profile: Profile, settings: Settings) -> list[Any]:
    size = []
    if profile.gpus:
        kind = " ".join(
            filter(None, (profile.gpu_type, f"{profile.gpu_memory_gb:g} GB" if profile.gpu_memory_gb else ""))
        )
        size.append(f"{profile.gpus} × {kind or 'GPU'}")
    if profile.cpus:
        size.append(f"{profile.cpus} cores")
    label = profile.description or profile.name
    words = f"{label} ({', '.join([*size, f'up to {profile.hours_max:g} h'])})"
    directives: dict[str, Any] = {"data-max-bc-num-hours": max(1, int(profile.hours_max))}
    for name, cluster in settings.clusters.items():
        if name != profile.cluster and cluster.scheduler == "slurm":
            directives |= {f"data-option-for-cluster-{ood}": False for ood in cluster.ondemand or (name,)}
    return [words, profile.name, directives]
