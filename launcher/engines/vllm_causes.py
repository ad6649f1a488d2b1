"""What the lines of vLLM's log mean: which phase one announces, and why vLLM ended.

Reads text and returns text; the log never decides a session's state. The patterns are vLLM 0.32's own words, seen on
CPU or read in its source (the file is named beside them) where a GPU is needed. Nothing that a request could have
written is shown: once the session was ready, an unknown error is named by its type alone.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from launcher.engines import Diagnosis

_PHASES = (
    ("weights", re.compile(r"Starting to load model|Loading \S+ .*checkpoint shards|Prefetching checkpoint files")),
    (
        "compile",
        re.compile(
            r"Loading weights took|Model loading took|for vLLM's torch\.compile|Dynamo bytecode transform"
            r"|Directly load the compiled|Cache the graph of|Compiling a graph|torch\.compile and initial profiling"
            r"|Warming up model for the compilation"
        ),
    ),
    ("graphs", re.compile(r"Profiling CUDA graph memory|Capturing (CUDA|ACL) graph|Capturing cudagraphs")),
    (
        "warm-up",
        re.compile(
            r"Graph capturing finished|Warming up done|init engine \(profile|Supported tasks:"
            r"|Starting vLLM server on|Application startup complete"
        ),
    ),
)


def phase(line: str) -> str | None:
    """The phase that a line of the log announces; a hint for people."""
    return next((name for name, pattern in _PHASES if pattern.search(line)), None)


@dataclass(frozen=True, slots=True)
class _Cause:
    """One known way to fail: what the log says, what we say; both texts may use the pattern's named groups."""

    reason: str
    pattern: re.Pattern[str]
    message: str
    hint: str


def _cause(reason: str, pattern: str, message: str, hint: str) -> _Cause:
    return _Cause(reason, re.compile(pattern), message, hint)


