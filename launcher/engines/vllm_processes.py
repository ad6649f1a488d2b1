"""Whether vLLM's processes are all alive: its API server can outlive the process that runs the model.

vLLM 0.32 does not notice when EngineCore dies while the model is being loaded (missing weights, no memory): the API
server waits on for VLLM_ENGINE_READY_TIMEOUT_S and says nothing (v1/engine/core_client.py, seen on CPU). The kernel
knows: the dead process stays a zombie below it. Reads /proc and nothing else.
"""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")
_TITLE = "VLLM::"  # vLLM names its processes; the name is cut after 15 characters


def lost(pid: int) -> bool:
    """Whether a process of vLLM below `pid` has died and nobody has noticed.

    True for a moment also when vLLM itself is ending, so ask again some seconds later before acting on it.
    """
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        if parent != pid and _is_dead(parent):
            return True
        waiting += _children(parent)
    return False


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for file in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            found += [int(child) for child in file.read_text().split()]
        except OSError:  # the thread has ended meanwhile
            continue
    return found


def _is_dead(pid: int) -> bool:
    try:
        # "pid (name) state …", and a name may hold spaces and brackets.
        name, _, rest = (_PROC / str(pid) / "stat").read_text().partition("(")[2].rpartition(") ")
    except OSError:
        return False
    return name.startswith(_TITLE) and rest.startswith("Z")
