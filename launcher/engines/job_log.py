"""What job.log means: why a job ended before its supervisor could say so, or without one.

Into job.log go the words of the job's shell, of Slurm's steps and of the launcher itself; no request ever reaches it.
"""

from __future__ import annotations

import re

from launcher.engines import Diagnosis
from launcher.engines.causes import one_line, printable, quoted_end, told
from launcher.sessions.status import ENDINGS

_TAIL_LINES = 40  # the log of a job that was run again holds its former lives as well
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<type>[A-Z]\w*(?:Error|Exception))\b:? ?(?P<text>.*)$")
_OWN = "launcher: "


def explain(log: str) -> Diagnosis | None:
    """Why the job ended, as a whole sentence; None where its log tells nothing."""
    lines = printable(log).splitlines()[-_TAIL_LINES:]
    if (found := told("job", "\n".join(lines))) is not None:
        state_known = ENDINGS.get(found.reason)
        message = state_known[1] if state_known else f"The job ended: {found.message}."
        return Diagnosis(found.reason, message, found.hint, found.form_hint, found.quote)
    for line in reversed(lines):
        if line.startswith(_OWN):
            return Diagnosis("job-exit", one_line(line.removeprefix(_OWN)), quote=one_line(line))
        if (error := _EXCEPTION.match(line)) is not None:
            said = one_line(f"{error['type']}: {error['text']}").rstrip(".: ")
            message = f"The launcher itself failed: {said}."
            return Diagnosis(
                "launcher-error", message, "Please report this with job.log.", quote=quoted_end(log)
            )
    return None
