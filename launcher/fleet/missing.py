"""Rows of the state whose session is not to be seen: for how long, and when that means that it never was.

A claim that nobody works at is free after `_UNPLANNED_S`. A session that is not to be seen, or has no job,
`_UNSUBMITTED_S` after it was written down was never submitted: a network's file system may show it a minute late, and
the sbatch of a gateway that was killed may still wait for its controller.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Container, Mapping

from launcher.fleet.replicas import Member
from launcher.fleet.sight import Sighted, Source
from launcher.sessions.status import PENDING

_LOG = logging.getLogger("launcher.fleet")
_UNPLANNED_S, _UNSUBMITTED_S = 10.0, 120.0


class Missing:
    """What `gateway` misses; `launching` are the slots, by model and number, that it is starting just now."""

    def __init__(
        self, gateway: str, sources: Mapping[str, Source], launching: Container[tuple[str, int]]
    ) -> None:
        self._gateway, self._sources, self._launching = gateway, sources, launching
        self._since: dict[str, float] = {}

    def never_was(self, member: Member) -> bool:
        """Whether the row of `member` has no session for good; only ever of one that this gateway looks after."""
        row, sighted = member.row, member.sighted
        source = self._sources.get(row.cluster)
        mine = row.gateway == self._gateway and (row.model, row.slot) not in self._launching
        unsubmitted = (
            sighted is not None and sighted.status.job_id is None and sighted.status.state == PENDING
        )
        if not mine or (sighted is not None and not unsubmitted):
            self._since.pop(member.id, None)
            return False
        if row.session is not None and source is not None and source.over(row.session):
            return True
        now = time.time()
        if source is not None and source.trouble is not None:  # its job may be there all the same
            self._since[member.id] = now
            return False
        since = self._since.setdefault(member.id, now)
        limit_s = _UNPLANNED_S if row.session is None else _UNSUBMITTED_S
        if source is not None and source.looked_at - since < limit_s:
            source.soon()
            return False
        if now - since < limit_s:
            return False
        del self._since[member.id]
        if row.session is not None and source is None:
            _LOG.warning(
                "%s: session %s is on %s, which the settings no longer have: it ends by itself",
                *(row.model, row.session, row.cluster),
            )
        return True


def forget(sighted: Sighted) -> None:
    """Remove a session that was never submitted: nobody shall see it wait, and a late job finds nothing to run."""
    _LOG.info("session %s was never submitted", sighted.id)
    shutil.rmtree(sighted.session.paths.root, ignore_errors=True)
