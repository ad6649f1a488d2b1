"""The form that Open OnDemand shows and `form.yml.erb` pastes: from the settings, the models on this disk, and Slurm.

What costs time (does each model fit each profile) is remembered until settings or models change. JSON is good YAML,
and needs no aliases, which OOD refuses (facts: `YAML.safe_load` in app.rb).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
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

_SCHEMA = 3
# form.yml.erb waits for ten seconds in all. What was not read, or not weighed, in so long comes without its size or
# its limits, and with them the next time.
_PATIENCE_S = 3.0
_REMEMBERED_MAX = 50_000_000  # bytes; the form of 2000 models on 20 profiles takes 1 MB
_NOTICE = {"widget": "hidden_field", "value": ""}


def offer(launcher: Launcher) -> dict[str, Any]:
    """OOD's form as plain data; where the settings are broken, a form without fields that says so."""
    try:
        settings = launcher.settings
    except LauncherError as error:
        return closed(str(error))
    clusters = {c.name: c for c in settings.clusters.values() if c.in_form}
    profiles = [p for p in settings.profiles.values() if p.cluster in clusters]
    if not profiles:
        return closed("The site's site.yml describes no profile on a Slurm cluster.")
    form = _remembered(settings, profiles)
    shown = form["attributes"]
    if settings.form.live and "profile" in shown:
        from launcher.ondemand.free import free_now

        used = {profile.cluster for profile in profiles}
        _add_free(shown["profile"], free_now([clusters[name] for name in used], profiles))
    return form


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
    cache = Path(settings.places.cache)
    file = cache / "form.json"
    key = _key(settings, found)
    seen = _read(file) if _is_own(cache) else {}
    if seen.get("key") == key and isinstance(seen.get("form"), dict):
        return dict(seen["form"])
    # What weighs models is loaded only here: most forms are remembered.
    from launcher.ondemand.fields import fields, usual_profile
    from launcher.ondemand.offered import offered
    from launcher.ondemand.weighed import Weighing
    from launcher.planning.limits import within

    given = [allowed for p in profiles if (allowed := within(p, settings)) is not None]
    if not given:
        return closed("The site's limits allow fewer GPUs for one session than any of its profiles has.")
    weighed = seen.get("weighed")
    weighing = Weighing(
        settings, given, weighed if isinstance(weighed, dict) else {}, time.monotonic() + _PATIENCE_S
    )
    attributes = fields(settings, given, offered(settings, given, _copies(found), weighing))
    if not {"model", "custom_model"} & attributes.keys():
        return closed("No model can be chosen: site.yml offers none, and hides the field for another one.")
    # OOD opens the form on the first cluster.
    names = dict.fromkeys([usual_profile(settings, given).cluster, *(p.cluster for p in given)])
    used = [settings.clusters[name] for name in names]
    made = {
        "cluster": [ood for cluster in used for ood in cluster.ondemand or (cluster.name,)],
        "form": list(attributes),
        "attributes": attributes,
    }
    # A full home makes the next form slower, and nothing else; what was not finished goes on next time.
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept_for = key if weighing.complete else None
        text = json.dumps({"key": kept_for, "form": made, "weighed": weighing.memory})
        if _is_own(cache):
            write_private(file, text, durable=False)
    return made


def _is_own(cache: Path) -> bool:
    """Whether the folder is this user's: in somebody else's, what is remembered could be anybody's."""
    try:
        return cache.stat().st_uid == os.getuid()
    except OSError:
        return False


def _read(file: Path) -> dict[str, Any]:
    try:
        # Neither a link to elsewhere is followed, nor a FIFO waited for.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
                return {}  # help texts are Markdown, where HTML of somebody else would be believed
            if about.st_size > _REMEMBERED_MAX:
                return {}
            with open(descriptor, "rb", closefd=False) as opened:
                data = json.loads(opened.read(_REMEMBERED_MAX))
        finally:
            os.close(descriptor)
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
            folder = Path(entry.path).expanduser()
            digest.update(_stamp(folder) + _stamp(folder / "config.json"))
    for place in _installed(settings):
        digest.update(_stamp(place))
    seen = [(k.id, k.at, k.refs, k.bytes, k.modified_at, k.trouble, k.about) for k in found]
    digest.update(repr(seen).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _installed(settings: Settings) -> Iterator[Path]:
    """What changes when Whisper's engine is installed: a model that could not be launched for want of it may be now."""
    for environment in settings.environments.values():
        own = environment.kind == "venv" and environment.path is None
        if not own and "whisper" not in environment.engines:
            continue
        if environment.kind == "venv":
            folder = Path(environment.path or sys.prefix).expanduser()
            yield from sorted(folder.glob("lib*/python3*/site-packages"))
        elif environment.image:
            yield Path(environment.image)


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
