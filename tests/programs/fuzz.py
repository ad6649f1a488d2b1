"""By hand: a search for broken requests that is led by the gateway's code it reaches (Google's atheris, PyPI).

    uv pip install atheris
    python -m tests.programs.fuzz [--seconds 600] [--corpus FOLDER]

The gateway runs in this process, with real sockets; its upstreams are strict recorders, a new one for each input. It
ends with the input that found something: a request without the key at the upstream, bytes with two meanings, an answer
that is no HTTP, an exception in the event loop, a gateway that no longer answers. The suite's own fuzz run is
tests/integration/test_gateway_fuzz.py.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Run until something is found or the time is over."""
    parser = argparse.ArgumentParser(description="Fuzz the gateway, led by coverage.")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, help="a folder for inputs that reach new code")
    given = parser.parse_args()
    atheris: Any = importlib.import_module("atheris")
    logging.disable()
    with atheris.instrument_imports(include=["launcher.gateway"]):
        fuzzed = importlib.import_module("tests.programs.fuzzed")
    with tempfile.TemporaryDirectory(prefix="iod") as name:
        folder = Path(name)
        corpus = given.corpus or folder / "corpus"
        corpus.mkdir(exist_ok=True)
        fuzzed.write_seeds(corpus)
        words = folder / "words"
        lines = ("".join(f"\\x{byte:02x}" for byte in token) for token in fuzzed.TOKENS)
        words.write_text("".join(f'"{line}"\n' for line in lines))
        trial = fuzzed.Trial(folder)
        options = [
            f"-artifact_prefix={folder}/",
            f"-max_total_time={given.seconds}",
            f"-dict={words}",
            "-max_len=2000",
            "-timeout=60",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], trial)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
