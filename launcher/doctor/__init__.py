"""Whether this site can work: settings, Slurm, folders, environments and the app, looked at one by one.

For a site's staff; `launcher doctor` prints it. It changes nothing; `doctor.job` runs one session and takes it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.doctor.catalog import check_catalog
from launcher.doctor.checks import OK, Check, fail, ok, warn
from launcher.doctor.cluster import check_clusters
from launcher.doctor.endpoint import check_endpoint
from launcher.doctor.folders import check_model_folders
from launcher.doctor.places import (
    check_app,
    check_environments,
    check_form,
    check_install,
    check_sessions,
)
from launcher.doctor.portal import check_cluster_ids
from launcher.doctor.readable import check_readable
from launcher.errors import LauncherError
from launcher.settings.layers import load, mistakes
from launcher.settings.schema import Settings

__all__ = ["Check", "examine"]


def examine(say: Callable[[Check], None], app: Path | None = None) -> Settings | None:
    """Tell `say` of each thing looked at, as soon as it is known; the settings, or None when they cannot be read."""
    found = mistakes()
    for error in found:
        say(fail("settings", error.message, error.hint or "See docs/site.md."))
    if found:
        return None
    try:
        settings = load()
    except LauncherError as error:  # changed under our eyes
        say(fail("settings", error.message, error.hint or "See docs/site.md."))
        return None
    for check in _looked_at(settings, app):
        say(check)
    return settings


def _looked_at(settings: Settings, app: Path | None) -> Iterator[Check]:
    if settings.site is None:
        fix = "Propose one with launcher doctor --write site.yml, and put it beside the launcher's venv."
        yield warn("settings", "There is no site.yml: only this machine is known.", fix)
    else:
        found = check_readable("settings", Path(settings.site))
        says = f"{settings.site} can be read, and nothing in it is wrong."
        yield ok("settings", says) if found.verdict == OK else found
    yield from check_install(settings)
    yield from check_clusters(settings)
    yield check_sessions(settings)
    yield from check_model_folders(settings)
    yield from check_environments(settings)
    yield from check_catalog(settings)
    yield from check_endpoint(settings)
    yield from check_cluster_ids(settings)
    yield from check_app(app)
    yield from check_form(settings, app)
