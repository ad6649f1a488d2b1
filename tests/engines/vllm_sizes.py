"""Asks the real vLLM how large a model is: bytes of its parameters on each GPU, and bytes of a request's KV cache.

A program of its own, because importing vLLM changes a process for good. Reads JSON from standard input:
`{"cases": [{"config": {...}, "tensor": 1, "pipeline": 1, "contexts": [1000], "args": {...}}], "start": FOLDER}`, and
writes `{"cases": [...], "log": "..."}`. Models are built by vLLM's own classes, on torch's meta device: every shape is
real, and nothing takes memory. For a split, as many processes as GPUs are forked and really joined by gloo on loopback.
The model in FOLDER is really started, with made-up weights.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Case = dict[str, Any]
POOL_BYTES = 2**40


def main() -> None:
    os.environ.update(
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_PLUGINS="",
        GLOO_SOCKET_IFNAME="lo",
    )
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is not the answer
    asked: dict[str, Any] = json.load(sys.stdin)
    cases: list[Case] = asked["cases"]
    import torch  # noqa: F401  before the fork, so that it is loaded once
    from vllm.engine.arg_utils import EngineArgs  # noqa: F401  as well

    register(cases)
    json.dump({"cases": [ask(case) for case in cases], "log": started(asked["start"])}, out)
    out.close()
    os._exit(0)  # vLLM's threads have nothing to say any more


def register(cases: list[Case]) -> None:
    """Give vLLM its own classes by hand: to look at one it would start a Python for each."""
    from vllm.model_executor.models.registry import _TEXT_GENERATION_MODELS, ModelRegistry

    for name in {case["config"]["architectures"][0] for case in cases}:
        if name in _TEXT_GENERATION_MODELS:
            module, attribute = _TEXT_GENERATION_MODELS[name]
            module = module if "." in module else f"vllm.model_executor.models.{module}"
            ModelRegistry.register_model(name, getattr(importlib.import_module(module), attribute))


def ask(case: Case) -> Case:
    """What vLLM says about one case; `error` where it refuses it."""
    import multiprocessing

    world = case["tensor"] * case["pipeline"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    fork = multiprocessing.get_context("fork")
    ends, children = [], []
    for rank in range(world):
        ours, theirs = fork.Pipe()
        child = fork.Process(target=join, args=(case, rank, world, address, theirs))
        child.start()
        theirs.close()
        ends.append(ours)
        children.append(child)
    parts = [end.recv() for end in ends]
    try:
        if errors := [part["error"] for part in parts if "error" in part]:
            return {"error": errors[0]}
        return {
            "weights": max(part["weights"] for part in parts),
            "requests": [max(part["requests"][i] for part in parts) for i in range(len(case["contexts"]))],
            "context": parts[0]["context"],
            "dtype": parts[0]["dtype"],
            "block": parts[0]["block"],
            "tokens": parts[0]["tokens"],
            "concurrency": parts[0]["concurrency"],
        }
    finally:
        for end in ends:
            end.send(None)
        for child in children:
            child.join()


def started(folder: str) -> str:
    """What vLLM logs while it really starts with the model in `folder`, all of it in one process."""
    import multiprocessing

    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=start, args=(folder, theirs))
    child.start()
    theirs.close()
    try:
        return str(ours.recv())
    except EOFError:
        return "It ended without a word."
    finally:
        child.join()


def start(folder: str, parent: Connection) -> None:
    """The child of `started`."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="INFO")
    from vllm import LLM

    with tempfile.TemporaryFile() as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            LLM(
                folder, skip_tokenizer_init=True, load_format="dummy", enforce_eager=True, max_num_seqs=4,
                max_num_batched_tokens=512, kv_cache_memory_bytes=64 * 2**20,
            )  # fmt: skip
        except Exception:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        log.seek(0)
        parent.send(log.read().decode(errors="replace"))
    os._exit(0)


def join(case: Case, rank: int, world: int, address: str, parent: Connection) -> None:
    """One GPU's process, joined to the others."""
    os.environ["VLLM_DIST_IDENT"] = (
        f"rank-{rank}"  # not alike, so that vLLM joins them by gloo, not by shared memory
    )
    try:
        answer = measure(case, rank, world, address)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    parent.send(answer)
    parent.recv()  # nobody leaves before all have answered: gloo would take it for a failure
    os._exit(0)


def measure(case: Case, rank: int, world: int, address: str) -> Case:
    """Build this process's part of the model and size its cache; every process learns the specs of all."""
    import torch
    from vllm.config import get_layers_from_vllm_config, set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.platforms import current_platform
    from vllm.utils.torch_utils import set_default_torch_dtype
    from vllm.v1.core import kv_cache_utils

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(case["config"]))
        config = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            tensor_parallel_size=case["tensor"],
            pipeline_parallel_size=case["pipeline"],
            kv_cache_memory_bytes=POOL_BYTES,
            **case.get("args", {}),
        ).create_engine_config()
        config.parallel_config.rank = rank
        config.cache_config.kv_cache_layout = "LBHNC"
        with set_current_vllm_config(config):
            parallel_state.init_distributed_environment(world, rank, address, rank, "gloo")
            parallel_state.initialize_model_parallel(case["tensor"], case["pipeline"])
            with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
                model = initialize_model(vllm_config=config)
            current_platform.update_block_size_for_backend(config)
            layers = get_layers_from_vllm_config(config, AttentionLayerBase)
            specs = {name: layer.get_kv_cache_spec(config) for name, layer in layers.items()}
            found = {name: spec for name, spec in specs.items() if spec is not None}
        everyone: list[Any] = [None] * world
        torch.distributed.all_gather_object(everyone, found)
        lengths = config.model_config
        context, requests = lengths.max_model_len, []
        merged = {name: spec for one in everyone for name, spec in one.items()}
        for tokens in case["contexts"] if merged else ():
            lengths.max_model_len = tokens
            groups = kv_cache_utils.get_kv_cache_groups(config, dict(merged))
            mine = kv_cache_utils._project_kv_cache_groups_to_worker(groups, found)
            requests.append(kv_cache_utils._max_memory_usage_bytes_from_groups(config, mine))
        lengths.max_model_len = context
        capacity: tuple[int, float] = (0, 0.0)
        if merged:
            caches = kv_cache_utils.get_kv_cache_configs(config, everyone, [POOL_BYTES] * world)
            capacity = kv_cache_utils.get_kv_cache_capacity(config, caches[0])
    parameters = {id(one): one for one in model.parameters()}.values()
    return {
        "weights": sum(one.numel() * one.element_size() for one in parameters),
        "requests": requests or [0] * len(case["contexts"]),
        "context": context,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "block": config.cache_config.block_size,
        "tokens": capacity[0],
        "concurrency": capacity[1],
    }


if __name__ == "__main__":
    main()
