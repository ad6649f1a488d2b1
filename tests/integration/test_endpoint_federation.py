"""An endpoint over two clusters, one of them behind a real ssh with a launcher of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs.endpoint import Endpoint, Load
from tests.programs.front import ROOT, wait_until
from tests.programs.loopback import Host, Loopback
from tests.settings import without_site

pytestmark = pytest.mark.timeout(240)

FAR = """\
#!/bin/sh
{exports}
cd {root} && exec {python} -m launcher "$@"
"""
SETTINGS: dict[str, Any] = {
    "clusters": {"far": {"ssh": "login"}},
    "profiles": {"far": {"cluster": "far", "hours_max": 24}},
}


@pytest.fixture
def endpoint(tmp_path: Path, hosts: Loopback, login: Host) -> Iterator[Endpoint]:
    """It starts its model on the far cluster first, then here."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "config.yml").write_text("profiles: {far: {cluster: local, hours_max: 24}}\n")
    own = {**without_site(there), "LAUNCHER_CONFIG": str(there / "config.yml")}
    program = tmp_path / "far-launcher"
    exports = "\n".join(f"export {name}='{value}'" for name, value in own.items())
    program.write_text(FAR.format(exports=exports, root=ROOT, python=sys.executable))
    program.chmod(0o755)
    clusters = {"far": {"ssh": "login", "launcher": str(program)}}
    offers = {"sim": {"model": "simulated", "profiles": ["far", "local"], "maximum": 1}}
    with Endpoint(tmp_path / "here", offers, **{**SETTINGS, "clusters": clusters}) as made:
        yield made
        for session in made.far_sessions("far"):
            session.stop()


def test_the_first_cluster_serves_and_the_next_one_when_it_is_gone(endpoint: Endpoint, login: Host) -> None:
    """FIRST 7: the first cluster with the model serves, over ssh; when it dies, requests go to the next."""
    status, answer, _ = endpoint.chat("sim", hold_s=120)
    assert status == 200, answer
    assert not endpoint.sessions()
    (far,) = endpoint.far_sessions("far")
    status, jobs, _ = endpoint.ask("GET", "/far/jobs")
    assert [job["Session"] for job in jobs["running"]] == [far.id]
    assert endpoint.chat("sim", key="sk-wrong")[0] == 401

    # A session of the user's own, which serves the same model, gets requests like any other.
    own = endpoint.launcher.launch("simulated")
    own.wait()
    wait_until(lambda: len(replicas(endpoint)) == 2, 60)
    with Load(endpoint, "sim", threads=3) as load:
        load.more(20)
        login.stop()
        load.more(40)
        wait_until(lambda: replicas(endpoint) == {own.id}, 60)
        load.more(20)
    assert set(load.statuses) == {200}, load.troubles
    # It is found again, and was not started a second time.
    login.start()
    wait_until(lambda: len(replicas(endpoint)) == 2, 90)
    assert len(endpoint.far_sessions("far")) == 1


def replicas(endpoint: Endpoint) -> set[str]:
    (model,) = [one for one in endpoint.ask("GET", "/status")[1]["models"] if one["name"] == "sim"]
    return {one["id"] for one in model["replicas"]}
