"""The form that Open OnDemand shows and `form.yml.erb` pastes: from the settings, the models on this disk, and Slurm.

What costs time (does each model fit each profile) is remembered until settings or models change. JSON is good YAML,
and needs no aliases, which OOD refuses (facts: `YAML.safe_load` in app.rb).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import launcher as package
from launcher.api import Launcher
from launcher.errors import LauncherError
from launcher.models.index import Kept, kept
from launcher.sessions.paths import write_private
from launcher.settings.schema import Profile, Settings

if TYPE_CHECKING:
    from launcher.ondemand.offered import Copy

_SCHEMA = 1
# form.yml.erb waits for ten seconds in all. What was not read, or not weighed, in so long comes without its size or
# its limits, and with them the next time.
_PATIENCE_S = 3.0
_NOTICE = {"widget": "hidden_field", "value": ""}


def offer(launcher: Launcher) -> dict[str, Any]:
    """OOD's form as plain data; where the settings are broken, a form without fields that says so."""
    try:
        settings = launcher.settings
    except LauncherError as error:
        return closed(str(error))
    clusters = [c for c in settings.clusters.values() if c.scheduler == "slurm"]
    names = {cluster.name for cluster in clusters}
    profiles = [p for p in settings.profiles.values() if p.cluster in names]
    if not profiles:
        return closed("The site's site.yml describes no profile on a Slurm cluster.")
    attributes = _remembered(settings, profiles)
    if not {"model", "custom_model"} & attributes.keys():
        return closed("No model can be chosen: site.yml offers none, and hides the field for another one.")
    used = {profile.cluster for profile in profiles}
    here = [cluster for cluster in clusters if cluster.name in used]
    if settings.form.live and "profile" in attributes:
        from launcher.ondemand.free import free_now

        _add_free(attributes["profile"], free_now(here, profiles))
    return {
        "cluster": [ood for cluster in here for ood in cluster.ondemand or (cluster.name,)],
        "form": list(attributes),
        "attributes": attributes,
    }


def closed(reason: str) -> dict[str, Any]:
    """A form that only says why there is none."""
    from launcher.ondemand.plain import markdown

    # A field that is not fixed: without one the menu's link would launch at once.
    return {
        "cluster": "*",
        "form": ["notice"],
        "attributes": {"notice": dict(_NOTICE)},
        "form_header": f"**This app is not ready.** {markdown(reason)} Please tell the site's staff.",
    }


def _add_free(field: dict[str, Any], free: dict[str, str]) -> None:
    for option in field["options"]:
        if option[1] in free:
            option[0] = f"{option[0].removesuffix(')')}; {free[option[1]]})"


def _remembered(settings: Settings, profiles: Sequence[Profile]) -> dict[str, Any]:
    found = _kept(settings)
    file = Path(settings.places.cache) / "form.json"
    key = _key(settings, found)
    seen = _read(file)
    if seen.get("key") == key and isinstance(seen.get("fields"), dict):
        return dict(seen["fields"])
    # What weighs models is loaded only here: most forms are remembered.
    from launcher.ondemand.fields import fields
    from launcher.ondemand.offered import offered
    from launcher.ondemand.weighed import Weighing

    weighed = seen.get("weighed")
    weighing = Weighing(
        settings, profiles, weighed if isinstance(weighed, dict) else {}, time.monotonic() + _PATIENCE_S
    )
    made = fields(settings, profiles, offered(settings, profiles, _copies(found), weighing))
    # A full home makes the next form slower, and nothing else; what was not finished goes on next time.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept_for = key if weighing.complete else None
        text = json.dumps({"key": kept_for, "fields": made, "weighed": weighing.memory})
        write_private(file, text, durable=False)
    return made


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8") as opened:
            about = os.fstat(opened.fileno())
            if about.st_uid != os.getuid() or about.st_mode & 0o022:
                return {}  # help texts are Markdown, where HTML of somebody else would be believed
            data = json.load(opened)
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _kept(settings: Settings) -> list[Kept]:
    if settings.allow.models == "catalog" and all(e.id is None for e in settings.catalog.values()):
        return []
    try:
        return kept(settings, patience_s=_PATIENCE_S)
    except (LauncherError, OSError):  # the form comes with what the catalog says
        return []


def _key(settings: Settings, found: Sequence[Kept]) -> str:
    digest = hashlib.sha256()
    digest.update(repr((_SCHEMA, package.__version__, settings)).encode("utf-8", "surrogatepass"))
    for entry in settings.catalog.values():
        if entry.path is not None:
            digest.update(_stamp(Path(entry.path).expanduser() / "config.json"))
    seen = [(k.id, k.at, k.refs, k.bytes, k.modified_at, k.trouble, k.about) for k in found]
    digest.update(repr(seen).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _stamp(file: Path) -> bytes:
    try:
        return str(file.stat().st_mtime_ns).encode()
    except OSError:
        return b"-"


def _copies(found: Sequence[Kept]) -> Iterator[Copy]:
    """What `resolve` would take of each repository: the commit of its branch main, or the only one."""
    from launcher.ondemand.offered import Copy

    commits: dict[tuple[Path, str], int] = {}
    for k in found:
        commits[k.folder, k.id] = commits.get((k.folder, k.id), 0) + 1
    for k in found:
        if k.revision is None or "main" in k.refs or commits[k.folder, k.id] == 1:
            yield Copy(k.id, k.path, k.bytes, k.facts, k.trouble)
