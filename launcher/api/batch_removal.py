"""Forgetting batch runs: their folders in the state go; input, answers and error file stay, which are their user's.

A run that goes on, or whose job may still begin, is never touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Sequence

from launcher.api.batch_runs import FOLDER, BatchRun, every, find
from launcher.api.launcher import Launcher
from launcher.errors import RequestError, StorageError
from launcher.sessions.clock import span_s

_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.removed")


def chosen(launcher: Launcher, wanted: Sequence[str], older_than: str | None) -> list[BatchRun]:
    """The runs that are meant: those named, or all that go on no more since the span `older_than`.

    Raises RequestError where neither is said or one that is named goes on, SessionError for one that is not there.
    """
    if bool(wanted) == (older_than is not None):
        raise RequestError("Which runs?", "Name them, or say --older-than 30d: either, not both.")
    if older_than is not None:
        before = time.time() - span_s(older_than)
        return [one for one in every(launcher) if _at(one) < before and not one.goes_on]
    found = list({one.id: one for one in (find(launcher, text) for text in wanted)}.values())
    for one in found:
        if one.goes_on:
            raise RequestError(f"Run {one.id} goes on.", f"End it first: launcher batch cancel {one.id}")
    return found


def remove(launcher: Launcher, runs: Sequence[BatchRun]) -> list[str]:
    """Take the folders of `runs` away; the ids of those that are gone. One that was begun meanwhile stays.

    Raises StorageError.
    """
    folder = launcher.folder / FOLDER
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):  # of a removal that was broken off
            if _ASIDE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
    return [one.id for one in runs if _forgotten(one)]


def _forgotten(one: BatchRun) -> bool:
    try:
        return one.forget()
    except FileNotFoundError:  # somebody else was first
        return False
    except OSError as error:
        message = f"{one.run.folder} cannot be removed: {error.strerror}."
        raise StorageError(message, "Mend that, then say it again.") from error


def _at(one: BatchRun) -> float:
    """When something was last said of it."""
    return one.status().updated_at or one.run.spec_path.stat().st_mtime