# The first that is found anywhere in the log's end wins: vLLM prints the root cause first and three tracebacks after it,
# so the order here is from the particular to the general, not the order of the lines.
_CAUSES = (
    # v1/core/kv_cache_utils.py
    _cause(
        "kv-cache",
        r"max seq len \((?P<wanted>\d+)\), \((?P<needed>[\d.]+) GiB KV cache is needed.*?available KV cache memory "
        r"\((?P<there>[\d.]+) GiB\)(.*?estimated maximum model length is (?P<fits>\d+))?",
        "a context of {wanted} tokens needs {needed} GiB of KV cache, and {there} GiB are free",
        "Try --max-model-len {fits}, or a profile with more GPU memory.",
    ),
    _cause(
        "kv-cache",
        r"No available memory for the cache blocks|Cannot auto-fit max_model_len",
        "the weights left no memory for the KV cache",
        "Choose a profile with more GPU memory, or raise --gpu-memory-utilization (0.95 at most).",
    ),
    # v1/worker/utils.py, gpu_worker.py
    _cause(
        "gpu-busy",
        r"Free memory on device (?P<device>\S+) \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup",
        "only {free} of {total} GiB of memory of GPU {device} were free when it started",
        "Another process uses the GPU. Start again on another node, or lower --gpu-memory-utilization.",
    ),
    _cause(
        "out-of-memory",
        r"CUDA out of memory occurred when warming up (sampler|pooler)",
        "CUDA out of memory while warming up",
        "Try a lower --max-num-seqs or --gpu-memory-utilization 0.85, or a profile with more GPU memory.",
    ),
    _cause(
        "out-of-memory",
        r"(CUDA|HIP) out of memory|torch\.OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        "CUDA out of memory",
        "Try a smaller --max-model-len or --max-num-seqs, or a profile with more GPU memory.",
    ),
    # v1/worker/cpu_worker.py
    _cause(
        "out-of-memory",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/[\d.]+ GiB\) on (startup|kv cache)[\s\S]{0,200}?"
        r"(utilization\s+\([\d.]+, |for kv\s+\()(?P<wanted>[\d.]+)",
        "it wants {wanted} GiB of the node's memory, and {free} GiB are free",
        "Set --kv-cache-memory-bytes 2G (or VLLM_CPU_KVCACHE_SPACE), or choose a profile with more memory.",
    ),
    _cause(
        "out-of-memory",
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|\bMemoryError\b|Cannot allocate memory",
        "the node's memory did not suffice",
        "Choose a profile with more memory.",
    ),
    _cause(
        "storage",
        r"No space left on device|Disk quota exceeded",
        "a disk it writes to is full (cache, temporary files or shared memory)",
        "Free space in the cache folder, or ask the site for another one.",
    ),
    # config/model.py, config/parallel.py
    _cause(
        "request",
        r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size \((?P<tp>\d+)\)",
        "the model's {heads} attention heads cannot be split over {tp} GPUs",
        "Choose a --tensor-parallel-size that divides {heads}: 1, 2, 4 or 8.",
    ),
    _cause(
        "request",
        r"World size \((?P<world>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
        "it was told to use {world} GPUs, and the job has {gpus}",
        "Choose a profile with {world} GPUs, or a smaller --tensor-parallel-size.",
    ),
    _cause(
        "request",
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
        r"\(\w+=(?P<most>[\d.]+)",
        "--max-model-len {asked} is more than the model's own {most}",
        "Use --max-model-len {most} or less.",
    ),
    # platforms/cuda.py
    _cause(
        "hardware",
        r"Bfloat16 is only supported on GPUs with compute capability of at least [\d.]+\. Your (?P<gpu>.+?) GPU",
        "the model's bfloat16 weights do not run on {gpu}",
        "Try --dtype half, or a profile with a newer GPU.",
    ),
    _cause(
        "hardware",
        r"quantization method (?P<method>\S+) is not supported for the current GPU|no kernel image is available"
        r"|CUDA error: (no kernel image|invalid device function)|PTX was compiled with an unsupported toolchain",
        "this GPU cannot run what the model or this build of vLLM needs",
        "Choose a profile with a newer GPU, or another environment.",
    ),
    _cause(
        "no-gpu",
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|libcuda\.so\.1: cannot open"
        r"|NVML Shared Library Not Found|CUDA error: no CUDA-capable device",
        "it found no GPU",
        "Choose a profile with a GPU; if the job had one, the environment may not see it (container without --nv?).",
    ),
    _cause(
        "no-gpu",
        r"(Permission denied|Insufficient Permissions)[^\n]*/?(dev/)?(nvidia|kfd|dri)|NVML[^\n]*Insufficient Permissions",
        "it may not use the node's GPUs",
        "Ask the site: the job has no access to the GPU devices.",
    ),
    _cause(
        "gpu-fault",
        r"CUDA error: (?P<what>[a-z][^\n]{3,60})|uncorrectable ECC error|Xid \(",
        "a GPU reported an error ({what})",
        "Start again; if it happens on the same node, tell the site its name.",
    ),
    _cause(
        "network",
        r"NCCL error|ncclSystemError|ncclUnhandledCudaError|ncclRemoteError|Watchdog caught collective operation timeout"
        r"|DistStoreError|The client socket has (timed out|failed)|Gloo connectFullMesh failed",
        "its processes could not talk to each other (NCCL or Gloo)",
        "Start again; if it happens again, try one GPU or one node, or show the log to the site.",
    ),
    # model_executor/models/registry.py, transformers
    _cause(
        "unsupported-model",
        r"Model architectures \[(?P<arch>[^\]]+)\] (are not supported for now|failed to be inspected)"
        r"|Model architecture (?P<arch2>\S+) is not supported",
        "this vLLM does not know the model's architecture {arch}",
        "Choose an environment with a newer vLLM, or another model.",
    ),
    _cause(
        "remote-code",
        r"trust_remote_code=True|requires you to execute the (configuration file|code)|contains custom code which must be",
        "the model brings Python code of its own, which is not run",
        "Choose another model, or add --trust-remote-code where the site allows it.",
    ),
    _cause(
        "unsupported-model",
        r"model type `(?P<arch>[^`\n]+)` but Transformers does not recognize|Unrecognized model in",
        "this vLLM does not know the model's type {arch}",
        "Choose an environment with a newer vLLM, or another model.",
    ),
    _cause(
        "unsupported-model",
        r"[Hh]ead[_ ]size (?P<size>\d+) is not supported|Unsupported (CPU attention )?head[_ ](dim|size)[^\d\n]{0,12}(?P<size2>\d+)",
        "its attention has no code for heads of size {size} on this hardware",
        "Choose another model or profile.",
    ),
    # model_executor/model_loader, safetensors, the hub
    _cause(
        "model-files",
        r"Cannot find any model weights with|No such file or directory: '?\"?(?P<file>[^'\"\n]+\.(safetensors|bin|gguf))",
        "weights are missing in the model's folder",
        "Download the model again; `launcher launch` checks the files when the model is named by its id.",
    ),
    _cause(
        "model-files",
        r"SafetensorError|Error while deserializing header|MetadataIncompleteBuffer|invalid load key"
        r"|PytorchStreamReader failed|weights were not initialized from checkpoint",
        "a file of weights is damaged or incomplete",
        "Download the model again.",
    ),
    _cause(
        "model-files",
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer for|tokenizer\.json[^\n]*(not found|No such file)",
        "the model's tokenizer is missing or damaged",
        "Download the model again, or name another with --tokenizer PATH.",
    ),
    _cause(
        "model-files",
        r"Can't load the configuration of|does not appear to have a file named config\.json"
        r"|Invalid repository ID or local directory",
        "the model's folder has no usable config.json",
        "Check the path, or download the model again.",
    ),
    _cause(
        "request",
        r"The supplied chat template[^\n]{0,200}|chat template[^\n]{0,80}appears path-like, but doesn't exist"
        r"|Jinja template is not|jinja2\.exceptions\.TemplateSyntaxError",
        "the chat template is missing or wrong",
        "Give --chat-template the path of a Jinja file that compute nodes can read.",
    ),
    _cause(
        "request",
        r"Cannot find the config file for (?P<method>\w+)|Quantization method specified in the model config \(\S+\) does not",
        "--quantization does not match the model's weights",
        "Leave --quantization out: vLLM reads it from the model.",
    ),
    _cause(
        "address",
        r"Address already in use|AF_UNIX path too long|EADDRINUSE",
        "the socket or port it wanted is taken or has too long a name",
        "Start again.",
    ),
    # argparse
    _cause(
        "request",
        r"error: (?P<what>(unrecognized arguments|argument|ambiguous option|the following arguments|invalid)[^\n]{0,160})",
        "it refused its arguments: {what}",
        "See `vllm serve --help=all` for the options of this vLLM.",
    ),
    _cause(
        "environment",
        r"(ModuleNotFoundError|ImportError): (?P<what>[^\n]{1,160})|(?P<what2>operator torchvision::nms does not exist)"
        r"|PackageNotFoundError: (?P<what3>[^\n]{1,120})",
        "its Python environment is broken ({what})",
        "Choose another environment, or show the log to the site.",
    ),
)

