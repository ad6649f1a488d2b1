"""Run one of the scheduler's programs, here or over ssh, and turn its trouble into one sentence."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from launcher.errors import SchedulerError

TIMEOUT_S = 60.0
# For `env`: times in seconds since 1970, whatever the time zone of the host that answers.
EPOCH = {"SLURM_TIME_FORMAT": "%s"}
# A user's habits for these programs would win over the script's own lines, or hide jobs from us.
_OVERRIDES = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SLURM_TIME_FORMAT")
_SSH_FAILED = 255  # ssh(1): its own errors, whatever the remote program would have said
# BatchMode: nobody is there to type a password. -T and -x: a program's output and nothing else.
_SSH = ("ssh", "-T", "-x", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR")


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = TIMEOUT_S,
    ssh: str | None = None,
    env: Mapping[str, str] | None = None,
    errors_too: bool = False,
) -> str:
    """The standard output of `argv` (on the host `ssh` where one is given), with `errors_too` its errors after it.

    `env` is added to the program's environment. Raises SchedulerError when the program is missing, slow or unhappy,
    or the host cannot be reached without a password.
    """
    program, given = argv[0], dict(env or {})
    if ssh is not None:
        argv, given = _over(ssh, argv, given, timeout_s), {}
    try:
        done = subprocess.run(  # noqa: S603 - an argument list, no shell
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={n: v for n, v in os.environ.items() if not n.startswith(_OVERRIDES)} | given,
        )
    except FileNotFoundError:
        raise SchedulerError(
            f"There is no program {argv[0]} here.",
            "Install ssh." if ssh else "Run this where Slurm is installed, or use a local profile.",
        ) from None
    except OSError as error:
        raise SchedulerError(f"{argv[0]} cannot be run: {error.strerror}.") from error
    except subprocess.TimeoutExpired:
        raise SchedulerError(
            f"{program}{f' on {ssh}' if ssh else ''} did not answer within {timeout_s:.3g} s.",
            "The scheduler is busy; try again in a minute.",
        ) from None
    if done.returncode:
        raise _trouble(program, done, ssh)
    return f"{done.stdout}{done.stderr}" if errors_too else done.stdout


def _over(ssh: str, argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> list[str]:
    # sshd gives the words to the user's shell there, which must find each one whole.
    remote = shlex.join(["env", *(f"{name}={value}" for name, value in env.items()), *argv] if env else argv)
    wait_s = max(1, min(15, int(timeout_s)))
    return [*_SSH, "-o", f"ConnectTimeout={wait_s}", "--", ssh, remote]


def _trouble(program: str, done: subprocess.CompletedProcess[str], ssh: str | None) -> SchedulerError:
    words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    if ssh is not None and done.returncode == _SSH_FAILED:
        return SchedulerError(
            f"{ssh} cannot be reached over ssh: {words.removesuffix('.')}.",
            f"`ssh {ssh}` must work without a password or a question: set up a key.",
        )
    if ssh is not None and done.returncode == 127:
        return SchedulerError(f"There is no program {program} on {ssh}.", "Is Slurm installed there?")
    return SchedulerError(
        f"{program}{f' on {ssh}' if ssh else ''} refused: {words.removeprefix(f'{program}: error: ')}"
    )
