"""One folder of models for many: two downloads at once, other people's permissions, and huggingface_hub's own cache."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.models import (
    BIG,
    CONFIG,
    FILES,
    GROUP,
    Models,
    before_a_hub,
    shared_by_a_group,
    start_as,
    weights,
)
from tests.site import Install
from tests.slurm.people import People


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with before_a_hub(tmp_path) as made:
        yield made


def test_two_processes_at_once_end_with_one_good_copy(models: Models) -> None:
    both = [models.start("add", "org/name", "--to", str(models.shared), "--json") for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    told = [json.loads(out)["transferred"] for out, _ in answers]
    assert min(told) == 0
    assert models.hub.transferred(BIG) == [0]
    assert "all right" in models.run("verify", "org/name")[0]


def test_a_file_system_without_locks_costs_time_and_breaks_nothing(models: Models) -> None:
    # As Lustre mounted without flock: the call is there and says no.
    code = (
        "import errno, fcntl, sys\n"
        "def flock(*_): raise OSError(errno.ENOSYS, 'no locks')\n"
        "fcntl.flock = flock\n"
        "from launcher.cli import main\n"
        "sys.exit(main(['models', 'add', 'org/name']))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=models.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert "all right" in models.run("verify", "org/name")[0]
    assert list(models.own.rglob("*.incomplete")) == []


def test_two_users_share_a_folder_whatever_their_umask_is(users: People, installed: Install) -> None:
    """Blackfish 4: two people, one folder."""
    with shared_by_a_group(0o2770) as models:
        hub = models.hub
        closed, usual = (users.alice, 0o077), (users.bob, 0o022)
        to = ("--to", str(models.shared), "--json")
        both = [start_as(*who, installed, models, "add", "org/name", *to) for who in (closed, usual)]
        answers = [process.communicate(timeout=90) for process in both]
        assert [process.returncode for process in both] == [0, 0], answers
        assert hub.transferred(BIG) == [0]
        for who in (closed, usual):
            process = start_as(*who, installed, models, "verify", "org/name")
            out, error = process.communicate(timeout=60)
            assert process.returncode == 0, out + error
            assert "all right" in out
        # What one began the other goes on with, and each may add a revision to what the other made.
        hub.add("org/name", {**FILES, BIG: weights(4_000_000, 9)}, revision="v2")
        hub.trouble(BIG, cut=[2_500_000], status=[200, 500, 500, 500])
        process = start_as(*closed, installed, models, "add", "org/name", "--revision", "v2", *to)
        assert process.communicate(timeout=90)
        assert process.returncode == 4
        hub.troubles.clear()
        process = start_as(*usual, installed, models, "add", "org/name", "--revision", "v2", *to)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, out + error
        assert hub.transferred(BIG)[-1] == 2 << 20
        for path in models.shared.rglob("*"):
            status = path.lstat()
            assert status.st_gid == GROUP, path
            assert status.st_mode & stat.S_IWOTH == 0 or path.is_symlink(), path
            if path.is_dir():
                assert status.st_mode & 0o2070 == 0o2070, path
        owner = (models.shared / "models--org--name").stat().st_uid
        other = usual if owner == users.alice.uid else closed
        process = start_as(*other, installed, models, "rm", "org/name", "--all", "--yes")
        assert "so it is not yours to remove" in process.communicate(timeout=60)[1]
        assert process.returncode == 8


def test_a_folder_that_may_not_be_written_is_said(users: People, installed: Install) -> None:
    with shared_by_a_group(0o755, 0) as models:
        process = start_as(
            users.alice, 0o022, installed, models, "add", "org/name", "--to", str(models.shared)
        )
        error = process.communicate(timeout=60)[1]
        assert process.returncode == 8
        assert error.startswith(
            f"launcher: You may not write {models.shared}/models--org--name. Leave --to out"
        )
        assert error.rstrip().endswith(f"ask root to let its group write it: chmod -R g+rwX {models.shared}")
        os.chown(models.shared, 0, GROUP + 1)
        models.shared.chmod(0o2775)
        process = start_as(
            users.alice, 0o022, installed, models, "add", "org/name", "--to", str(models.shared)
        )
        error = process.communicate(timeout=60)[1]
        assert error.rstrip().endswith(f"or ask root to add you to the group {GROUP + 1}.")
        os.chown(models.shared, users.alice.uid, 0)
        models.shared.chmod(0o555)
        process = start_as(
            users.alice, 0o022, installed, models, "add", "org/name", "--to", str(models.shared)
        )
        error = process.communicate(timeout=60)[1]
        assert error.rstrip().endswith(f"or let yourself write it: chmod u+rwX {models.shared}")


def test_the_hubs_own_client_and_ours_use_each_others_files(models: Models) -> None:
    code = (
        "import sys; from huggingface_hub import scan_cache_dir, snapshot_download;"
        "print(snapshot_download('org/name', cache_dir=sys.argv[1], token=False, allow_patterns=sys.argv[2]));"
        "print(len(scan_cache_dir(sys.argv[1]).warnings))"
    )

    def theirs(pattern: str) -> list[str]:
        argv = [sys.executable, "-c", code, str(models.own), pattern]
        done = subprocess.run(argv, env=models.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    theirs(BIG)
    models.run("add", "org/name")
    assert models.hub.transferred(BIG) == [0]
    path, warnings = theirs("*")
    assert warnings == "0"
    assert models.hub.transferred(BIG) == [0]
    assert Path(path, "config.json").read_bytes() == CONFIG
