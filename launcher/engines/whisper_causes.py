"""What the log of the Whisper server means: which phase a line announces, and why the server ended.

The words are CTranslate2 4.8's, faster-whisper 1.2's and our own server's; those that need a GPU were taken from the
issues named beside them. Nothing that a request could have written is shown: once the session was ready, an unknown
error is named by its type alone.
"""

from __future__ import annotations

import re
import signal

from launcher.engines import Diagnosis
from launcher.engines.causes import SEE_LOG, cause, code_words, first_of, printable, signal_of

# The server's own words (launcher.whisper).
_PHASES = (
    ("weights", "Loading the model"),
    ("warm-up", "Measuring threads"),
    ("probe", "Listening"),
)
_EXCEPTION = re.compile(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))\b:? ?(?P<text>.*)$"
)
# gunicorn's words for the process that has the model (gunicorn/arbiter.py, reap_workers), and our own for what it met.
_LOST = re.compile(r"Worker \(pid:\d+\) was sent (SIG[A-Z]+)!")
_SAID = re.compile(r"^\d\d:\d\d:\d\d (?:ERROR|CRITICAL) (?P<text>.+)$")
_CUDA_PARTS = "libcublas 12, and libcudnn 9 where its CTranslate2 wants one"
# Reasons that end a start and never a server that serves: there, only a request could have written such words.
ONLY_AT_START = frozenset({"request", "environment", "model-files", "unsupported-model", "address"})

CAUSES = (
    # SYSTRAN/faster-whisper issues 717, 153, 516; CTranslate2's src/cuda/cublas_stub.cc
    cause(
        "gpu-libraries",
        r"Library (?P<what>libcu\w+\.so(?:\.\d+)*) is not found or cannot be loaded",
        r"Could not load library (?P<what2>libcu\w+\.so(?:\.\d+)*)",
        r"Unable to load any of \{(?P<what3>libcu\w+)\.so",
        r"(?P<what4>libcu(?:blas|dnn)\w*\.so(?:\.\d+)*): cannot open shared object file",
        says="it found no {what}, without which it cannot use the GPU",
        hint=f"Ask the site: the environment lacks CUDA's libraries ({_CUDA_PARTS}). "
        "Until then choose a profile without GPUs.",
    ),
    # SYSTRAN/faster-whisper issue 442, linuxserver/docker-faster-whisper issue 15
    cause(
        "out-of-memory",
        r"CUDA failed with error out of memory",
        r"CUBLAS_STATUS_ALLOC_FAILED",
        says="the GPU's memory did not suffice",
        hint="Try --compute-type int8_float16 or a smaller --batch-size, a smaller model, or a profile with more GPU "
        "memory.",
    ),
    cause(
        "out-of-memory",
        r"mkl_malloc: failed to allocate memory",
        r"std::bad_alloc",
        r"\bMemoryError\b",
        r"Cannot allocate memory",
        says="the node's memory did not suffice",
        hint="Choose a profile with more memory, or a smaller model.",
    ),
    cause(
        "storage",
        r"No space left on device",
        r"Disk quota exceeded",
        says="a disk it writes to is full (cache or temporary files)",
        hint="Free space in the cache folder, or ask the site for another place for temporary files (places.runtime).",
    ),
    cause(
        "no-gpu",
        r"CUDA failed with error no CUDA-capable device",
        r"CUDA failed with error CUDA driver version is insufficient",
        r"CUDA failed with error (?P<what>(?:invalid device ordinal|initialization error|system not)[^\n]{0,60})",
        r"was not compiled with CUDA support",
        says="it found no GPU that it can use",
        hint="Choose a profile with a GPU. If the job has one, ask the site: the environment does not see it, or the "
        "driver is too old.",
    ),
    cause(
        "hardware",
        r"Requested (?P<type>\w+) compute type, but the target device or backend do not support",
        says="this processor or GPU cannot compute in {type}",
        hint="Leave --compute-type out, or choose another profile.",
    ),
    cause(
        "hardware",
        r"no kernel image is available",
        r"CUBLAS_STATUS_(ARCH_MISMATCH|NOT_SUPPORTED)",
        says="this GPU cannot run what this build of CTranslate2 needs",
        hint="Try --compute-type float32, or choose another profile or environment.",
    ),
    cause(
        "gpu-fault",
        r"CUDA failed with error (?P<what>[a-z][^\n]{3,60})",
        r"cuBLAS failed with status (?P<what2>\w+)",
        says="a GPU reported an error ({what})",
        hint="Start again; if it happens on the same node, tell the site its name.",
    ),
    cause(
        "unsupported-model",
        r"Unsupported model (?P<what>binary version|spec|revision)",
        r"(?P<what2>[Tt]his model is not a Whisper)",
        says="this CTranslate2 is too old for the model, or it is no Whisper model",
        hint="Choose an environment with a newer CTranslate2, or another copy of the model.",
    ),
    cause(
        "model-files",
        r"Unable to open file '(?P<file>[^'\n]{1,80})' in model",
        r"Cannot load the (?P<file2>vocabulary) from the model directory",
        says="the model's {file} is missing",
        hint="Download the model again.",
    ),
    cause(
        "model-files",
        r"has an invalid payload size",
        r"File model\.bin is incomplete",
        r"json\.exception\.parse_error",
        says="a file of the model is damaged or broken off",
        hint="Download the model again.",
    ),
    cause(
        "model-files",
        # tokenizers, of a tokenizer.json that is none
        r"(?:Exception|cannot be loaded): [^\n]{1,200} at line \d+ column \d+",
        r"OfflineModeIsEnabled|LocalEntryNotFoundError|HfHubHTTPError",
        says="the model's tokenizer.json is missing or damaged",
        hint="Download the model again.",
    ),
    cause(
        "environment",
        r"No module named '(?P<module>faster_whisper|ctranslate2|flask|gunicorn|av|numpy|onnxruntime|tokenizers)",
        says="its Python has no {module}",
        hint="Ask the site to install faster-whisper, Flask and gunicorn in the environment (for the launcher's own: "
        "EXTRAS='ui whisper').",
    ),
    cause(
        "environment",
        r"(ModuleNotFoundError|ImportError|PackageNotFoundError): (?P<what>[^\n]{1,160})",
        r"(?P<what2>[\w.+-]+\.so(?:\.\d+)*: cannot open shared object file)",
        says="its Python environment is broken ({what})",
        hint="Choose another environment, or show the log to the site.",
    ),
    cause(
        "address",
        r"Address already in use|EADDRINUSE",
        r"AF_UNIX path too long",
        says="the socket it wanted is taken or has too long a name",
        hint="Start again.",
    ),
    cause(
        "request",
        r"error: (?P<what>(unrecognized arguments|argument|ambiguous option|the following arguments)[^\n]{0,160})",
        says="it refused its arguments: {what}",
        hint="Leave out the engine arguments, or correct them.",
    ),
)

