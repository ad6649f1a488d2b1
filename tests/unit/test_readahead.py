"""Weights are in memory before anybody asks for them: in the engine's order, within the job's memory, once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from launcher.serve import memory
from launcher.serve.readahead import Ahead, ReadAhead, _is_there, _parts
from tests.programs.front import wait_until

_BYTES = 3 * 2**20


def forget(path: Path) -> None:
    """Take a file out of the memory of this machine."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory(path: Path) -> bool:
    with path.open("rb") as file:
        return _is_there(file.fileno(), 0, path.stat().st_size)


def needs_forgetting(path: Path) -> None:
    """Some file systems (tmpfs) keep all they have in memory, or do not answer the question."""
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
    pytest.skip("this file system does not forget")


def test_weights_are_in_memory_before_the_engine_asks(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("model-1.safetensors", "model-2.safetensors")]
    for path in files:
        path.write_bytes(os.urandom(_BYTES))
        forget(path)
    other = tmp_path / "readme.md"
    other.write_bytes(os.urandom(_BYTES))
    forget(other)
    needs_forgetting(files[0])
    ahead = ReadAhead(tmp_path)
    wait_until(lambda: ahead.done is not None)
    assert all(map(in_memory, files))
    assert not in_memory(other)
    assert isinstance(ahead.done, Ahead)
    assert (ahead.done.read_bytes, ahead.done.present_bytes) == (2 * _BYTES, 0)
    again = ReadAhead(tmp_path)
    wait_until(lambda: again.done is not None)
    assert again.done is not None
    assert (again.done.read_bytes, again.done.present_bytes) == (0, 2 * _BYTES), "nothing is read twice"


def test_no_more_is_read_than_there_is_room_for(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 100 * 2**20)
    (tmp_path / "consolidated.safetensors").write_bytes(b"the same again")
    mb = 2**20
    assert _parts(tmp_path, 170 * mb) == [
        (tmp_path / "a.safetensors", 0, 64 * mb), (tmp_path / "a.safetensors", 64 * mb, 36 * mb),
        (tmp_path / "b.safetensors", 0, 64 * mb),
    ]  # fmt: skip
    assert _parts(tmp_path, 0) == []


@pytest.mark.parametrize(
    "index", ["{", "[]", '{"weight_map": {"x": "../../etc/passwd"}}', '{"weight_map": {"x": 7}}', None]
)
def test_a_folder_that_is_no_model_is_not_read(tmp_path: Path, index: str | None) -> None:
    if index is not None:
        (tmp_path / "model.safetensors.index.json").write_text(index)
    else:
        os.mkfifo(tmp_path / "a.safetensors")
        (tmp_path / "b.safetensors").symlink_to("/nowhere")
        (tmp_path / "c.safetensors").mkdir()
    assert _parts(tmp_path, 10**9) == []
    assert _parts(tmp_path / "gone", 10**9) == []


def test_room_is_what_is_free_within_the_limit_of_the_job(tmp_path: Path) -> None:
    free, mounts, own = (tmp_path / name for name in ("meminfo", "mounts", "own"))
    free.write_text("MemTotal: 4000 kB\nMemAvailable: 1000 kB\n")
    top = tmp_path / "groups"
    job = top / "system.slice" / "job_7"
    (job / "step_batch").mkdir(parents=True)
    mounts.write_text(f"cgroup2 {top} cgroup2 rw 0 0\n")
    own.write_text("0::/system.slice/job_7/step_batch\n")
    (job / "step_batch" / "memory.max").write_text("max\n")
    assert memory.room_bytes(own, mounts, free) == 1_024_000
    (job / "memory.max").write_text("50000\n")
    assert memory.room_bytes(own, mounts, free) == 50_000
    mounts.write_text(f"cgroup {top} cgroup rw,memory 0 0\n")
    own.write_text("4:memory:/system.slice/job_7/step_batch\n")
    (job / "memory.limit_in_bytes").write_text("70000\n")
    assert memory.room_bytes(own, mounts, free) == 70_000
    assert memory.room_bytes(own, mounts, tmp_path / "none") == 0
