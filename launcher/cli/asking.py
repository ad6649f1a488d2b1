"""Asking before something is gone: on a terminal, else never."""

from __future__ import annotations

import sys

from launcher.errors import RequestError


def agreed(question: str, *, may_ask: bool) -> bool:
    """Whether the user says yes to `question`; raises RequestError where nobody can be asked."""
    if not may_ask or not sys.stdin.isatty():
        raise RequestError(f"{question[:-1]}: nobody can be asked here.", "Add --yes if that is meant.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
