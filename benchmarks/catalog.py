"""P11: listing ten thousand models, `launcher.models.index.kept` against `huggingface_hub.scan_cache_dir`.

Both look at the same folder in the hub's cache layout, one after the other in turn, in this process, with the kernel's
caches warm for both. *cold* is the first look with nothing remembered; *warm* is every later one; *with facts* also
reads each config.json and the headers of the weights, which the hub's own listing never does.

    make bench NAME=catalog [ARGS='--models 10000 --rounds 3']
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import scan_cache_dir

from launcher.models.index import kept
from launcher.models.resolve import SHIPPED
from launcher.settings.layers import load
from launcher.settings.schema import Settings

NEVER_S = -1.0


def main() -> None:
    """Print the table and, as the last line, the result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        hub = folder / "hub"
        make_cache(hub, wanted.models)
        settings = load(
            {
                "LAUNCHER_SITE": os.devnull,
                "LAUNCHER_CONFIG": os.devnull,
                "LAUNCHER_MODELS__CACHE": str(hub),
                "LAUNCHER_PLACES__CACHE": str(folder / "cache"),
            }
        )
        time.sleep(2.5)  # a folder that has just changed is never believed; these are not new
        times: dict[str, list[float]] = {"scan_cache_dir": [], "cold": [], "with facts": [], "warm": []}
        for turn in range(wanted.rounds):
            order = list(times) if turn % 2 == 0 else [*list(times)[1:], "scan_cache_dir"]
            for row in order:
                # A listing of a tenth of a second is measured more than once.
                for _ in range(5 if row == "warm" else 1):
                    times[row].append(took(row, settings, wanted.models, folder / "cache"))
                print(f"round {turn + 1} {row:<16}{times[row][-1]:8.3f} s", flush=True)
    show(times)


def took(row: str, settings: Settings, models: int, remembered: Path) -> float:
    """Seconds of one listing; it must have found every model."""
    if row in ("cold", "with facts"):
        shutil.rmtree(remembered, ignore_errors=True)
    ways: dict[str, Callable[[], int]] = {
        "scan_cache_dir": lambda: len(scan_cache_dir(settings.models.cache).repos),
        "cold": lambda: len(kept(settings, patience_s=NEVER_S)),
        "with facts": lambda: len(kept(settings)),
        "warm": lambda: len(kept(settings)),
    }
    started = time.perf_counter()
    found = ways[row]()
    seconds = time.perf_counter() - started
    assert found == models, f"{row} found {found} of {models}"
    return seconds


def make_cache(hub: Path, models: int) -> None:
    """A cache with one snapshot of six files for each model."""
    config = (SHIPPED / "tiny-chat" / "config.json").read_bytes()
    for number in range(models):
        model = hub / f"models--org-{number % 97}--model-{number}"
        commit = hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()
        snapshot = model / "snapshots" / commit
        (model / "blobs").mkdir(parents=True)
        (model / "refs").mkdir()
        snapshot.mkdir(parents=True)
        (model / "refs" / "main").write_text(commit)
        files = {
            "config.json": config,
            "generation_config.json": b"{}",
            "tokenizer.json": b"{}",
            "tokenizer_config.json": b"{}",
            "README.md": b"# A model",
            "model.safetensors": weights(),
        }
        for name, content in files.items():
            blob = model / "blobs" / hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
            blob.write_bytes(content)
            (snapshot / name).symlink_to(f"../../blobs/{blob.name}")


def weights() -> bytes:
    """A safetensors file of a few tensors."""
    header = {
        f"model.layers.{layer}.self_attn.{part}_proj.weight": {
            "dtype": "BF16",
            "shape": [2, 2],
            "data_offsets": [8 * (4 * layer + place), 8 * (4 * layer + place) + 8],
        }
        for layer in range(4)
        for place, part in enumerate(("q", "k", "v", "o"))
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8 * 16)


def show(times: dict[str, list[float]]) -> None:
    """The table and the JSON line."""
    middle = {row: statistics.median(found) for row, found in times.items()}
    print(f"\n{'':<16}{'median s':>10}{'least s':>10}{'most s':>10}{'× faster':>10}")
    for row, found in times.items():
        faster = middle["scan_cache_dir"] / middle[row]
        print(f"{row:<16}{middle[row]:>10.3f}{min(found):>10.3f}{max(found):>10.3f}{faster:>10.1f}")
    warm, cold = (middle["scan_cache_dir"] / middle[row] for row in ("warm", "cold"))
    value = {"warm": round(warm, 1), "cold": round(cold, 1)}
    goal = {"warm": 50, "cold": 5}
    print(json.dumps({"P11": {"value": value, "goal": goal, "met": warm >= 50 and cold >= 5}}))


if __name__ == "__main__":
    main()
