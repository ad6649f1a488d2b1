"""A mistake of ours in the middle of a request: the log has it, and whoever asked gets an answer all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable

_LOG = logging.getLogger("launcher.gateway")


def went_well(call: Callable[[], object]) -> bool:
    """Whether `call` raised nothing; the log has what it raised."""
    try:
        call()
    except Exception:
        _LOG.exception("a request could not be seen to")
        return False
    return True
