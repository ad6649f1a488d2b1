"""Open OnDemand's job on a real Slurm, with the real order of its wrapper, for both versions."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import yaml

from launcher.ui.snippets import key_command, snippets
from tests.app.ondemand import OnDemand, Version
from tests.conftest import needs_ruby
from tests.site import Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People
from tests.slurm.test_sessions import ask

pytestmark = [pytest.mark.slurm, pytest.mark.app, pytest.mark.timeout(240)]


@pytest.fixture(params=["3.1", "4.2"])
def ood(request: pytest.FixtureRequest, site: Site) -> OnDemand:
    needs_ruby()
    version: Version = request.param
    return OnDemand(site.install.app, version, env=site.env)


def test_the_card_runs_only_after_a_real_answer(
    ood: OnDemand, site: Site, slurm: Cluster, users: People
) -> None:
    alice = users.alice
    values = ood.posted(alice, model="simulated", engine_args="--start-delay-s 4")
    session = ood.launch(slurm, alice, values)
    card = session.wait_for("Starting", "Running")
    while card.state != "Running":
        assert card.connection is None
        assert card.info_html is not None
        assert "simulated" in card.info_html
        card = session.wait_for("Starting", "Running")
    connection = card.connection
    assert connection is not None
    identity = connection["session_id"]
    status = site.status(alice, identity)
    assert status["state"] == "READY"
    # What OOD reads back is what the session wrote, with the types that YAML gives.
    assert status["base_url"] == f"http://{connection['host']}:{connection['port']}/v1"
    assert isinstance(connection["port"], int)
    assert connection["password"] == site.key(status)
    assert (connection["model"], connection["login_host"]) == ("simulated", "login.example.edu")
    assert connection["ends_at"] == pytest.approx(status["ends_at"], abs=1)
    assert "Simulated answer" in ask(site, status)
    view = card.view_html or ""
    assert f'action="/node/{connection["host"]}/{connection["port"]}/login"' in view
    assert f'value="{connection["password"]}"' in view
    assert connection["password"] not in re.sub(r'value="[^"]*"', "", view)  # in the two inputs, nowhere else
    assert f"ssh -N -L 8000:{connection['host']}:{connection['port']} login.example.edu" in view
    # Markdown has left the code to paste alone.
    shown = re.findall(r"<code[^>]*>(.*?)</code>", session.card().info_html or "", re.DOTALL)
    wanted = [snippet.code.rstrip() for snippet in snippets(status["base_url"], "simulated")]
    assert [html.unescape(code) for code in shown] == [
        key_command(str(session.staged_root / "api_key")),
        *wanted,
    ]
    assert "<a " not in view
    for name in (
        "connection.yml",
        "connection.json",
        "api_key",
        "session.json",
        "connection.words",
        "card.html",
    ):
        assert (session.staged_root / name).stat().st_mode & 0o777 == 0o600, name
    assert session.staged_root.stat().st_mode & 0o777 == 0o700

    session.cancel()
    ended = session.wait_for("Completed")
    assert ended.completed_html is not None
    assert "The job was cancelled." in ended.completed_html
    assert site.until(alice, identity, "SHUTDOWN")["reason"] == "cancelled"
    assert not (session.staged_root / "connection.json").exists()


def test_a_failing_engine_fails_the_job_and_says_why(ood: OnDemand, slurm: Cluster, users: People) -> None:
    values = ood.posted(
        users.alice, model="simulated",
        engine_args="--fail-at start --fail-with '<img src=x onerror=alert(1)> no such device' --fail-code 3",
    )  # fmt: skip
    session = ood.launch(slurm, users.alice, values)
    card = session.wait_for("Completed")
    assert not (session.staged_root / "connection.yml").exists()
    assert slurm.wait_for(session.job_id, "FAILED")["JobState"] == "FAILED"
    assert card.completed_html is not None
    assert "stopped" in card.completed_html
    assert "engine.log" in card.completed_html
    assert "<img" not in card.completed_html


def test_a_killed_session_is_explained_by_slurm(ood: OnDemand, slurm: Cluster, users: People) -> None:
    session = ood.launch(slurm, users.alice, ood.posted(users.alice, model="simulated"))
    session.wait_for("Running")
    slurm.run_as(users.alice, ["scancel", "--signal=KILL", "--full", session.job_id])
    card = session.wait_for("Completed")
    assert card.completed_html
    assert "alert" in card.completed_html


def test_a_requeued_job_shows_no_dead_port(ood: OnDemand, site: Site, slurm: Cluster, users: People) -> None:
    session = ood.launch(slurm, users.alice, ood.posted(users.alice, model="simulated"))
    first = session.wait_for("Running").connection
    assert first is not None
    slurm.scontrol("requeue", session.job_id)
    slurm.wait_for(session.job_id, "PENDING")
    card = session.wait_for("Starting", "Running", timeout_s=120)
    card = card if card.state == "Running" else session.wait_for("Running", timeout_s=60)
    second = card.connection
    assert second is not None
    assert second["password"] != first["password"]
    written = yaml.safe_load(Path(session.staged_root, "connection.yml").read_text())
    assert written["port"] == second["port"]
    assert "Simulated answer" in ask(site, site.until(users.alice, second["session_id"], "READY"))
