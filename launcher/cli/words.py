"""Which words of a command line are the launcher's own options, which its operands, and which the engine's options.

Owns the order and the spelling only: whether a user may set an option of the engine is its own business.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from launcher.errors import did_you_mean

_NUMBER = re.compile(r"-\.?\d")
# Their value is an option itself.
_OF_OPTIONS = ("--vllm-args", "--sglang-args")


class UnknownOptionError(Exception):
    """An option that neither the launcher nor an engine has; `near` is the hint, if there is one."""

    def __init__(self, option: str, near: str | None) -> None:
        super().__init__(option)
        self.option, self.near = option, near


def divided(
    words: Sequence[str], parser: argparse.ArgumentParser, *, engine: bool = True
) -> tuple[list[str], tuple[str, ...]]:
    """`words` as `parser` reads them, operands last, and with `engine` the engine's options, in their order.

    Options may stand before, between and behind the operands. Raises UnknownOptionError, and argparse's own error for
    an option without its value.
    """
    known = parser._option_string_actions
    options: list[str] = []
    operands: list[str] = []
    passed: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        if word == "--":
            operands += [word, *left]
            break
        if not word.startswith("-") or word == "-" or _NUMBER.match(word):
            operands.append(word)
        elif name in known:
            options.append(word)
            if known[name].nargs is None and not equals:
                if not left or (left[0] in known and name not in _OF_OPTIONS):
                    raise argparse.ArgumentError(known[name], "expected one argument")
                options.append(_joined(options, left.pop(0)))
        elif engine and (takes := _takes(name)) is not None:
            passed.append(word)
            passed += [] if equals else _values(takes, left)
        elif word[:2] in known and not word.startswith("--"):
            options.append(word)  # -Achem
        else:
            own = did_you_mean(name, known)
            raise UnknownOptionError(name, own or (did_you_mean(name, _engine_options()) if engine else None))
    return [*options, *operands], tuple(passed)


def _joined(options: list[str], value: str) -> str:
    # argparse takes a word that begins with a dash for an option, but not behind an equals sign: --vllm-args '--a=1'.
    name = options[-1]
    if value.startswith("-") and name.startswith("--"):
        options.pop()
        return f"{name}={value}"
    return value


def _values(takes: str, left: list[str]) -> list[str]:
    if takes == "one" and left:
        return [left.pop(0)]
    values: list[str] = []
    while takes == "several" and left and not left[0].startswith("-"):
        values.append(left.pop(0))
    return values


def _takes(option: str) -> str | None:
    from launcher.engines.vllm_options import takes
    from launcher.engines.whisper_arguments import OPTIONS

    if (found := takes(option)) is not None:
        return found
    return "one" if option in OPTIONS else _simulated().get(option)


def _simulated() -> dict[str, str]:
    from launcher.engines.simulated.script import add_options

    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    return {
        option: "none" if action.nargs == 0 else "one"
        for option, action in parser._option_string_actions.items()
    }


def _engine_options() -> list[str]:
    from launcher.engines.vllm_options import LONE, ONE, SEVERAL, SWITCHES
    from launcher.engines.whisper_arguments import OPTIONS

    return sorted({*SWITCHES, *LONE, *ONE, *SEVERAL, *OPTIONS, *_simulated()})
