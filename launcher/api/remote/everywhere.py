"""The sessions of all clusters whose launcher is reached over ssh, each asked at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.api.remote.far import Far, fars
from launcher.errors import LauncherError, SchedulerError
from launcher.schedulers import ssh

if TYPE_CHECKING:
    from launcher.settings.schema import Settings

_ANSWER_S, _WORK_S = 60.0, 600.0  # of several at once, and of one that may have to look at a model


@dataclass(frozen=True, slots=True)
class Seen:
    """What one cluster said: its sessions as `launcher status --json` has them, or why it said nothing."""

    cluster: str
    sessions: tuple[dict[str, Any], ...] = ()
    trouble: str | None = None


def everywhere(settings: Settings, *words: str) -> list[Seen]:
    """The sessions of every cluster with a launcher of its own, in the order of the settings; `words` are of `status`.

    Nothing is asked on the terminal: of several hosts at once, nobody would know which one asks.
    """
    found = fars(settings)
    if not found:
        return []
    with ThreadPoolExecutor(min(16, len(found))) as pool:
        return list(pool.map(lambda far: _seen(far, words), found))


def _seen(far: Far, words: Sequence[str]) -> Seen:
    try:
        sessions = said_there(far, "status", *words, "--json", ask=False).get("sessions")
        if not isinstance(sessions, list) or not all(isinstance(one, dict) for one in sessions):
            raise far.strange()
        return Seen(far.cluster, tuple(sessions))
    except LauncherError as error:
        return Seen(far.cluster, trouble=str(error))


def said_there(far: Far, *words: str, ask: bool = True) -> dict[str, Any]:
    """The JSON of a command there, which has the option --json; raises the error that it tells."""
    if ask:
        far.connect()
    else:
        ssh.open_master(far.host, ask=False)
    argv, answer_s = far.command(*words), _WORK_S if ask else _ANSWER_S
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=answer_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SchedulerError(
            f"{far.cluster} did not answer within {answer_s:g} s.", "Try again later."
        ) from None
    if ask:
        sys.stderr.write(done.stderr)
    # What a shell's start-up files print comes before it.
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            try:
                said: dict[str, Any] = json.loads(line)
            except (ValueError, RecursionError):
                if done.returncode == ssh.SSH_FAILED:  # the connection broke in the middle of it
                    break
                raise far.strange() from None
            if isinstance(said.get("error"), dict):
                from launcher.api.remote.values import unpacked_error

                raise unpacked_error(said["error"])
            return said
    raise far.trouble(done.returncode, done.stderr, begun=True)
