"""The engine `whisper`: turns a plan into our own audio server over faster-whisper, on a Unix socket.

Owns the command, its environment variables and the probe. Which arguments a user may add is in `whisper_arguments`,
what its log means in `whisper_log`; the program is `launcher.whisper`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import launcher
from launcher.engines import Command, Place, Probe
from launcher.engines.sound import audio_probe
from launcher.engines.whisper_arguments import check_args
from launcher.engines.whisper_log import explain, phase
from launcher.sessions.plan import Plan

__all__ = ["check_args", "command", "explain", "health", "lost", "phase", "probe"]

PACKAGE = Path(launcher.__file__).parent
# Runs `launcher.whisper` also on a Python in which the launcher itself is not installed.
PROGRAM = PACKAGE / "engines" / "whisper_program.py"


def command(plan: Plan, socket: Path, cache: Path, place: Place | None = None) -> Command:
    """The server on `socket`; the user's arguments stand before ours, so that ours win. It never has a `place`."""
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
    """One second of sound, cut blindly: the search for speech would leave the model nothing to do.

    Its width of search is seldom that of others, so that it has a batch to itself and waits for no full one of theirs.
    """
    return audio_probe(plan.model.served_name, {"vad_filter": "false", "beam_size": "1"})


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
