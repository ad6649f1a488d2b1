"""What the Whisper server was told when it was started, apart from sockets and folders.

Owns the options and their bounds; imports nothing heavy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

DEVICES = ("auto", "cpu", "cuda")
# Whisper hears at most 30 s at once; below 2 s the look for silences leaves nothing.
LEAST_S, MOST_S = 2.0, 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """The server's own options; 0, `auto` and `default` leave the choice to the machine.

    `threads` is of one batch, `parallel` how many batches run at once, `batch_size` how many stretches are in one.
    `cache` is where a measurement of threads is kept, `max_hours` the longest audio that is taken.
    """

    device: str = "auto"
    compute_type: str = "default"
    batch_size: int = 0
    threads: int = 0
    parallel: int = 0
    stretch_s: float = MOST_S
    beam_size: int = 5
    max_hours: float | None = None
    max_requests: int = 64
    cache: Path | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of `Server`, named as the field."""
    given = {field.name: field.default for field in fields(Server)}

    def option(name: str, kind: Callable[[str], Any], text: str, **more: Any) -> None:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=given[name], help=text, **more)

    option("device", str, "where the model runs", choices=DEVICES)
    option("compute_type", str, "CTranslate2's: int8, float16, … (default: the fastest exact enough)")
    option("batch_size", _whole(0, 256), "stretches of audio in one batch (default: by memory)", metavar="N")
    option("threads", _whole(0, 256), "processor threads of one batch (default: measured)", metavar="N")
    option("parallel", _whole(0, 256), "batches at once (default: measured)", metavar="N")
    option(
        "stretch_s", _number(LEAST_S, MOST_S), "longest stretch of audio that is heard at once", metavar="S"
    )
    option("beam_size", _whole(1, 20), "width of the search for words (default: %(default)s)", metavar="N")
    option("max_hours", _number(0, 10_000), "longest audio that is taken", metavar="H")
    option("max_requests", _whole(1, 4096), "requests at once (default: %(default)s)", metavar="N")
    option("cache", Path, "folder that keeps the measurement of threads", metavar="DIR")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not least <= (value := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    return number


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not least <= (value := float(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number
