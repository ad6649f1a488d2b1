"""The paths of an endpoint: OpenAI's and vLLM's below /v1, and FIRST's shape with the cluster and the framework before.

Pure. Owns which paths are routed by the `model` of a request; everything else of an engine stays behind its session.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from urllib.parse import unquote

# Answers depend on the request alone, so that any replica can give them, and another one again.
ROUTED = frozenset((
    "/classify", "/detokenize", "/pooling", "/rerank", "/score", "/tokenize",
    "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/chat/completions",
    "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens", "/v1/rerank",
    "/v1/responses", "/v1/score", "/v2/embed", "/v2/rerank",
))  # fmt: skip
REALTIME = "/v1/realtime"
_MODEL = re.compile(r"[?&]model=([^&]*)")
# FIRST's own root, so that its clients only need another host.
_FIRST_ROOT = "/resource_server"
# FIRST serves embeddings from a program of its own; here the same engine does both.
_SAME_FRAMEWORK = {"infinity": "vllm"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a path asks for: `path` below the cluster and framework that it names, if any.

    `listing` is one of `models`, `endpoints`, `jobs` and `whoami`, for which nothing is routed; `model` is the one
    whose entry is asked for.
    """

    path: str
    cluster: str | None = None
    framework: str | None = None
    listing: str = ""
    model: str = ""


@functools.lru_cache(maxsize=256)
def asked(path: str) -> Asked:
    """Read the path of a request, without its query."""
    if path == _FIRST_ROOT or path.startswith(_FIRST_ROOT + "/"):
        path = path[len(_FIRST_ROOT) :] or "/"
    if len(path) > 1 and path.endswith("/"):  # FIRST's documents have it
        path = path[:-1]
    if path in ROUTED:
        return Asked(path)
    if path in ("/list-endpoints", "/whoami"):
        return Asked(path, listing=path[1:].removeprefix("list-"))
    words = path.split("/", 4)[1:]
    if len(words) == 2 and words[1] == "jobs":
        return Asked(path, unquote(words[0]), listing="jobs")
    if len(words) == 4 and words[2] == "v1":
        cluster, framework = unquote(words[0]), unquote(words[1])
        return _below(f"/v1/{words[3]}", cluster, same_framework(framework))
    return _below(path)


def named_in(query: str) -> str:
    """The first `model` of a query, or ""."""
    found = _MODEL.search(query)
    return unquote(found[1].replace("+", " ")) if found else ""


def same_framework(name: str) -> str:
    """What `name` is called here."""
    return _SAME_FRAMEWORK.get(name, name)


def _below(path: str, cluster: str | None = None, framework: str | None = None) -> Asked:
    if path == "/v1/models":
        return Asked(path, cluster, framework, "models")
    if path.startswith("/v1/models/"):
        return Asked(path, cluster, framework, "models", unquote(path.removeprefix("/v1/models/")))
    return Asked(path, cluster, framework)
