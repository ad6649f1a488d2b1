"""Run one of the scheduler's programs and turn its trouble into one sentence."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from launcher.errors import SchedulerError

TIMEOUT_S = 60.0
# A user's habits for these programs would win over the script's own lines, or hide jobs from us.
_OVERRIDES = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SLURM_TIME_FORMAT")


def run(argv: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str:
    """The standard output of `argv`; raises SchedulerError when it is missing, slow or unhappy."""
    try:
        done = subprocess.run(  # noqa: S603 - an argument list, no shell
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={name: value for name, value in os.environ.items() if not name.startswith(_OVERRIDES)},
        )
    except FileNotFoundError:
        raise SchedulerError(
            f"There is no program {argv[0]} here.",
            "Run this where Slurm is installed, or use a local profile.",
        ) from None
    except OSError as error:
        raise SchedulerError(f"{argv[0]} cannot be run: {error.strerror}.") from error
    except subprocess.TimeoutExpired:
        raise SchedulerError(
            f"{argv[0]} did not answer within {timeout_s:.0f} s.",
            "The scheduler is busy; try again in a minute.",
        ) from None
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SchedulerError(f"{argv[0]} refused: {words.removeprefix(f'{argv[0]}: error: ')}")
    return done.stdout
