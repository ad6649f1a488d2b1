"""Where the endpoint keeps what is its own: its database, and a folder beside the sessions."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import StorageError
from launcher.sessions.ownership import require_own
from launcher.settings.schema import Settings


def state_folder(settings: Settings) -> Path:
    """Where what belongs to the user's endpoint lies beside its database: batches, uses on their way there."""
    return Path(settings.places.sessions).parent / "endpoint"


def own_folder(settings: Settings) -> Path:
    """The same, made where it is not there; raises StorageError where somebody else could change it."""
    folder = state_folder(settings)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_own(folder, "places.sessions")
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder} cannot be written: {error.strerror}.",
            "Set places.sessions to a folder in one of your own.",
        ) from error
    return folder


def store_url(settings: Settings) -> str:
    """The URL of the state: what the settings say, else a file of SQLite in the endpoint's folder."""
    return settings.endpoint.state or f"sqlite:///{state_folder(settings) / 'endpoint.db'}"
