"""The further keys of a session, for other people or programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from launcher.errors import SessionError
from launcher.sessions import keys
from launcher.sessions.clock import span_s
from launcher.sessions.keys import NamedKey

if TYPE_CHECKING:
    from launcher.api.session import Session


class FurtherKeys:
    """The further keys of a session, for other people or programs; iterating gives what is known of each.

    A change works at once, without a restart, and outlives one. Only hashes are kept.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __iter__(self) -> Iterator[NamedKey]:
        return iter(keys.read(self._session.paths.further_keys))

    def new(
        self,
        name: str,
        *,
        expires: str | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> tuple[NamedKey, str]:
        """Make a key called `name` and return it with its secret, which cannot be had again.

        `expires` is a span such as 90m, 12h, 3d or 2w; None is as long as the session. Raises RequestError for a value
        that cannot be or a name that is taken, and SessionError when the session is over.
        """
        lifetime_s = None if expires is None else span_s(expires)
        status = self._session.status()
        if status.ended:
            raise SessionError(
                f"Session {self._session.id} is over. {status.message}",
                "Make keys for one that runs or waits.",
            )
        return keys.new(
            self._session.paths,
            name,
            lifetime_s=lifetime_s,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )

    def revoke(self, name: str) -> NamedKey:
        """Take the key called `name` away; requests with it are refused from then on."""
        return keys.revoke(self._session.paths, name)
