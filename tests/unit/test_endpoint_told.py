"""What FIRST's lists of jobs say of sessions in each state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.fleet.sight import Sighted
from launcher.fleet.told import jobs
from launcher.sessions.status import FAILED, LAUNCHING, PENDING, READY, SHUTDOWN, UNHEALTHY, Status

PLACES = {
    PENDING: "queued", LAUNCHING: "running", READY: "running", UNHEALTHY: "running", SHUTDOWN: "stopped",
    FAILED: "stopped", "HIBERNATING": "others",
}  # fmt: skip


def sighted(id_: str, state: str) -> Sighted:
    served = SimpleNamespace(served_name="org/served")
    plan = SimpleNamespace(engine="vllm", cluster=SimpleNamespace(name="della"), model=served)
    session: Any = SimpleNamespace(id=id_, plan=plan)
    status = Status(id_, state, 0.0, "So it is.", job_id="7", host="gpu07", ends_at=99.0)
    return Sighted(session, status)


@pytest.mark.parametrize(("state", "place"), PLACES.items())
def test_each_state_has_its_list(state: str, place: str) -> None:
    """FIRST 6: running, queued, stopped, others; what a newer launcher says is among the others."""
    found = jobs([sighted("one", state)], {"one": "chat"})
    (job,) = found[place]
    assert [kind for kind, there in found.items() if there] == [place]
    assert set(found) == {
        "running",
        "queued",
        "stopped",
        "others",
        "private-batch-running",
        "private-batch-queued",
    }
    assert (job["Models"], job["Framework"], job["Cluster"], job["Job ID"]) == ("chat", "vllm", "della", "7")
    assert (job["Model Status"], job["Host Name"], job["Session"]) == (state.lower(), "gpu07", "one")


def test_a_session_that_no_offer_has_goes_by_the_name_of_its_model() -> None:
    assert jobs([sighted("own", READY)], {"one": "chat"})["running"][0]["Models"] == "org/served"
