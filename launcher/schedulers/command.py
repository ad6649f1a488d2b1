"""Run one of the scheduler's programs, here or over ssh, and turn its trouble into one sentence."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence

from launcher.errors import SchedulerError

TIMEOUT_S = 60.0
_OUTPUT_MAX = 32_000_000  # bytes; 100 000 jobs in a queue are 10 MB
# For `env`: times in seconds since 1970, whatever the time zone of the host that answers.
EPOCH = {"SLURM_TIME_FORMAT": "%s"}
# A user's habits for these programs would win over the script's own lines, or hide jobs from us.
_OVERRIDES = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SLURM_TIME_FORMAT")
# BatchMode: nobody is there to type a password. -T and -x: a program's output and nothing else. Not by the shared
# connection of `launcher.schedulers.ssh`: before OpenSSH 8.5 its master would keep open the standard error that is read
# to its end here.
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
        done = _run(
            argv, {n: v for n, v in os.environ.items() if not n.startswith(_OVERRIDES)} | given, timeout_s
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
    except _TooMuchError:
        raise SchedulerError(
            f"{program}{f' on {ssh}' if ssh else ''} gave too much output (more than {_OUTPUT_MAX // 10**6} MB).",
            "Run it yourself to see what it says.",
        ) from None
    if done.returncode:
        raise _trouble(program, done, ssh)
    return f"{done.stdout}{done.stderr}" if errors_too else done.stdout


class _TooMuchError(Exception):
    """The program writes without end."""


def _run(argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """As subprocess.run, which would hold all of the output, however much it is."""
    ends_at = time.monotonic() + timeout_s
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        try:
            said = _read(process, argv, ends_at, timeout_s)
            process.wait(max(0, ends_at - time.monotonic()))
        except BaseException:  # Ctrl-C too; leaving the block waits for it
            process.kill()
            raise
    output, errors = (bytes(part).decode("utf-8", "replace") for part in said)
    return subprocess.CompletedProcess(argv, process.returncode, output, errors)


def _read(
    process: subprocess.Popen[bytes], argv: Sequence[str], ends_at: float, timeout_s: float
) -> tuple[bytearray, bytearray]:
    said = (bytearray(), bytearray())
    with selectors.DefaultSelector() as pipes:
        for pipe, part in zip((process.stdout, process.stderr), said, strict=True):
            assert pipe is not None
            pipes.register(pipe, selectors.EVENT_READ, part)
        while pipes.get_map():
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(argv, timeout_s)
            for key, _ in pipes.select(left_s):
                more = os.read(key.fd, 1 << 16)
                if not more:
                    pipes.unregister(key.fileobj)
                key.data.extend(more)
                if sum(map(len, said)) > _OUTPUT_MAX:
                    raise _TooMuchError
    return said


def _over(ssh: str, argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> list[str]:
    # sshd gives the words to the user's shell there, which must find each one whole.
    remote = shlex.join(["env", *(f"{name}={value}" for name, value in env.items()), *argv] if env else argv)
    wait_s = max(1, min(15, int(timeout_s)))
    return [*_SSH, "-o", f"ConnectTimeout={wait_s}", "--", ssh, remote]


def _trouble(program: str, done: subprocess.CompletedProcess[str], ssh: str | None) -> SchedulerError:
    words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    if ssh is not None:
        from launcher.schedulers.ssh import SSH_FAILED  # only once something has failed on the way

        if done.returncode == SSH_FAILED:
            return SchedulerError(
                f"{ssh} cannot be reached over ssh: {words.removesuffix('.')}.",
                f"`ssh {ssh}` must work without a password or a question: set up a key.",
            )
        if done.returncode == 127:
            return SchedulerError(f"There is no program {program} on {ssh}.", "Is Slurm installed there?")
    return SchedulerError(
        f"{program}{f' on {ssh}' if ssh else ''} refused: {words.removeprefix(f'{program}: error: ')}"
    )