_NOISE = re.compile(
    r"Engine core initialization failed|See root cause above|WorkerProc initialization failed|EngineDeadError"
    r"|Executor failed\.|resource_tracker|Frontend process failed|SystemExit|KeyboardInterrupt"
)
_PREFIX = re.compile(r"^\([^)]{1,60} pid=\d+\) (?:ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:]+ \[[^\]]{1,80}\] ?")
_EXCEPTION = re.compile(r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning))\b:? ?(?P<text>.*)$")
_DEAD_CHILD = re.compile(r"died unexpectedly \(exit code: (?P<code>-\d+)\)|Failed core proc\(s\): \{[^}]*: (?P<code2>-\d+)")
_ENDINGS: dict[int, tuple[str, str, str]] = {
    signal.SIGKILL: (
        "out-of-memory",
        "it was killed (signal 9), probably because the job's memory did not suffice",
        "Choose a profile with more memory, and see `launcher logs` for what came before.",
    ),
    signal.SIGBUS: (
        "out-of-memory",
        "a bus error (signal 7), probably because shared memory (/dev/shm) is full",
        "Choose a profile with more memory, or ask the site about the size of /dev/shm.",
    ),
    signal.SIGILL: (
        "hardware",
        "this build of vLLM uses instructions that the node's processor lacks (signal 4)",
        "Choose another profile or environment.",
    ),
    signal.SIGSEGV: ("engine-exit", "it crashed (signal 11)", "Start again, or choose another environment."),
    signal.SIGABRT: ("engine-exit", "it gave up (signal 6)", "See the log for what came before."),
    signal.SIGTERM: ("engine-exit", "it was told to stop (signal 15)", "Somebody or the scheduler ended it; start again."),
}


