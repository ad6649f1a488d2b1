"""`launcher connect` on a real Slurm: the address and the key stay while the job starts again elsewhere."""

from __future__ import annotations

import subprocess

import pytest

from tests.programs.front import wait_until
from tests.site import Site
from tests.slurm.people import People, login_environment

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

# It asks whenever it is told to, and tells what came back: an answer, or the exception's name.
ASKING = """
import json, os, sys, urllib.request
body = json.dumps({"model": "simulated", "messages": [{"role": "user", "content": "Hello"}]}).encode()
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
for line in sys.stdin:
    try:
        request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, headers)
        opened = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)
        print(json.load(opened)["choices"][0]["message"]["content"], flush=True)
    except Exception as error:
        print(getattr(error, "code", type(error).__name__), flush=True)
"""


def test_a_job_that_starts_again_keeps_its_address_and_the_key_of_a_connection(
    site: Site, users: People
) -> None:
    """della 5: the job may be requeued to another port, with another key; the program in the middle goes on asking."""
    session = site.launch(users.alice, "simulated", "--profile", "preempt")
    before = site.until(users.alice, session, "READY")
    key = site.key(before)
    program = ["python3", "-c", ASKING]
    with subprocess.Popen(
        [site.install.launcher, "connect", session, "--", *program], text=True, cwd=users.alice.home,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        user=users.alice.uid, group=users.alice.gid, extra_groups=[],
        env=login_environment(users.alice) | site.env,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            print(file=process.stdin, flush=True)
            return process.stdout.readline().strip()

        assert ask().startswith("Simulated answer")
        site.slurm.scontrol("requeue", str(before["job_id"]))
        wait_until(lambda: not ask().startswith("Simulated answer"), 60)
        wait_until(lambda: ask().startswith("Simulated answer"), 90)
        after = site.status(users.alice, session)
        assert (after["state"], after["restarts"]) == ("READY", 1)
        assert site.key(after) != key
        assert after["base_url"] != before["base_url"]
        process.stdin.close()
        told = process.stderr.read() if process.stderr is not None else ""
    assert process.returncode == 0
    assert "the address here is the same" in told
    assert site.run(users.alice, "keys", "ls", session, "--json").data["keys"] == []
    assert site.run(users.alice, "stop", session).code == 0
