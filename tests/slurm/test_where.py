"""What `launcher profiles` and `launcher clusters` say is what the real Slurm then does."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs
from tests.programs.logins import Logins
from tests.site import SETTINGS, Answer, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

GPU = {"cluster": "test", "partition": "gpu", "gpus": 1, "gpu_type": "a100", "cpus": 1, "memory_gb": 1}


@pytest.fixture(autouse=True)
def idle_cluster(slurm: Cluster) -> Iterator[None]:
    """Nothing of a test is left for the next one, nor of another file's for the first."""
    clear(slurm)
    yield
    clear(slurm)


def clear(slurm: Cluster) -> None:
    jobs = slurm.run_as(slurm.people.alice, ["squeue", "-a", "-h", "-o", "%i"]).stdout.split()
    if jobs:
        slurm.scancel(*jobs)
    slurm.scontrol("delete", "reservation=launcher_test")
    for node in ("g1", "g2", "c1"):
        slurm.scontrol("update", f"nodename={node}", "state=resume")
    slurm.scontrol("update", "partitionname=gpu", "state=up")
    until(lambda: not slurm.run_as(slurm.people.alice, ["squeue", "-a", "-h"]).stdout)


def until(done: Callable[[], Any], timeout_s: float = 60) -> Any:
    """The first true answer of `done`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := done()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.3)
    return answer


def part(site: Site, users: People, partition: str, gpu_type: str | None) -> dict[str, Any]:
    answer = site.run(users.alice, "clusters", "--json")
    assert answer.code == 0, answer
    (cluster,) = answer.data["clusters"]
    (found,) = [s for s in cluster["supply"] if (s["partition"], s["gpu_type"]) == (partition, gpu_type)]
    return dict(found)


def start(site: Site, users: People, profile: str, *arguments: str) -> dict[str, Any]:
    answer = site.run(users.alice, "profiles", "--json", *arguments)
    assert answer.code == 0, answer
    (found,) = [p["start"] for p in answer.data["profiles"] if p["name"] == profile]
    return dict(found)


def test_idle_gpus_are_counted_by_type(site: Site, slurm: Cluster, users: People) -> None:
    """Blackfish 8: what is idle, by type, on a real Slurm."""
    gpu = part(site, users, "gpu", "a100")
    assert (gpu["gpus"], gpu["gpus_idle"], gpu["gpus_idle_node"], gpu["nodes_idle"]) == (8, 8, 4, 2)
    assert (gpu["hours_max"], gpu["pending"], gpu["available"], gpu["default"]) == (1, 0, True, False)
    assert part(site, users, "cpu", None)["default"]
    job = slurm.submit(users.bob, "sleep 60", "-p", "gpu", "-w", "g1", "--gres=gpu:a100:3", "-o", "/dev/null")
    slurm.wait_for(job, "RUNNING")
    gpu = part(site, users, "gpu", "a100")
    assert (gpu["gpus"], gpu["gpus_idle"], gpu["gpus_idle_node"], gpu["nodes_idle"]) == (8, 5, 4, 1)
    # The same nodes in another partition are as busy.
    assert part(site, users, "preempt", "a100")["gpus_idle"] == 5


def test_a_node_without_a_free_core_has_no_idle_gpu(site: Site, slurm: Cluster, users: People) -> None:
    job = slurm.submit(users.bob, "sleep 60", "-p", "gpu", "-w", "g1", "-c", "8", "-o", "/dev/null")
    slurm.wait_for(job, "RUNNING")
    gpu = part(site, users, "gpu", "a100")
    assert (gpu["gpus"], gpu["gpus_idle"]) == (8, 4)


def test_what_is_out_of_service_is_not_counted(site: Site, slurm: Cluster, users: People) -> None:
    slurm.scontrol("update", "nodename=g1", "state=drain", "reason=test")
    gpu = part(site, users, "gpu", "a100")
    assert (gpu["gpus"], gpu["gpus_idle"], gpu["nodes"]) == (4, 4, 1)
    slurm.scontrol("update", "nodename=g2", "state=down", "reason=test")
    assert not part(site, users, "gpu", "a100")["available"]
    slurm.scontrol("update", "nodename=g1", "state=resume")
    slurm.scontrol("update", "nodename=g2", "state=resume")
    slurm.scontrol("update", "partitionname=gpu", "state=down")
    closed = part(site, users, "gpu", "a100")
    assert (closed["available"], closed["gpus_idle"]) == (False, 0)
    assert "gpu (closed)" in site.run(users.alice, "clusters").text
    # The nodes must answer again before they are anybody's.
    until(lambda: part(site, users, "urgent", "a100")["gpus_idle"] == 8)
    assert part(site, users, "gpu", "a100")["gpus_idle"] == 0


def test_a_reserved_node_is_not_idle(site: Site, slurm: Cluster, users: People) -> None:
    slurm.scontrol(
        "create", "reservation", "reservationname=launcher_test", "starttime=now", "duration=60",
        "nodes=g1", "users=root", "flags=maint",
    )  # fmt: skip
    gpu = until(lambda: (found := part(site, users, "gpu", "a100"))["gpus_idle"] == 4 and found)
    assert gpu["nodes_idle"] == 1


def test_jobs_that_wait_for_hardware_are_counted(site: Site, slurm: Cluster, users: People) -> None:
    """Blackfish 8: what jobs wait for."""
    held = slurm.submit(users.bob, "true", "-p", "gpu", "--hold", "-o", "/dev/null")
    slurm.wait_for(held, "PENDING")
    whole = ("-p", "gpu", "-N2", "--gpus-per-node=4", "-o", "/dev/null")
    slurm.wait_for(slurm.submit(users.bob, "sleep 300", *whole), "RUNNING")
    slurm.submit(users.bob, "sleep 300", *whole)
    gpu = until(lambda: (found := part(site, users, "gpu", "a100"))["pending"] and found)
    assert (gpu["pending"], gpu["gpus_idle"]) == (1, 0)
    assert gpu["reasons"]["JobHeldUser"] == 1
    assert part(site, users, "preempt", "a100")["pending"] == 0


def test_one_sinfo_and_one_squeue_for_each_cluster(site: Site, users: People) -> None:
    """P7's rule for the hardware too, and one test-only for each profile that would start now."""
    folder = users.alice.folder("programs-")
    for name in ("sinfo", "squeue", "sbatch", "scontrol", "sacctmgr"):
        counted = folder / name
        counted.write_text(f'#!/bin/sh\necho "$0" >>{folder}/calls\nexec /usr/bin/{name} "$@"\n')
        counted.chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    assert site.run(users.alice, "clusters", PATH=path).code == 0
    assert sorted(Path(line).name for line in (folder / "calls").read_text().split()) == ["sinfo", "squeue"]
    (folder / "calls").unlink()
    assert site.run(users.alice, "profiles", PATH=path).code == 0
    calls = sorted(Path(line).name for line in (folder / "calls").read_text().split())
    assert calls == ["sbatch"] * 3 + ["sinfo", "squeue"]


