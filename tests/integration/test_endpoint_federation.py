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
    # A session of the user's own, which serves the same model, answers the user's own key and no other.
    guest = endpoint.new_key("guest")
    own = endpoint.launcher.launch("simulated")
    own.wait()
    wait_until(lambda: replicas(endpoint) == {own.id}, 60)
    status, answer, _ = endpoint.chat("sim")
    assert status == 200, answer
    assert not endpoint.far_sessions("far")
    assert [endpoint.ask("GET", "/v1/models/sim", key=key)[1]["state"] for key in (None, guest)] == [
        "ready",
        "startable",
    ]
    used_at = used(endpoint, own.id)
    status, answer, _ = endpoint.chat("sim", key=guest, hold_s=120)
    assert status == 200, answer
    (far,) = endpoint.far_sessions("far")
    status, jobs, _ = endpoint.ask("GET", "/far/jobs")
    assert [job["Session"] for job in jobs["running"]] == [far.id]
    assert endpoint.chat("sim", key="sk-wrong")[0] == 401
    assert len(replicas(endpoint)) == 2
    assert {endpoint.chat("sim", key=guest)[0] for _ in range(8)} == {200}
    assert replicas(endpoint, guest) == replicas(endpoint) - {own.id}
    assert used(endpoint, own.id) == used_at
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


def shown(endpoint: Endpoint, key: str | None = None) -> list[dict[str, Any]]:
    status = endpoint.ask("GET", "/status", key=key)[1]
    (model,) = [one for one in status["models"] if one["name"] == "sim"]
    found: list[dict[str, Any]] = model["replicas"]
    return found


def replicas(endpoint: Endpoint, key: str | None = None) -> set[str]:
    return {one["id"] for one in shown(endpoint, key)}


def used(endpoint: Endpoint, replica: str) -> float:
    (at,) = [one["used_at"] for one in shown(endpoint) if one["id"] == replica]
    return float(at)
