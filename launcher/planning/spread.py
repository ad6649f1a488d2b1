"""How a model that has several nodes is shared by them, where the fit has not said it already."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.errors import RequestError
from launcher.models.fit.options import read_options

# As good as eager: torch traces the model once, and compiles nothing (vllm/config/compilation.py, DYNAMO_TRACE_ONCE).
_TRACED = ("--no-enforce-eager", "--compilation-config", '{"mode": 2, "backend": "eager"}')


def spread(arguments: Sequence[str], nodes: int, gpus: int) -> tuple[str, ...]:
    """What vLLM must be told besides `arguments` to use `gpus` GPUs (or a processor) on each of `nodes` nodes.

    All of a node together, and one stage for each node. Raises RequestError for a split that leaves a node without a
    share: each has the same number of vLLM's processes.
    """
    options = read_options(arguments)
    if options.data > 1:
        raise RequestError(
            f"Copies of a model (--data-parallel-size {options.data}) are not spread over {nodes} nodes.",
            "Leave the option out, or ask for --nodes 1.",
        )
    each = max(1, gpus)
    # On processors vLLM 0.32 warms up nothing that runs eagerly, and the first request finds no room in a later stage
    # for what comes in (v1/worker/cpu_worker.py, _should_warm_up_model; gpu_model_runner.py, intermediate_tensors).
    compiled = _TRACED if options.eager and not gpus else ()
    if options.tensor is None and options.pipeline is None:
        tensor = ("--tensor-parallel-size", str(each)) if each > 1 else ()
        return (*tensor, "--pipeline-parallel-size", str(nodes), *compiled)
    split = (options.tensor or 1) * (options.pipeline or 1)
    if split % nodes or split // nodes > each:
        raise RequestError(
            f"A split over {split} GPU{'s' * (split != 1)} cannot be shared equally by {nodes} nodes with {each} each.",
            f"Ask for --tensor-parallel-size {each} --pipeline-parallel-size {nodes}, or leave both out.",
        )
    return compiled
