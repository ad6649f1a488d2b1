"""Prints what the installed vLLM says of itself as JSON: options of `vllm serve`, parsers, known models, routes.

One program for all who ask, because its import takes a quarter of a minute; each question has a fork of its own. The
fixture `vllm_said` runs it once for all processes of a test run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from launcher.models.known import known, known_ids
from tests.programs.route_tables import vllm_routes


def main() -> None:
    os.environ.update(VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1", COLUMNS="200")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is not the answer
    import vllm.engine.arg_utils  # noqa: F401  before the forks, so that it is loaded once

    questions: tuple[Callable[[], Any], ...] = (options, parsers, arguments, routes)
    json.dump({question.__name__: _forked(question) for question in questions}, out)
    out.close()
    os._exit(0)  # vLLM's threads have nothing to say any more


def options() -> str:
    """The help of `vllm serve`."""
    from vllm.entrypoints.cli.main import main as program

    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)
        sys.argv = ["vllm", "serve", "--help=all"]
        with suppress(SystemExit):
            program()
        sys.stdout.flush()
        said.seek(0)
        return said.read().decode()


def parsers() -> dict[str, list[str]]:
    """The names of the parsers of tool calls and of reasoning."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    return {
        "tools": sorted(ToolParserManager.list_registered()),
        "reasoning": sorted(ReasoningParserManager.list_registered()),
    }


def arguments() -> dict[str, dict[str, Any]]:
    """What vLLM's own parser makes of the arguments of each known model."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    entries = [found for id_ in known_ids() if (found := known(id_)) is not None]
    read = {entry.id: vars(parser.parse_args(list(entry.engine_args))) for entry in entries}
    return {
        id_: {name: found[name] for name in ("tokenizer_mode", "hf_overrides")} for id_, found in read.items()
    }


def routes() -> list[str]:
    return vllm_routes()


def _forked(question: Callable[[], Any]) -> Any:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_answer, args=(question, theirs))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"vLLM did not answer: {question.__name__}") from None
    finally:
        child.join()


def _answer(question: Callable[[], Any], parent: Connection) -> None:
    parent.send(question())
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
