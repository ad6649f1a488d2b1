"""The engine `whisper`: turns a plan into our own audio server over faster-whisper, on a Unix socket.

Owns the command, its environment variables, the probe and which arguments a user may add. What its log means is in
`whisper_causes`; the program is `launcher.whisper`, whose parser a test compares with the table here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import launcher
from launcher.engines import Command, Probe
from launcher.engines.sound import audio_probe
from launcher.engines.whisper_causes import explain, phase
from launcher.errors import RequestError, did_you_mean
from launcher.sessions.plan import Plan

__all__ = ["check_args", "command", "explain", "health", "lost", "phase", "probe"]

PACKAGE = Path(launcher.__file__).parent
# Runs `launcher.whisper` also on a Python in which the launcher itself is not installed.
PROGRAM = PACKAGE / "engines" / "whisper_program.py"
# What it must have of others; the launcher's extra `whisper` brings the same.
PACKAGES = ("faster_whisper", "flask", "gunicorn")


@dataclass(frozen=True, slots=True)
class Option:
    """What may follow an option: one of `words`, or a number from `least` to `most` (whole where `whole`)."""

    words: tuple[str, ...] = ()
    least: float = 0.0
    most: float = math.inf
    whole: bool = True

    def trouble(self, value: str) -> str | None:
        """What `value` must be, where it is not that."""
        if self.words:
            return None if value in self.words else f"must be one of {', '.join(self.words)}"
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) or (self.whole and "." in value):
            return "must be a whole number" if self.whole else "must be a number"
        if not self.least <= float(value) <= self.most:
            return f"must be from {self.least:g} to {self.most:g}"
        return None


COMPUTE_TYPES = (
    *("default", "auto", "float32", "float16", "bfloat16", "int16"),
    *("int8", "int8_float32", "int8_float16", "int8_bfloat16"),
)
# What a user may say; the rest of the program's options are the launcher's own.
OPTIONS: Mapping[str, Option] = {
    "--device": Option(words=("auto", "cpu", "cuda")),
    "--compute-type": Option(words=COMPUTE_TYPES),
    "--batch-size": Option(most=256),
    "--threads": Option(most=256),
    "--parallel": Option(most=256),
    "--beam-size": Option(least=1, most=20),
    "--stretch-s": Option(least=2, most=30, whole=False),
    "--max-requests": Option(least=1, most=4096),
}
OWN = (
    "--uds",
    "--model",
    "--served-name",
    "--cache",
    "--scratch",
    "--folder",
    "--max-hours",
    "--max-upload-gb",
)


def check_args(args: tuple[str, ...], *, allow_remote_code: bool) -> None:
    """Raise RequestError for an argument that is the launcher's own, unknown, or without a value that can be."""
    words = list(args)
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word in OWN:
            raise RequestError(f"Engine argument {word} is the launcher's own.", "Leave it out.")
        option = OPTIONS.get(word)
        if option is None:
            known = did_you_mean(word, OPTIONS) or f"Known: {', '.join(OPTIONS)}."
            raise RequestError(f'The engine whisper has no argument "{word[:60]}".', known)
        if not equals:
            if not words:
                raise RequestError(f"Engine argument {word} has no value.", f"Write {word}=VALUE.")
            value = words.pop(0)
        if (trouble := option.trouble(value)) is not None:
            raise RequestError(
                f'Engine argument {word} {trouble}, not "{value[:60]}".', "Correct it, or leave it out."
            )


def command(plan: Plan, socket: Path, cache: Path) -> Command:
    """The server on `socket`; the user's arguments stand before ours, so that ours win."""
    device = () if _given(plan.engine_args, "--device") else ("--device", _device(plan))
    folders = [word for folder in plan.audio_folders for word in ("--folder", folder)]
    hours = plan.limits.audio_hours
    argv = (
        *("python3", str(PROGRAM)),
        *plan.engine_args,
        *device,
        *("--uds", str(socket), "--model", str(plan.model.snapshot)),
        f"--served-name={plan.model.served_name}",  # one word: a name may begin with a dash
        *("--cache", str(cache / "whisper"), "--scratch", str(socket.parent)),
        *(() if hours is None else ("--max-hours", f"{hours:g}")),
        *folders,
    )
    return Command(argv, _variables(socket, cache))


def probe(plan: Plan) -> Probe:
    """One second of sound, cut blindly: the search for speech would leave the model nothing to do."""
    return audio_probe(plan.model.served_name, {"vad_filter": "false"})


def health() -> str:
    """The path that answers 200 once the model is loaded."""
    return "/health"


def lost(pid: int) -> bool:
    """It is one process; its end is seen by itself."""
    return False


def _device(plan: Plan) -> str:
    # Not the program's to guess: a GPU that cannot be used should be told, not paid for in vain.
    return "cuda" if plan.resources.gpus else "cpu"


def _given(args: Sequence[str], option: str) -> bool:
    return any(word.partition("=")[0] == option for word in args)


def _variables(socket: Path, cache: Path) -> dict[str, str]:
    return {
        # Nothing is fetched and nothing is reported: a node may have no network, and a session is nobody's business.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        # Only warnings of CTranslate2, whatever a user's shell has set.
        "CT2_VERBOSE": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        # Uploads and sockets: private, and gone with the session.
        "TMPDIR": str(socket.parent),
    }
