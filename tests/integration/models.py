"""One user's launcher before a hub on loopback, and a model of two shards on it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.models.resolve import SHIPPED
from tests.programs.hub import Hub
from tests.site import Install
from tests.slurm.people import Person, login_environment

CONFIG = (SHIPPED / "tiny-chat" / "config.json").read_bytes()
GROUP = 54321  # nobody's: the users get it for their processes only
BIG = "model-00002-of-00002.safetensors"


def weights(size: int, seed: int = 1) -> bytes:
    header = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([seed]) * size


FILES = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "LICENSE": b"free",
    "model-00001-of-00002.safetensors": weights(50_000),
    BIG: weights(4_000_000, 2),
    "pytorch_model.bin": b"never wanted",
    "original/consolidated.00.pth": b"nor this",
}


@dataclass
class Models:
    """One user's launcher before one hub."""

    hub: Hub
    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def own(self) -> Path:
        return self.root / "own"

    @property
    def shared(self) -> Path:
        return self.root / "shared"

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "launcher", "models", *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0, **env: str) -> tuple[str, str]:
        process = self.start(*arguments, **env)
        out, error = process.communicate(timeout=60)
        assert process.returncode == code, out + error
        assert "Traceback" not in error
        return out, error

    def refused(self, *arguments: str, code: int = 4, **env: str) -> str:
        error = self.run(*arguments, code=code, **env)[1]
        return error.splitlines()[-1].removeprefix("launcher: ")

    def settle(self, **blocks: Any) -> None:
        site = {"models": {"folders": [str(self.shared)], "cache": str(self.own)}, **blocks}
        (self.root / "site.yml").write_text(json.dumps(site))

    def blob(self, name: str) -> Path:
        (found,) = self.own.glob(f"models--*/snapshots/*/{name}")
        return found.resolve()

    def login(self, token: str = "hf_secret", mode: int = 0o600) -> Path:
        path = self.root / "hf" / "token"
        path.parent.mkdir(exist_ok=True)
        path.write_text(token + "\n")
        path.chmod(mode)
        return path


@contextmanager
def before_a_hub(root: Path) -> Iterator[Models]:
    """A user with the home `root` and a hub that has org/name."""
    (root / "shared").mkdir()
    with Hub() as hub:
        made = Models(hub, root)
        made.env = {
            "PATH": os.environ["PATH"], "HOME": str(root), "HF_HOME": str(root / "hf"),
            "HF_ENDPOINT": hub.endpoint, "LAUNCHER_SITE": str(root / "site.yml"), "LAUNCHER_CONFIG": os.devnull,
        }  # fmt: skip
        made.settle()
        hub.add("org/name", FILES)
        yield made


@contextmanager
def shared_by_a_group(mode: int, group: int = GROUP) -> Iterator[Models]:
    """Before a hub that has org/name: a folder of models of root's that `group` shares, and users' own caches."""
    with tempfile.TemporaryDirectory(prefix="launcher-models-") as name, Hub() as hub:
        root = Path(name)
        root.chmod(0o755)
        site = root / "site.yml"
        env = {"HF_ENDPOINT": hub.endpoint, "LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": os.devnull}
        made = Models(hub, root, env)
        made.shared.mkdir()
        os.chown(made.shared, 0, group)
        made.shared.chmod(mode)
        places = {"folders": [str(made.shared)], "cache": "~/.cache/huggingface/hub"}
        site.write_text(json.dumps({"models": places}))
        hub.add("org/name", FILES)
        yield made


def start_as(
    person: Person, umask: int, install: Install, models: Models, *arguments: str
) -> subprocess.Popen[str]:
    env = {name: models.env[name] for name in ("HF_ENDPOINT", "LAUNCHER_SITE", "LAUNCHER_CONFIG")}
    return subprocess.Popen(
        [install.launcher, "models", *arguments],
        env=login_environment(person) | env, cwd=person.home, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        user=person.uid, group=person.gid, extra_groups=[GROUP], umask=umask,
    )  # fmt: skip