_ENDINGS: dict[int, tuple[str, str, str]] = {
    signal.SIGKILL: (
        "out-of-memory",
        "it was killed (signal 9), probably because the job's memory did not suffice",
        "Choose a profile with more memory.",
    ),
    signal.SIGBUS: (
        "storage",
        "it met a bus error (signal 7), probably because a disk or shared memory is full",
        "Free space, or choose a profile with more memory.",
    ),
    signal.SIGILL: (
        "hardware",
        "the node's processor lacks instructions that this build of CTranslate2 uses (signal 4)",
        "Choose another profile or environment.",
    ),
    signal.SIGSEGV: ("engine-exit", "it crashed (signal 11)", "Start again, or choose another environment."),
    signal.SIGABRT: ("engine-exit", "it gave up (signal 6)", SEE_LOG),
    signal.SIGTERM: ("engine-exit", "it was told to stop (signal 15)", "Start again."),
}


def phase(line: str) -> str | None:
    """The phase that a line of the log announces; a hint for people."""
    return next((name for name, words in _PHASES if words in line), None)


def explain(log_tail: str, exit_code: int | None, ready: bool, elapsed_s: float) -> Diagnosis:
    """Why the server ended, from the end of its log and its exit code (negative: a signal)."""
    log = printable(log_tail)
    when = "while it was in use" if ready else "before it was ready"
    opening = f"The Whisper server stopped after {elapsed_s:.0f} s ({code_words(exit_code)}) {when}"
    reason, why, hint = (
        first_of(CAUSES, log, without=ONLY_AT_START if ready else ())
        or _ended(exit_code, log)
        or _unknown(log.splitlines(), ready)
    )
    return Diagnosis(reason, f"{opening}: {why.rstrip('.')}." if why else f"{opening}.", hint)


def _ended(exit_code: int | None, log: str) -> tuple[str, str, str] | None:
    if lost := _LOST.findall(log):
        return _ENDINGS.get(getattr(signal, lost[-1], 0))
    if exit_code in (126, 127):
        words = "was not found" if exit_code == 127 else "may not be run"
        return "environment", f"Python {words}", "Ask the site to check the environment."
    return None if exit_code is None else _ENDINGS.get(signal_of(exit_code))


def _unknown(lines: list[str], ready: bool) -> tuple[str, str, str]:
    for line in reversed(lines):
        if not ready and (said := _SAID.match(line.strip())) is not None:
            return "engine-exit", said["text"][:300], SEE_LOG
        if (found := _EXCEPTION.match(line.strip())) is not None:
            name, text = found["type"].rpartition(".")[2], found["text"]
            # While it serves, the text of an error may quote a request.
            return "engine-exit", name if ready or not text else f"{name}: {text[:200]}", SEE_LOG
    return "engine-exit", "", SEE_LOG
