"""What a simulated engine will do: its command-line options as one value, checked."""

from __future__ import annotations

import argparse
import dataclasses
import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Self

from launcher.errors import RequestError


@dataclass(frozen=True, slots=True)
class Script:
    """Delays, answers and failures; the defaults are a healthy, quick engine."""

    start_delay_s: float = 1.0
    first_token_ms: float = 5.0
    token_rate: float = 50.0  # tokens per second of each request; 0: as fast as possible
    tokens: int | None = None
    answer: str | None = None
    no_images: bool = False
    fail_at: str | None = None  # "start", "ready", or the seconds after the first answer
    fail_with: str | None = None
    fail_code: int = 1
    fail_signal: str | None = None
    fail_on: str | None = None  # a text; whoever asks with it ends the engine, each time
    fail_rank: int = 0  # which of the processes on several nodes fails; one that is not 0 fails at its start
    hang_at: str | None = None
    ignore_term_s: float = 0.0

    @property
    def fail_after_s(self) -> float | None:
        """Seconds from the first generated answer to the failure; None: it fails elsewhere or never."""
        return None if self.fail_at in (None, "start", "ready") else float(self.fail_at)

    @classmethod
    def parse(cls, args: Sequence[str]) -> Self:
        """Read the options; raises RequestError that names a wrong one."""
        return cls(**vars(_Parser().parse_args(list(args))))


class _Parser(argparse.ArgumentParser):
    """The options of a script; also the base of the program's own parser."""

    def __init__(self) -> None:
        super().__init__(prog="simulated", add_help=False, allow_abbrev=False)
        add_options(self)

    def error(self, message: str) -> NoReturn:
        options = ", ".join(sorted(option for action in self._actions for option in action.option_strings))
        raise RequestError(f"Simulated engine: {message[:200]}.", f"Its options are: {options}.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of a `Script` to `parser`."""
    add = parser.add_argument
    add("--start-delay-s", type=_not_negative, metavar="S", help="from start until it listens (default 1)")
    add("--first-token-ms", type=_not_negative, metavar="MS", help="until the first token (default 5)")
    add("--token-rate", type=_not_negative, metavar="N", help="tokens/s; 0: without a pause (default 50)")
    add("--tokens", type=_count, metavar="N", help="make every answer N tokens long")
    add("--answer", metavar="TEXT", help="what it always answers")
    add("--no-images", action="store_true", help="refuse images, as a model that only reads text does")
    add("--fail-at", type=_moment, metavar="start|ready|S", help="S: seconds after the first answer")
    add("--fail-on", metavar="TEXT", help="end as soon as a question holds TEXT")
    add("--fail-with", metavar="TEXT", help="the error that its traceback ends with")
    add("--fail-code", type=_exit_code, metavar="N", help="exit code of the failure (default 1)")
    add("--fail-signal", type=_signal, metavar="NAME", help="end by this signal instead: KILL, SEGV, …")
    add("--fail-rank", type=_rank, metavar="N", help="the process that fails, on several nodes (default 0)")
    add("--hang-at", choices=("start", "ready"), help="stay, but never listen, or never answer")
    add("--ignore-term-s", "--ignore-term", type=_not_negative, metavar="S", help="go on S s after TERM")
    parser.set_defaults(**{field.name: field.default for field in dataclasses.fields(Script)})


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text!r}")
    return value


def _whole(text: str, least: int, most: int) -> int:
    value = _number(text)
    if not (value.is_integer() and least <= value <= most):
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text!r}")
    return int(value)


def _count(text: str) -> int:
    return _whole(text, 1, 10_000_000)


def _exit_code(text: str) -> int:
    return _whole(text, 0, 255)


def _rank(text: str) -> int:
    return _whole(text, 0, 10_000)


def _moment(text: str) -> str:
    if text not in ("start", "ready"):
        _not_negative(text)
    return text


def _signal(text: str) -> str:
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    if name not in signal.Signals.__members__:
        raise argparse.ArgumentTypeError(f"is no signal: {text!r}")
    return name
