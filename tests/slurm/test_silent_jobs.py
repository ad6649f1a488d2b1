"""A job that dies before its session can speak is explained by whoever looks, from what the job's shell wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People, Person

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def own_launcher(site: Site, person: Person) -> Path:
    """The installed launcher again, in a venv of `person`'s own, which can go."""
    theirs, mine = Path(site.install.launcher).parents[1], person.folder("own-venv-")
    (mine / "bin").mkdir()
    (mine / "bin" / "python3").symlink_to(os.path.realpath(theirs / "bin" / "python3"))
    shutil.copy(theirs / "pyvenv.cfg", mine)
    (mine / "lib").symlink_to(os.path.realpath(theirs / "lib"))
    script = mine / "bin" / "launcher"
    script.write_text(f"#!{mine}/bin/python3\nimport sys\nfrom launcher.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    for path in (mine, *mine.rglob("*")):
        os.chown(path, person.uid, person.gid, follow_symlinks=False)
    return script


def test_what_was_lost_while_the_job_waited_is_named(site: Site, slurm: Cluster, users: People) -> None:
    """vec-inf 5, della 6: a venv that is gone when the job starts: its reason, not `lost`, and no endless waiting."""
    alice = users.alice
    blocker = slurm.submit(alice, "sleep 300", "-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    slurm.wait_for(blocker, "RUNNING")
    program = own_launcher(site, alice)
    asked = ["launch", "simulated", "--profile", "gpu", "--json"]
    made = slurm.run_as(alice, [str(program), *asked], env=site.env)
    assert made.returncode == 0, made
    gone = site.run(alice, "status", "--json").data["sessions"][0]
    shutil.rmtree(program.parents[1])
    slurm.scancel(blocker)

    answer = site.run(alice, "wait", gone["id"], "--json")
    assert answer.code == 7, answer
    status = site.status(alice, gone["id"])
    assert (status["state"], status["reason"]) == ("FAILED", "environment")
    assert f"the node has no {program} that runs" in status["message"]
    assert "job.log" in status["log"]
    assert str(program) in status["quote"]
