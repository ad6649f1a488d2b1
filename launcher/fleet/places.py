"""Where the endpoint keeps what is its own: its database, and a folder beside the sessions."""

from __future__ import annotations

from pathlib import Path

from launcher.settings.schema import Settings


def state_folder(settings: Settings) -> Path:
    """Where what belongs to the user's endpoint lies beside its database: batches, uses on their way there."""
    return Path(settings.places.sessions).parent / "endpoint"


def store_url(settings: Settings) -> str:
    """The URL of the state: what the settings say, else a file of SQLite in the endpoint's folder."""
    return settings.endpoint.state or f"sqlite:///{state_folder(settings) / 'endpoint.db'}"
