"""One cluster of the settings: which class of launcher serves it, and the settings without the others."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from launcher.settings.schema import Settings

if TYPE_CHECKING:
    from launcher.api.launcher import Launcher


def launcher_class(name: str, settings: Settings | None) -> type[Launcher]:
    """`Launcher`, or `RemoteLauncher` where the work is done by a launcher at the other end of an ssh connection.

    Raises RequestError for a cluster that is not in the settings.
    """
    from launcher.api.launcher import Launcher

    found = settings or _load()
    if name not in found.clusters:
        from launcher.planning import unknown

        raise unknown("cluster", name, found.clusters)
    if not found.clusters[name].remote:
        return Launcher
    from launcher.api.remote import RemoteLauncher

    return RemoteLauncher


def only(name: str, settings: Settings | None) -> Settings:
    """The settings with no other cluster than `name`, and the profiles that are on it."""
    found = settings or _load()
    profiles = {key: profile for key, profile in found.profiles.items() if profile.cluster == name}
    usual = found.session.profile if found.session.profile in profiles else None
    return dataclasses.replace(
        found,
        clusters={name: found.clusters[name]},
        profiles=profiles,
        session=dataclasses.replace(found.session, profile=usual),
    )


def elsewhere(settings: Settings, profile: str | None) -> tuple[str, str] | None:
    """The cluster behind ssh that a request on `profile` (None: the usual one) goes to, and the profile; None: here."""
    said = profile or os.environ.get("LAUNCHER_PROFILE")
    name = said or settings.session.profile or next(iter(settings.profiles), "")
    found = settings.profiles.get(name)
    if found is None or not settings.clusters[found.cluster].remote:
        return None
    return found.cluster, name


def _load() -> Settings:
    from launcher.settings.layers import load

    return load()