def explain(log_tail: str, exit_code: int | None, ready: bool, elapsed_s: float) -> Diagnosis:
    """Why vLLM ended, from the end of its log and its exit code (negative: a signal)."""
    lines = [_PREFIX.sub("", line.rstrip()) for line in _printable(log_tail).splitlines()]
    when = "while it was in use" if ready else "before it was ready"
    opening = f"vLLM stopped after {elapsed_s:.0f} s ({_code(exit_code)}) {when}"
    reason, cause, hint = _known("\n".join(lines)) or _ended(exit_code, lines) or _unknown(lines, ready)
    return Diagnosis(reason, f"{opening}: {cause.rstrip('.')}." if cause else f"{opening}.", hint)


def _known(log: str) -> tuple[str, str, str] | None:
    for cause in _CAUSES:
        if (match := cause.pattern.search(log)) is not None:
            groups = {name.rstrip("23"): value for name, value in match.groupdict().items() if value}
            words = _Words({name: " ".join(value.split())[:160] for name, value in groups.items()})
            return cause.reason, cause.message.format_map(words), _tidy(cause.hint.format_map(words))
    return None


class _Words(dict[str, str]):
    """What a pattern found; a group that took no part reads as nothing."""

    def __missing__(self, key: str) -> str:
        return ""


def _tidy(hint: str) -> str:
    # A number that the log did not give leaves a bare option behind.
    return hint.replace("Try --max-model-len , or", "Try a smaller --max-model-len, or")


def _ended(exit_code: int | None, lines: list[str]) -> tuple[str, str, str] | None:
    if exit_code == 127:
        return (
            "environment",
            "the program `vllm` was not found",
            "The environment has no vLLM: choose another, or ask the site.",
        )
    if exit_code == 126:
        return "environment", "the program `vllm` may not be run", "Ask the site to check the environment's files."
    died = next((found for line in reversed(lines) if (found := _DEAD_CHILD.search(line))), None)
    codes = [exit_code, int(died["code"] or died["code2"]) if died else None]
    for code in codes:
        if code is not None and (number := _signal(code)) in _ENDINGS:
            return _ENDINGS[number]
    return None


def _unknown(lines: list[str], ready: bool) -> tuple[str, str, str]:
    hint = "See `launcher logs` for the whole log."
    for line in reversed(lines):
        found = _EXCEPTION.match(line.strip())
        if found is None or _NOISE.search(line) or found["type"].endswith("Warning"):
            continue
        name = found["type"].rpartition(".")[2]
        # While it serves, the text of an error may quote a request.
        shown = name if ready or not found["text"] else f"{name}: {found['text'][:200]}"
        return "engine-exit", shown, hint
    return "engine-exit", "", hint


def _signal(code: int) -> int:
    """The signal behind an exit code: Popen's negative number or a shell's 128 + number; 0 for none."""
    return -code if code < 0 else code - 128 if 128 < code < 160 else 0


def _code(exit_code: int | None) -> str:
    if exit_code is None:
        return "exit code unknown"
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)
