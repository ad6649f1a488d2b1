"""Whether this site can work: settings, Slurm, folders, environments and the app, looked at one by one.

For a site's staff; `launcher doctor` prints it. It changes nothing; `doctor.job` runs one session and takes it away.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launcher.doctor.checks import Check, fail, ok, warn
from launcher.doctor.cluster import check_clusters
from launcher.doctor.places import check_app, check_environments, check_folders
from launcher.doctor.portal import check_cluster_ids
from launcher.errors import LauncherError
from launcher.settings.layers import load, mistakes
from launcher.settings.schema import Settings

__all__ = ["Check", "examine"]


def examine(say: Callable[[Check], None], app: Path | None = None) -> Settings | None:
    """Tell `say` of each thing looked at, as soon as it is known; the settings, or None when they cannot be read."""
    found = mistakes()
    for error in found:
        say(fail("settings", error.message, error.hint or "Correct it."))
    if found:
        return None
    try:
        settings = load()
    except LauncherError as error:  # changed under our eyes
        say(fail("settings", error.message, error.hint or "Correct it."))
        return None
    if settings.site is None:
        fix = "Propose one with launcher doctor --write site.yml, and put it beside the launcher's venv."
        say(warn("settings", "There is no site.yml: only this machine is known.", fix))
    else:
        say(ok("settings", f"{settings.site} can be read, and nothing in it is wrong."))
    for part in (
        check_clusters(settings),
        check_folders(settings),
        check_environments(settings),
        check_cluster_ids(settings),
        check_app(app),
    ):
        for check in part:
            say(check)
    return settings