def test_the_expected_start_is_when_a_running_job_ends(site: Site, slurm: Cluster, users: People) -> None:
    now = start(site, users, "gpu")
    assert now["now"]
    assert now["idle"] == "8 of 8 a100 GPUs are idle, at most 4 on one node."
    whole = ("-p", "gpu", "-N2", "--gpus-per-node=4", "-t", "30", "-o", "/dev/null")
    job = slurm.submit(users.bob, "sleep 300", *whole)
    slurm.wait_for(job, "RUNNING")
    later = start(site, users, "gpu")
    assert not later["now"]
    assert later["starts_at"] == pytest.approx(time.time() + 1800, abs=120)
    assert later["idle"] == "None of 8 a100 GPUs is idle."
    shown = site.run(users.alice, "profiles").text
    assert "in 30 min" in shown or "in 29 min" in shown


def test_less_time_starts_before_a_maintenance(site: Site, slurm: Cluster, users: People) -> None:
    slurm.scontrol(
        "create", "reservation", "reservationname=launcher_test", "starttime=now+40minutes", "duration=60",
        "nodes=g1,g2", "users=root", "flags=maint,ignore_jobs",
    )  # fmt: skip
    found = start(site, users, "gpu")
    assert found["starts_at"] == pytest.approx(time.time() + 100 * 60, abs=120)
    assert found["advice"] == "30 min instead of 1 h would start now."
    # And Slurm keeps that word.
    options = ("-p", "gpu", "--gres=gpu:a100:1", "-o", "/dev/null")
    long = slurm.submit(users.alice, "sleep 60", *options, "-t", "60")
    slurm.wait_for(slurm.submit(users.alice, "sleep 60", *options, "-t", "30"), "RUNNING")
    assert slurm.state(long) == "PENDING"


