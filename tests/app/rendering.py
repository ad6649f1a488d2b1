"""Debian's Ruby with the dashboard's libraries, loaded once for all tests of a process: they take half a second.

Owns the life of render.rb, which answers each request in a process of its own, as the user who asks.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tests.slurm.people import Person, login_environment, myself

RENDER = Path(__file__).parent / "render.rb"
TIMEOUT_S = 60
_one_at_a_time = threading.Lock()


def rendered(
    request: Mapping[str, object], person: Person, env: Mapping[str, str], cwd: Path
) -> dict[str, Any]:
    """The answer of render.rb to `request`, asked by `person` whose login has `env` as well."""
    change = os.geteuid() == 0 and person.uid != 0
    process = {
        "uid": person.uid if change else None,
        "gid": person.gid,
        "groups": os.getgrouplist(person.name, person.gid),
        "env": login_environment(person) | dict(env),
        "cwd": str(cwd),
        "timeout_s": TIMEOUT_S,
    }
    with _one_at_a_time:
        ruby, said = _ruby()
        assert ruby.stdin is not None
        assert ruby.stdout is not None
        before = os.fstat(said.fileno()).st_size
        ruby.stdin.write(json.dumps({**request, "process": process}) + "\n")
        ruby.stdin.flush()
        line = ruby.stdout.readline().strip()
        if not line:
            said.seek(before)
            raise RuntimeError(f"render.rb failed ({ruby.poll()}):\n{said.read().decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@functools.cache
def _ruby() -> tuple[subprocess.Popen[str], IO[bytes]]:
    """render.rb, and the file of what it and all that it starts write."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 as long as the process that writes it
    process = subprocess.Popen(
        ["ruby", str(RENDER)],
        env=login_environment(myself()),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
    )  # fmt: skip
    atexit.register(_end, process, said)
    return process, said


def _end(process: subprocess.Popen[str], said: IO[bytes]) -> None:
    with process, said:
        process.terminate()
