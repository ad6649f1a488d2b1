"""The settings of a test that wants no others: this machine without a site, and folders of the test's own."""

from __future__ import annotations

import os
from pathlib import Path


def without_site(folder: Path) -> dict[str, str]:
    """Environment variables for the launcher: sessions and caches below `folder`, on loopback and without the page."""
    return {
        "LAUNCHER_SITE": os.devnull,
        "LAUNCHER_CONFIG": os.devnull,
        "LAUNCHER_PLACES__SESSIONS": str(folder / "sessions"),
        "LAUNCHER_PLACES__CACHE": str(folder / "cache"),
        "LAUNCHER_NETWORK__BIND": "127.0.0.1",
        "LAUNCHER_SESSION__PAGE": "false",
    }
