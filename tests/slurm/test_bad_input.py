"""Bad input at the shell door: one clear sentence each, an exit code by kind, and nothing left half made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.conftest import skip_loudly
from tests.hostile import HOSTILE
from tests.site import Site
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def nothing_left(site: Site, users: People) -> bool:
    return site.run(users.bob, "status", "--json").data == {"sessions": []}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["launch", "tiny-caht"], 4, "Did you mean tiny-chat?"),
        (["launch", "simulated", "--profile", "gup"], 2, "Did you mean gpu"),
        (
            ["launch", "simulated", "--hours", "99"],
            2,
            'No profile here allows 99 hours. The longest is "cpu"',
        ),
        (
            ["launch", "simulated", "--profile", "cpu", "--hours", "99"],
            2,
            '"cpu" allows up to 1 hour, not 99.',
        ),
        (
            ["launch", "simulated", "--profile", "gpu", "--gpus", "64"],
            2,
            'Profile "gpu" has at most 1 GPU on a node',
        ),
        (["launch", "simulated", "--gpus", "64"], 2, 'The most are 4, on "preempt".'),
        (["launch", "simulated", "--hours", "x"], 2, '--hours must be a number, not "x".'),
        (["launch", "simulated", "--", "--no-such-option"], 2, "--no-such-option"),
        (["launch", "simulated", "--", "--uds", "/tmp/x"], 2, "--uds"),
        (["launch", "simulated", "--hour", "1"], 2, "--hour"),
        (["launch", "/nowhere"], 4, "There is no folder /nowhere."),
        (["status", "zzz"], 6, 'There is no session "zzz".'),
        (["stop", "zzz"], 6, "You have none; start one with"),
        (["wait"], 2, "Name sessions, or write --all"),
        (["lunch"], 2, 'Unknown command "lunch". Did you mean launch?'),
        ([], 2, "COMMAND"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    site: Site, users: People, arguments: list[str], code: int, sentence: str
) -> None:
    answer = site.run(users.bob, *arguments)
    assert answer.code == code, answer
    assert sentence in answer.error
    assert len(answer.error.strip().splitlines()) == 1
    assert "Traceback" not in answer.error
    assert nothing_left(site, users)


def test_a_mistake_is_json_when_json_is_asked_for(site: Site, users: People) -> None:
    answer = site.run(users.bob, "launch", "tiny-caht", "--json")
    assert answer.code == 4
    assert json.loads(answer.text)["error"]["kind"] == "model"


def test_a_missing_snapshot_file_is_named(site: Site, users: People, tmp_path: Path) -> None:
    folder = users.bob.folder("model-")
    shipped = site.install.prefix.glob(
        "releases/*/venv/lib/python*/site-packages/launcher/models/shipped/tiny-chat"
    )
    for file in next(iter(shipped)).iterdir():
        shutil.copy(file, folder / file.name)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    subprocess.run(["chown", "-R", f"{users.bob.uid}", str(folder)], check=True)
    answer = site.run(users.bob, "launch", str(folder))
    assert answer.code == 4
    assert "model-00001-of-00002.safetensors is missing" in answer.error
    assert nothing_left(site, users)


def test_a_broken_site_file_is_named(site: Site, users: People) -> None:
    site.settle(profiles={"gpu": {"cluster": "test", "gpus": "two"}})
    answer = site.run(users.bob, "launch", "simulated")
    assert answer.code == 3
    line = 1 + site.file.read_text().splitlines().index("    gpus: two")
    assert f'{site.file}, line {line}: profiles.gpu.gpus must be a whole number, not "two".' in answer.error


def test_sbatch_refusing_is_told_in_its_own_words(site: Site, users: People) -> None:
    # The site's file promises more than the cluster has: what is refused then is Slurm's to say.
    profiles = yaml.safe_load(site.file.read_text())["profiles"]
    site.settle(profiles={**profiles, "gpu": {**profiles["gpu"], "gpus_max": 64}})
    for option, value, words in (
        ("--partition", "nowhere", "invalid partition"),
        ("--gpus", "64", "configuration is not available"),
        ("--qos", "gold", "qos"),
    ):
        answer = site.run(users.bob, "launch", "simulated", "--profile", "gpu", option, value)
        if answer.code == 0:  # Slurm without accounting takes any QOS
            assert option == "--qos"
            site.run(
                users.bob,
                "stop",
                json.loads(site.run(users.bob, "status", "--json").text)["sessions"][0]["id"],
            )
            continue
        assert answer.code == 5, answer
        assert "sbatch refused" in answer.error
        assert words in answer.error.lower()
        assert nothing_left(site, users)


def test_a_machine_without_slurm_is_told(site: Site, users: People) -> None:
    without = site.run(users.bob, "launch", "simulated", PATH="/nowhere")
    assert without.code == 5
    assert "There is no program sbatch here." in without.error


@pytest.fixture
def full_disk(users: People) -> Iterator[Path]:
    """A file system of Bob's with no space left."""
    folder = users.bob.folder("full-")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=64k,uid={users.bob.uid},mode=0700", "tmpfs", str(folder)],
        check=False,
    )
    if mounted.returncode:
        skip_loudly("a full disk: this machine does not let root mount a tmpfs")
    descriptor = os.open(folder / "fill", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, b"x" * 4096)
    os.close(descriptor)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(site: Site, users: People, full_disk: Path) -> None:
    answer = site.run(users.bob, "launch", "simulated", LAUNCHER_PLACES__SESSIONS=str(full_disk / "sessions"))
    assert answer.code == 8, answer
    assert "No space left on device" in answer.error
    assert "places.sessions" in answer.error
    assert not list(full_disk.glob("sessions/*"))


@pytest.mark.parametrize("text", [t for t in HOSTILE if "\0" not in t])
def test_hostile_texts_as_model_and_as_session(site: Site, users: People, text: str) -> None:
    for command in ("launch", "status", "stop", "wait", "logs"):
        answer = site.run(users.bob, command, text)
        if text == "--help":
            assert answer.code == 0
            continue
        assert answer.code in (2, 4, 6), (command, answer)
        assert "Traceback" not in answer.error
        assert len(answer.error.strip().splitlines()) == 1, answer.error


def test_a_session_in_a_folder_of_any_name(site: Site, users: People) -> None:
    """The state folder's name reaches sbatch, bash and the supervisor untouched."""

    def whole(name: str) -> None:
        folder = str(users.bob.folder("odd-") / name)
        session = site.run(users.bob, "launch", "simulated", "--json", LAUNCHER_PLACES__SESSIONS=folder)
        assert session.code == 0, session
        identity = session.data["id"]
        waited = site.run(
            users.bob, "wait", identity, "--json", LAUNCHER_PLACES__SESSIONS=folder, timeout_s=90
        )
        assert waited.data["state"] == "READY", waited
        stopped = site.run(users.bob, "stop", identity, "--json", LAUNCHER_PLACES__SESSIONS=folder)
        assert stopped.data["reason"] == "user"

    names = ("a 0", 'a"=0"', "a'; echo foo", "$(id)", "ünï")
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(whole, names))
