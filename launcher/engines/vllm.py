"""The engine `vllm`: turns a plan into `vllm serve` on a Unix socket, with its caches in one folder and no key.

Owns the command, its environment variables and the probe. Which arguments a user may add is in `vllm_arguments`,
what its log means in `vllm_log`, whether its processes live in `vllm_processes`. Written against vLLM 0.32, whose
help `tests/contract/test_vllm_flags.py` reads, with few options, so that a site's older container starts as well.
"""

from __future__ import annotations

import json
from pathlib import Path

from launcher.engines import Command, Place, Probe
from launcher.engines.sound import audio_probe
from launcher.engines.vllm_arguments import check_args, option_values
from launcher.engines.vllm_log import explain, phase
from launcher.engines.vllm_processes import lost
from launcher.errors import LauncherError
from launcher.sessions.plan import Plan

__all__ = ["check_args", "command", "explain", "health", "lost", "phase", "probe"]

# Unix sockets of vLLM's processes are named BASE/<uuid4>; sun_path ends after 107 characters.
_LONGEST_SOCKET_FOLDER = 107 - 37


def command(plan: Plan, socket: Path, cache: Path, place: Place | None = None) -> Command:
    """`vllm serve` on `socket`; the user's arguments stand before ours, so that ours win."""
    listens = place is None or place.rank == 0
    argv = (
        "vllm",
        "serve",
        str(plan.model.snapshot),
        *plan.engine_args,
        *(("--uds", str(socket)) if listens else ("--headless", "--api-server-count=0")),
        f"--served-model-name={plan.model.served_name}",  # one word: a name may begin with a dash
        "--no-enable-log-requests",  # prompts at level DEBUG
        "--disable-uvicorn-access-log",  # request lines carry query strings
        *(_share(place) if place is not None else ()),
    )
    return Command(argv, _variables(plan, socket, cache, place))


def _share(place: Place) -> tuple[str, ...]:
    """Its part in vLLM's own way over several nodes, without Ray (vllm/config/parallel.py, nnodes)."""
    return (
        f"--nnodes={place.nodes}",
        f"--node-rank={place.rank}",
        f"--master-addr={place.address}",
        f"--master-port={place.port}",
        "--distributed-executor-backend=mp",
    )


def probe(plan: Plan) -> Probe:
    """One token after a bare prompt: every generating model can do that, also one without a chat template.

    Whisper models write only what they hear; others give a vector, or scores.
    """
    name = plan.model.served_name
    if plan.model.snapshot is not None and _hears(Path(plan.model.snapshot)):
        return audio_probe(name)
    if route := _pooling(plan):
        return Probe(route, {"model": name, "input": "Hello"}, "data")
    return Probe(
        "/v1/completions", {"model": name, "prompt": "Hello", "max_tokens": 1, "temperature": 0}, "choices"
    )


def health() -> str:
    """The path that answers 200 once the API server listens."""
    return "/health"


def _hears(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "config.json").read_bytes()).get("model_type") == "whisper")
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _pooling(plan: Plan) -> str | None:
    """Where a model answers that writes no text, as vLLM sees it; None of one that does.

    `/v1/embeddings` is there for models that embed only, `/pooling` for all that pool, rewards and rerankers too
    (vllm/entrypoints/pooling/factories.py).
    """
    asked = option_values(plan.engine_args, "--runner")[-1:]
    task = _task(Path(plan.model.snapshot)) if plan.model.snapshot is not None else None
    scores = task in ("reranking", "classification")
    if asked == ["pooling"] or (asked in ([], ["auto"]) and (scores or task == "embedding")):
        return "/pooling" if scores else "/v1/embeddings"
    return None


def _task(folder: Path) -> str | None:
    from launcher.models.inspect.facts import facts_of

    # sentence-transformers writes modules.json beside embedding models; vLLM reads the same file to choose its runner.
    beside = {"modules.json": True} if (folder / "modules.json").is_file() else {}
    try:
        return facts_of(json.loads((folder / "config.json").read_bytes()), None, beside=beside).task
    except (LauncherError, OSError, ValueError, RecursionError):
        return "embedding" if beside else None


def _variables(plan: Plan, socket: Path, cache: Path, place: Place | None) -> dict[str, str]:
    variables = {
        # Nothing is fetched and nothing is reported: a node may have no network, and a session is nobody's business.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # What a user's shell may have set and what would put prompts or answers into the log (vllm/envs.py).
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_CONFIG_PATH": "",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "false",
        "VLLM_TRACE_FUNCTION": "0",
        "VLLM_LOGGING_COLOR": "0",
        # Routes for developers, and pickles as requests, stay off; an empty key is no key: the gateway asks for ours.
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",
        "VLLM_API_KEY": "",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        # How long a start may take is the launcher's to say; vLLM's own 600 s are too short for a large model.
        "VLLM_ENGINE_READY_TIMEOUT_S": str(round(plan.limits.start_timeout_s)),
        # Compiled code outlives the session: the next start of the same model finds it.
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "VLLM_CONFIG_ROOT": str(cache / "vllm-config"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(cache / "torch-extensions"),
        "FLASHINFER_WORKSPACE_BASE": str(cache / "flashinfer"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
        "HF_MODULES_CACHE": str(cache / "hf-modules"),
    }
    # vLLM's processes talk over loopback, and over the address by which the nodes reach each other only where there are
    # several; by default its rendezvous uses the node's public address, and Gloo whatever the host's name leads to.
    variables["VLLM_HOST_IP"] = place.own if place is not None else "127.0.0.1"
    if (interface := place.interface if place is not None else "lo") is not None:
        variables["GLOO_SOCKET_IFNAME"] = interface
    if len(str(socket.parent)) <= _LONGEST_SOCKET_FOLDER:
        # Sockets and rendezvous files of its processes: private, and gone with the session.
        variables["VLLM_RPC_BASE_PATH"] = variables["TMPDIR"] = str(socket.parent)
    return variables