def test_less_time_starts_in_a_gap_that_backfill_leaves(site: Site, slurm: Cluster, users: People) -> None:
    one = slurm.submit(
        users.bob, "sleep 90", "-p", "gpu", "-w", "g1", "--gres=gpu:a100:4", "-t", "20", "-o", "/dev/null"
    )
    slurm.wait_for(one, "RUNNING")
    both = slurm.submit(
        users.bob, "sleep 90", "-p", "gpu", "-N2", "--gpus-per-node=4", "-t", "60", "-o", "/dev/null"
    )
    # Until backfill has planned the large job, nobody knows how long g2 is free.
    until(lambda: "T" in slurm.job(both).get("StartTime", "").replace("Unknown", ""))
    found = until(lambda: (now := start(site, users, "gpu"))["advice"] and now)
    assert found["advice"] == "15 min instead of 1 h would start now."
    assert found["idle"] == "4 of 8 a100 GPUs are idle; 1 job waits."
    options = ("-p", "gpu", "--gres=gpu:a100:1", "-o", "/dev/null")
    long = slurm.submit(users.alice, "sleep 60", *options, "-t", "60")
    slurm.wait_for(slurm.submit(users.alice, "sleep 60", *options, "-t", "15"), "RUNNING")
    assert slurm.state(long) == "PENDING"


def test_what_slurm_refuses_is_said(site: Site, users: People) -> None:
    site.settle(
        profiles={
            "good": {**GPU, "hours_max": 1},
            "type": {**GPU, "hours_max": 1, "gpu_type": "h100"},
            "partition": {**GPU, "hours_max": 1, "partition": "gup"},
            "long": {**GPU, "hours": 48, "hours_max": 48},
        }
    )
    answer = site.run(users.alice, "profiles", "--json")
    starts = {p["name"]: p["start"] for p in answer.data["profiles"]}
    assert starts["good"]["trouble"] is None
    assert starts["type"]["trouble"] == "Slurm refuses it: Requested node configuration is not available."
    assert starts["type"]["idle"] == "Slurm knows no such partition or GPU."
    assert starts["partition"]["trouble"] == "Slurm refuses it: Invalid partition name specified."
    assert starts["long"]["trouble"] == "Partition gpu allows up to 1 h, not 48 h."
    lines = site.run(users.alice, "profiles").text.splitlines()
    assert "type: Slurm refuses it: Requested node configuration is not available." in lines


def test_a_silent_slurm_is_one_sentence(site: Site, users: People) -> None:
    def silent(*arguments: str) -> Answer:
        return site.run(users.alice, *arguments, SLURM_CONF="/dev/null")

    answer = silent("clusters")
    assert answer.code == 5
    assert answer.error.startswith("test: sinfo refused: ")
    assert len(answer.error.splitlines()) == 1
    answer = silent("profiles")
    assert answer.code == 0
    assert "cpu: sinfo refused: " in answer.text


