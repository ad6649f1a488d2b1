"""A folder or a file as a setting names it: for each user another one, and the same wherever it is read.

Owns `~`, variables, and the rule that the rest begins at the root: the portal, a login node and a job each start in a
folder of their own, so that a relative path would name three places.
"""

from __future__ import annotations

import os
import pwd
import re
from typing import Any

_VARIABLE = re.compile(r"\$(\w+|\{[^{}]*\})", re.ASCII)  # as os.path.expandvars sees them
# Open OnDemand's processes and cron jobs may lack these, though everybody knows the answer.
_ALWAYS = ("USER", "LOGNAME", "HOME")


def expanded(value: Any) -> Any:
    """`value`, or each item of it, with `~` and the variables that are set replaced; whatever is no text as it is."""
    if isinstance(value, list):
        return [expanded(item) for item in value]
    if not isinstance(value, str):
        return value
    return os.path.expanduser(_VARIABLE.sub(lambda found: _value(found[1].strip("{}")) or found[0], value))


def unset(path: str) -> str | None:
    """The first variable that an expanded `path` still names, as it stands there."""
    found = _VARIABLE.search(path)
    return found[0] if found else None


def is_absolute(path: str, also: str | None = None) -> bool:
    """Whether an expanded `path` begins at the root, or matches the pattern `also`."""
    return path.startswith("/") or (also is not None and re.fullmatch(also, path) is not None)


def _value(name: str) -> str | None:
    found = os.environ.get(name)
    if found is None and name in _ALWAYS:
        try:
            account = pwd.getpwuid(os.getuid())
        except KeyError:  # a container without this user
            return None
        return account.pw_dir if name == "HOME" else account.pw_name
    return found
