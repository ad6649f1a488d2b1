"""The options of `launcher launch` and what they ask for; whatever else starts sessions has all or some of them.

Owns their names (vec-inf's and Slurm's beside ours) and their help; what they mean is `launcher.planning`'s business.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any

from launcher.cli.parser import number, whole
from launcher.errors import RequestError

# What may be said more than once.
_AGAIN = ("bind", "env", "vllm_args")
_OVERRIDE = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.DOTALL)


def add_request(parser: argparse.ArgumentParser) -> None:
    """Give `parser` everything that one may ask for, but not the model."""
    # Each destination is a word that launcher.planning understands. What is not said is None, so that a file named
    # with --config may say it.
    add = parser.add_argument
    add("--profile", metavar="NAME", help="the hardware, by the site's name for it")
    add("--revision", metavar="R", help="branch, tag or commit of the model")
    add("--hours", type=number, metavar="H", help="how long it may run")
    add(
        "--time",
        metavar="TIME",
        help="the same as Slurm writes it: 08:00:00, 90 (minutes), 2-12 (days-hours)",
    )
    add("--idle-minutes", type=number, metavar="M", help="stop when unused for so long; 0: never")
    add("--name", metavar="NAME", help="a name for the session, seen by everybody in the queue")
    add(
        "--environment", "--venv", "--image-ref", metavar="NAME|PATH",
        help="where the engine's program comes from: a name of the site's, a virtual environment's folder, an image",
    )  # fmt: skip
    add("--max-model-len", type=whole, metavar="N", help="tokens of the longest request, answer included")
    add(
        "--no-fit-check", dest="fit_check", action="store_const", const=False,
        help="start it even if it does not seem to fit; choose nothing",
    )  # fmt: skip
    add(
        "--no-page", dest="page", action="store_const", const=False,
        help="no page to chat or transcribe, only the endpoint",
    )  # fmt: skip
    add(
        "--trust-remote-code", action="store_const", const=True,
        help="run Python code that comes with the model",
    )  # fmt: skip
    add("--config", metavar="FILE", help="a YAML file with any of these, or vec-inf's file of models")
    _add_hardware(parser)
    _add_surroundings(parser)
    _add_vec_inf(parser)


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("instead of what the profile says")
    add = group.add_argument
    for names, text in (
        (("--partition",), "Slurm's partition"),
        (("--account", "-A"), "the account to charge"),
        (("--qos",), "Slurm's quality of service"),
        (("--constraint",), "features that the nodes must have"),
        (("--reservation",), "a reservation to run in"),
        (("--gpu-type", "--resource-type"), "the kind of GPU, by Slurm's name for it"),
    ):
        add(*names, metavar="NAME", help=text)
    add("--exclude", metavar="NODES", help="nodes that it must not run on, such as gpu[01-04],gpu09")
    add("--nodelist", metavar="NODES", help="nodes that it must run on")
    add("--nodes", "--num-nodes", type=whole, metavar="N", help="how many nodes")
    add("--gpus", "--gpus-per-node", type=whole, metavar="N", help="GPUs on each node")
    add("--gres", metavar="GRES", help="the same as Slurm writes it: gpu:TYPE:N, or a number")
    add("--cpus", "--cpus-per-task", type=whole, metavar="N", help="cores on each node")
    add("--memory-gb", type=number, metavar="GB", help="memory on each node")
    add("--mem-per-node", metavar="SIZE", help="the same with its unit: 64G, 512M, 1T")


def _add_surroundings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("around the engine").add_argument
    add(
        "--bind",
        action="append",
        metavar="DIR,...",
        help="folders that its container shall see, as /folder or /folder:/inside:ro",
    )
    add(
        "--env",
        action="append",
        metavar="K=V,...|FILE",
        help="variables for it; a file has one in each line. Never a secret",
    )
    add("--work-dir", "-D", metavar="DIR", help="the folder it runs in (default: a private one on the node)")
    add("--log-dir", metavar="DIR", help="where the session's folder is made, with logs, script and plan")
    add("--vllm-args", action="append", metavar="A=B,...", help="options of vLLM between commas")


def _add_vec_inf(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("as vec-inf has them").add_argument
    add("--hf-model", metavar="ID", help="the weights' id or path, where MODEL is only a short name")
    add("--model-weights-parent-dir", metavar="DIR", help="the folder that holds MODEL's folder")
    add("--data-type", metavar="TYPE", help="vLLM's --dtype")
    add("--engine", metavar="NAME", help="refuse to start it on another engine")
    add("--sglang-args", metavar="A=B,...", help="refused: SGLang is not offered")
    for name in ("family", "variant", "type"):
        add(f"--model-{name}", metavar="NAME", help="means nothing here: read from the model")
    add("--vocab-size", metavar="N", help="means nothing here: read from the model")


def add_some(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Give `parser`, or a group of it, those that ask for `names`, in that order."""
    every = _every()
    for name in names:
        parser._add_action(every[name])


def _every() -> dict[str, argparse.Action]:
    alone = argparse.ArgumentParser(add_help=False)
    add_request(alone)
    return {action.dest: action for action in alone._actions}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the model, and KEY=VALUE behind it."""
    # Optional, since a file named with --config may name it.
    parser.add_argument(
        "operands", nargs="*", metavar="MODEL", help="a catalog name, an id such as org/name, or a path; "
        "behind it KEY=VALUE, such as hours=8 or tensor_parallel_size=2",
    )  # fmt: skip
    # The parser divides the words of a command that has this (launcher.cli.words).
    parser.set_defaults(engine_args=())


def profile_named(arguments: argparse.Namespace) -> str | None:
    """The profile that the command line names, in any of its ways."""
    given: str | None = getattr(arguments, "profile", None)
    short = [word for word in getattr(arguments, "short", None) or () if not word.isdigit()]
    operands = [word for word in getattr(arguments, "operands", ()) if word.startswith("profile=")]
    return next(iter([*([given] if given else []), *short, *(w.partition("=")[2] for w in operands)]), None)


def request_of(arguments: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
    """The model, if it was named, and what was asked for, for `Launcher.plan`."""
    models: list[str] = []
    wanted = {name: value for name in _every() if (value := getattr(arguments, name, None)) is not None}
    wanted |= {name: ",".join(wanted[name]) for name in _AGAIN if name in wanted}
    for operand in arguments.operands:
        if (found := _OVERRIDE.fullmatch(operand)) is None:
            models.append(operand)
        else:
            _override(wanted, found[1].replace("-", "_"), found[2])
    see = f"See: launcher {arguments.command} --help"
    if len(models) > 1:
        raise RequestError(f'"{models[1][:80]}" is one word too many.', see)
    if not models and "config" not in wanted and "hf_model" not in wanted and "model" not in wanted:
        raise RequestError("The following arguments are required: MODEL.", see)
    if models and "model" in wanted:
        raise RequestError("model is given twice.", "Leave one of them out.")
    if arguments.engine_args:
        wanted["engine_args"] = tuple(arguments.engine_args)
    return (models[0] if models else wanted.pop("model", None)), wanted


def _override(wanted: dict[str, Any], word: str, text: str) -> None:
    from launcher.planning.spellings import typed

    if word in wanted:
        raise RequestError(f"{word} is given twice.", "Leave one of them out.")
    wanted[word] = typed(word, text)
