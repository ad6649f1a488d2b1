"""Brings the weights into the node's memory while the engine still imports its libraries.

vLLM reads ahead by itself only on NFS and Lustre, and only once its imports are over
(vllm/model_executor/model_loader/weight_utils.py, safetensors_weights_iterator); elsewhere it touches page after page.
Reading in order, from several places at once, is what network file systems are fast at. The pages go to
/dev/null: none of them passes through this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ModelError
from launcher.models.inspect.header import weight_files
from launcher.serve.memory import room_bytes

_AT_ONCE = 8
_PART_BYTES = 64 * 2**20
_STEP_BYTES = 4 * 2**20  # between two looks whether it is enough
_SAMPLES = 32  # pages of a part that must all be there for it to be passed over
# Of the memory that is free: the engine needs the rest, and must not push out what was just read.
_SHARE = 0.7
_OTHERS = (".bin", ".pt", ".pth", ".gguf")

log = logging.getLogger("launcher.serve")


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was done: bytes that were read, bytes that were there already, and the seconds it took."""

    read_bytes: int
    present_bytes: int
    took_s: float


class ReadAhead:
    """Reads the weights of `snapshot`, from its making on, until all are there or `stop` is called."""

    def __init__(self, snapshot: Path) -> None:
        self.done: Ahead | None = None
        self._enough = threading.Event()
        self._lock = threading.Lock()
        self._read = self._present = 0
        self._thread = threading.Thread(target=self._run, args=(snapshot,), name="read-ahead", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more is needed: the engine has its weights, or is over."""
        self._enough.set()

    def _run(self, snapshot: Path) -> None:
        began = time.monotonic()
        parts = deque(_parts(snapshot, round(room_bytes() * _SHARE)))
        if not parts:
            return
        readers = [
            threading.Thread(target=self._take, args=(parts,), name=f"read-ahead-{number}", daemon=True)
            for number in range(min(_AT_ONCE, len(parts)))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        self.done = Ahead(self._read, self._present, round(time.monotonic() - began, 3))
        speed = self._read / max(self.done.took_s, 0.001) / 1e6
        log.info(
            "read ahead: %.0f MB in %.1f s (%.0f MB/s), %.0f MB were in memory",
            self._read / 1e6, self.done.took_s, speed, self._present / 1e6,
        )  # fmt: skip

    def _take(self, parts: deque[tuple[Path, int, int]]) -> None:
        with open(os.devnull, "wb") as nowhere:
            while not self._enough.is_set():
                try:
                    path, start, length = parts.popleft()
                except IndexError:
                    return
                # A file that cannot be read is the engine's to complain about.
                with contextlib.suppress(OSError), path.open("rb") as file:
                    there = _is_there(file.fileno(), start, length)
                    read = 0 if there else self._bring(file.fileno(), nowhere.fileno(), start, length)
                    with self._lock:
                        self._read += read
                        self._present += length if there else 0

    def _bring(self, file: int, nowhere: int, start: int, length: int) -> int:
        done = 0
        while done < length and not self._enough.is_set():
            # sendfile(2) since Linux 2.6.33 takes any file; what goes to /dev/null is only read.
            count = os.sendfile(nowhere, file, start + done, min(_STEP_BYTES, length - done))
            if count == 0:
                break
            done += count
        return done


def _parts(snapshot: Path, most_bytes: int) -> list[tuple[Path, int, int]]:
    """File, start and length of each part, in the order in which an engine reads them, `most_bytes` in all."""
    parts: list[tuple[Path, int, int]] = []
    left = most_bytes
    for name in _names(snapshot):
        path = snapshot / name
        try:
            size = path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
        for start in range(0, size, _PART_BYTES):
            length = min(_PART_BYTES, size - start)
            if (left := left - length) < 0:
                return parts
            parts.append((path, start, length))
    return parts


def _names(snapshot: Path) -> Sequence[str]:
    try:
        return weight_files(snapshot) or sorted(n for n in os.listdir(snapshot) if n.endswith(_OTHERS))
    except (ModelError, OSError):
        return ()


def _is_there(file: int, start: int, length: int) -> bool:
    """Whether some pages of a part, spread over it, are all in memory (preadv2(2), RWF_NOWAIT)."""
    byte = bytearray(1)
    try:
        for number in range(_SAMPLES):
            os.preadv(file, [byte], start + (length - 1) * number // (_SAMPLES - 1), os.RWF_NOWAIT)
    except OSError:  # EAGAIN, or a file system that does not know the question
        return False
    return True
