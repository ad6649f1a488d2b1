"""The routes of the applications behind the gateway; as a program those of the page: `route_tables.py FOLDER`, as JSON.

They are asked for their own tables, so that a route that a new version brings is tried too. Nothing is served; the
page's needs a session's folder. vLLM's are asked for by vllm_said.py.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    print(json.dumps(_concrete(_page(Path(sys.argv[1])))))


def vllm_routes() -> list[str]:
    """Those of vLLM with everything switched on; changes the environment and imports vLLM."""
    return _concrete(_vllm())


def _concrete(routes: Iterable[str]) -> list[str]:
    """A path's parameters become a letter each."""
    paths = {re.sub(r"\{[^}]*\}", "x", path) for path in routes}
    return sorted(path for path in paths if path.startswith("/"))


def _vllm() -> Iterator[str]:
    os.environ.update(VLLM_SERVER_DEV_MODE="1", VLLM_ALLOW_RUNTIME_LORA_UPDATING="1")
    from fastapi import APIRouter, FastAPI
    from vllm import tasks
    from vllm.config import ProfilerConfig
    from vllm.entrypoints.launchers.api_server.routers import register_api_routers
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    app = FastAPI()
    app.state.args = args = make_arg_parser(FlexibleArgumentParser()).parse_args(["model"])
    args.enable_fault_tolerance = True
    args.profiler_config = ProfilerConfig(profiler="torch", torch_profiler_dir="/nowhere")
    every = (*tasks.GENERATION_TASKS, *tasks.POOLING_TASKS, *tasks.FRONTEND_TASKS)
    register_api_routers(args, app, every, None)
    yield from _walk(app.routes)
    # And those that only some models or settings switch on.
    package = importlib.import_module("vllm.entrypoints")
    for found in pkgutil.walk_packages(package.__path__, "vllm.entrypoints.", onerror=lambda name: None):
        if found.name.endswith(("router", "routers")):
            try:
                router = getattr(importlib.import_module(found.name), "router", None)
            except ImportError:  # needs a package that vLLM does not bring
                continue
            if isinstance(router, APIRouter):
                yield from _walk(router.routes)


def _page(folder: Path) -> Iterator[str]:
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(folder))
    from launcher.ui.chat import application
    from launcher.ui.client import Endpoint
    from launcher.ui.session import SessionFiles

    app: Any = application(SessionFiles(folder), Endpoint("http://127.0.0.1:9", "sk-x", "m"), "http://x")
    while not hasattr(app, "routes"):
        app = app.app
    yield from _walk(app.routes)


def _walk(routes: Iterable[Any], before: str = "") -> Iterator[str]:
    for route in routes:
        path = before + getattr(route, "path", "")
        yield path
        yield from _walk(getattr(route, "routes", None) or (), path)


if __name__ == "__main__":
    main()
