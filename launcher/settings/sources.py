"""Which files the settings come from, on this machine and for this user."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def site_file(variables: Mapping[str, str]) -> Path | None:
    """The site's file: $LAUNCHER_SITE, else `site.yml` beside the launcher's venv, else /etc/launcher/site.yml."""
    if named := variables.get("LAUNCHER_SITE"):
        return Path(named)
    for folder in (Path(sys.prefix).parent, Path("/etc/launcher")):
        if os.path.isfile(path := folder / "site.yml"):  # unlike Path's, it has no error of its own
            # An install links to it from each release; errors should name the one to edit.
            return path.resolve()
    return None


def user_file(variables: Mapping[str, str]) -> Path | None:
    """The user's file: $LAUNCHER_CONFIG, else launcher/config.yml in the user's configuration folder."""
    if named := variables.get("LAUNCHER_CONFIG"):
        return Path(named)
    return path if os.path.isfile(path := usual_user_file(variables)) else None


def usual_user_file(variables: Mapping[str, str]) -> Path:
    """Where the user's file is when no variable names another, whether it is there or not."""
    home = variables.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home, "launcher", "config.yml")