def test_a_session_on_a_cluster_over_ssh(site: Site, slurm: Cluster, users: People) -> None:
    needs("sshd", "openssh-server")
    needs("ssh", "openssh-client")
    far = {"far": {"scheduler": "slurm", "ssh": "login-elsewhere"}}
    profile = {"cpu": {**SETTINGS["profiles"]["cpu"], "cluster": "far"}}
    site.settle(clusters=far, profiles=profile)
    # As on a machine that has no Slurm of its own.
    here = functools.partial(site.run, users.alice, SLURM_CONF="/nowhere", PATH="/usr/bin:/bin")
    with Logins(users.alice, "login-elsewhere", slurm.env):
        launched = here("launch", "simulated", "--json", "--wait")
        assert launched.code == 0, launched
        assert launched.data["state"] == "READY"
        session = launched.data["id"]
        (told,) = here("status", "--json").data["sessions"]
        assert (told["id"], told["state"]) == (session, "READY")
        stopped = here("stop", session, "--json")
        assert (stopped.code, stopped.data["state"]) == (0, "SHUTDOWN"), stopped
        assert slurm.run_as(users.alice, ["squeue", "--me", "-h"]).stdout == ""


def test_a_cluster_over_ssh(site: Site, slurm: Cluster, users: People) -> None:
    needs("sshd", "openssh-server")
    needs("ssh", "openssh-client")
    clusters = {**SETTINGS["clusters"], "far": {"scheduler": "slurm", "ssh": "login-elsewhere"}}
    far = {**GPU, "cluster": "far", "hours_max": 1}
    site.settle(clusters=clusters, profiles={"near": {**GPU, "hours_max": 1}, "far": far})
    with Logins(users.alice, "login-elsewhere", slurm.env):
        # Nothing of this cluster is known here: it must really be asked over there.
        answer = site.run(users.alice, "clusters", "--json", SLURM_CONF="/dev/null")
        there, near = answer.data["clusters"]
        assert near["trouble"]
        assert there["trouble"] is None
        assert {s["gpus_idle"] for s in there["supply"] if s["partition"] == "gpu"} == {8}
        answer = site.run(users.alice, "profiles", "--json", SLURM_CONF="/dev/null")
        assert {p["name"]: p["start"]["now"] for p in answer.data["profiles"]} == {"far": True, "near": False}
    answer = site.run(users.alice, "profiles", "--json")
    there, near = (profile["start"] for profile in answer.data["profiles"])
    assert near["now"]
    assert there["trouble"].startswith("login-elsewhere cannot be reached over ssh: ")
    assert "set up a key" in there["trouble"]


def test_mistakes_of_the_command_line(site: Site, users: People) -> None:
    for hours in ("x", "0", "-1", "nan", "$(id)"):
        answer = site.run(users.alice, "profiles", f"--hours={hours}")
        assert (answer.code, len(answer.error.splitlines())) == (2, 1), answer
        assert f'not "{hours}"' in answer.error


def test_this_machine_without_a_queue(site: Site, users: People) -> None:
    site.settle(clusters={"here": {"scheduler": "local"}}, profiles={"here": {"cluster": "here", "cpus": 1}})
    assert start(site, users, "here")["now"]
    answer = site.run(users.alice, "clusters", "--json")
    (supply,) = answer.data["clusters"][0]["supply"]
    assert supply["cpus"] == len(os.sched_getaffinity(0))
    # A driver with four GPUs, of which somebody fills two.
    folder = users.alice.folder("programs-")
    driver = folder / "nvidia-smi"
    cards = ["NVIDIA A100-SXM4-80GB, 4", "NVIDIA A100-SXM4-80GB, 71234", "NVIDIA L4, 300", "NVIDIA L4, [N/A]"]
    driver.write_text("#!/bin/sh\n" + "".join(f"echo '{card}'\n" for card in cards))
    driver.chmod(0o755)
    answer = site.run(users.alice, "clusters", "--json", PATH=f"{folder}:/usr/bin:/bin")
    idle = {s["gpu_type"]: (s["gpus_idle"], s["gpus"]) for s in answer.data["clusters"][0]["supply"]}
    assert idle == {"a100": (1, 2), "l4": (1, 2)}
