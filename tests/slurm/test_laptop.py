"""From a laptop to a cluster over real ssh: another user's account, another home, a real Slurm there.

The sessions are the simulated engine's; what ssh does is Debian's OpenSSH on loopback.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.hostile import HOSTILE
from tests.programs.front import wait_until
from tests.programs.laptop import NAME, Laptop
from tests.programs.terminal import Terminal
from tests.site import Answer, Install, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def there(installed: Install, slurm: Cluster, users: People) -> Iterator[Site]:
    """The cluster's site, where Bob has his account."""
    made = Site(installed, slurm)
    yield made
    slurm.run_as(users.bob, ["scancel", "--me"])
    made.remove()


@pytest.fixture(scope="module")
def laptop(there: Site, users: People) -> Iterator[Laptop]:
    needs("sshd", "openssh-server")
    variables = {**there.slurm.env, "LAUNCHER_SITE": str(there.file)}
    with Laptop(users.alice, users.bob, variables) as made:
        made.settle(launcher=there.install.launcher)
        yield made


def run(laptop: Laptop, there: Site, *words: str) -> Answer:
    """`launcher WORDS` on the laptop."""
    done = laptop.run([there.install.launcher, *words])
    return Answer(done.returncode, done.stdout, done.stderr)


def far(laptop: Laptop, there: Site, *words: str) -> Answer:
    """`launcher --cluster far WORDS` on the laptop."""
    return run(laptop, there, "--cluster", NAME, *words)


def python(laptop: Laptop, there: Site, code: str) -> str:
    """What a Python program on the laptop prints."""
    done = laptop.run([str(Path(there.install.launcher).with_name("python")), "-c", code])
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(base_url: str, key: str) -> str:
    """The answer of the session at `base_url`."""
    body = {"model": "simulated", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 3}
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def session(laptop: Laptop, there: Site) -> str:
    """A session on the cluster that was launched from the laptop, and is ready."""
    done = far(laptop, there, "launch", "simulated", "--profile", "cpu", "--wait", "--json")
    assert done.code == 0, done
    assert done.data["state"] == "READY"
    return str(done.data["id"])


def test_a_launch_from_the_laptop_runs_as_the_account_there(
    laptop: Laptop, there: Site, session: str
) -> None:
    """Blackfish 6: a remote profile over ssh does launch and status."""
    status = far(laptop, there, "status", session, "--json")
    assert status.data["state"] == "READY"
    assert Path(status.data["directory"]).is_relative_to(laptop.account.home)
    assert there.slurm.job(status.data["job_id"])["UserId"].startswith(f"{laptop.account.name}(")
    assert not list(laptop.home.glob(".local/state/launcher/sessions/*"))
    # All of this was one login: the connection is shared.
    assert laptop.far.logins == 1


def test_a_launch_on_a_profile_of_that_cluster_goes_there(laptop: Laptop, there: Site, session: str) -> None:
    before = laptop.settings.read_text()
    laptop.settle(f"{before}profiles:\n  cpu: {{cluster: {NAME}}}\nsession: {{profile: cpu}}\n")
    try:
        for words in (["--profile", "cpu"], []):
            done = run(laptop, there, "launch", "simulated", *words, "--dry-run", "--json")
            assert done.code == 0, done
            assert done.data["plan"]["user"] == laptop.account.name
            assert done.data["plan"]["resources"]["partition"] == "cpu"
        started = python(
            laptop,
            there,
            """
from launcher import Launcher
with Launcher() as launcher:
    session = launcher.launch("simulated", hours=0.1)
    print(session.plan.cluster.name, session.plan.user, session.job_id)
""",
        )
        cluster, user, job = started.split()
        assert (cluster, user) == (NAME, laptop.account.name)
        assert there.slurm.wait_for(job, "CANCELLED", "COMPLETED", "FAILED")
    finally:
        laptop.settle(before)


def test_the_doctor_leaves_the_profiles_of_another_launcher_to_it(laptop: Laptop, there: Site) -> None:
    before = laptop.settings.read_text()
    profiles = f"profiles:\n  cpu: {{cluster: {NAME}}}\n  odd: {{cluster: {NAME}}}\n"
    laptop.settle(f"{before}  gone:\n    ssh: gone.invalid\n    launcher: launcher\n{profiles}")
    try:
        said = [line.split(maxsplit=1) for line in run(laptop, there, "doctor").text.splitlines() if line]
        told = {words.partition(": ")[0]: (verdict, words) for verdict, words in said}
        assert told[f"clusters.{NAME}"][0] == "ok"
        assert "its profiles: cpu, gpu, preempt" in told[f"clusters.{NAME}"][1]
        assert told["clusters.gone"][0] == "FAIL"
        assert told["profiles.odd"][0] == "FAIL"
        assert not [about for about in told if about.startswith("profiles.cpu")]
        rows = run(laptop, there, "profiles").text
        assert f"cpu: Its cluster knows: launcher --cluster {NAME} profiles" in rows
    finally:
        laptop.settle(before)


def test_exit_codes_and_words_cross_whole(laptop: Laptop, there: Site, session: str) -> None:
    Path("/tmp/launcher-was-here").unlink(missing_ok=True)
    for word in HOSTILE[1:6] + HOSTILE[13:14]:
        done = far(laptop, there, "status", word, "--json")
        assert done.code == 6, (word, done)
        assert done.data["error"]["kind"] == "session"
    assert not Path("/tmp/launcher-was-here").exists()
    assert far(laptop, there, "launch", "simulated", "--hours", "much").code == 2
    assert far(laptop, there, "launch", "no/such-model").code == 4
    shown = run(laptop, there, "clusters", "--json").data["clusters"]
    assert {part["partition"] for part in shown[-1]["supply"]} >= {"cpu", "gpu"}


def test_everywhere_shows_all_clusters_and_names_the_unreachable(
    laptop: Laptop, there: Site, session: str
) -> None:
    before = laptop.settings.read_text()
    laptop.settle(f"{before}  gone:\n    ssh: gone.invalid\n    launcher: launcher\n")
    try:
        done = run(laptop, there, "status", "--everywhere", "--json")
        clusters = {one["cluster"]: one for one in done.data["clusters"]}
        assert done.code == 0
        assert set(clusters) == {"here", NAME, "gone"}
        assert clusters["here"]["sessions"] == []
        assert session in [one["id"] for one in clusters[NAME]["sessions"]]
        assert "gone.invalid is a name that cannot be found" in clusters["gone"]["trouble"]
        shown = run(laptop, there, "status", "--everywhere")
        assert session in shown.text
        assert "gone: gone.invalid" in shown.error
    finally:
        laptop.settle(before)


def test_python_has_the_same_results_over_ssh(laptop: Laptop, there: Site, session: str) -> None:
    said = python(
        laptop,
        there,
        f"""
from launcher import Launcher, LauncherError, Session
from launcher.sessions.status import Status
far = Launcher(cluster={NAME!r})
found = far.session({session!r})
assert isinstance(found, Session) and found.plan.cluster.name == {NAME!r}, found.plan.cluster
status = found.status()
assert isinstance(status, Status) and status.state == "READY" and status.phases[0].name, status
assert "READY" in [one.state for one in far.statuses(far.sessions()) if one.id == found.id]
assert found.wait().job_id == found.job_id
assert found.metrics().__class__.__name__ == "Metrics"
key, secret = found.keys.new("another", expires="1h")
assert [one.name for one in found.keys] == ["another"] and len(secret) > 40
assert found.keys.revoke("another").name == "another"
assert "simulated" in [one.name for one in far.catalog()], far.catalog()
assert [one.name for one in far.environments()][0], far.environments()
assert far.setup("simulated").values
(one,) = far.cleanup(found.id, dry_run=True)
assert one.kept and not one.removed, one
import json, urllib.request
with found.connect(timeout_s=60) as tunnel:
    headers = {{"Authorization": "Bearer " + tunnel.key}}
    with urllib.request.urlopen(urllib.request.Request(tunnel.base_url + "/models", headers=headers)) as models:
        assert [model["id"] for model in json.load(models)["data"]] == ["simulated"], tunnel.base_url
assert found.details()["id"] == found.id
assert far.record(found.id).plan.id == found.id
import asyncio
from launcher import AsyncLauncher
async def ready():
    session = await AsyncLauncher(cluster={NAME!r}).session({session!r})
    return (await session.wait()).base_url, (await session.status()).state
assert asyncio.run(ready()) == (found.connection.base_url, "READY")
plan = far.plan("simulated", profile="gpu", hours=0.5)
assert (plan.resources.gpu_type, plan.limits.hours) == ("a100", 0.5)
try:
    far.plan("simulated", profile="no-such")
except LauncherError as error:
    print(type(error).__name__, error)
""",
    )
    assert said.startswith('RequestError Unknown profile "no-such"')


def test_launch_connect_wait_reconnect_ask_drop_ask_stop(laptop: Laptop, there: Site) -> None:
    """Blackfish 6: launch, wait, connect, ask, a dropped connection, ask again, stop; della 5: from a laptop."""
    command = [there.install.launcher, "--cluster", NAME]
    start = [*command, "launch", "simulated", "--profile", "cpu", "--connect"]
    with laptop.started(start, start_new_session=True) as connected:
        assert connected.stdout is not None
        name = connected.stdout.readline().split()[1]
        while "http://127.0.0.1:" not in (line := connected.stdout.readline()):
            assert line, "it ended"
        os.killpg(connected.pid, signal.SIGINT)  # as Ctrl-C on a terminal
        connected.communicate(timeout=60)
    waited = far(laptop, there, "wait", name)  # only the connection is over
    assert waited.code == 0, waited
    assert "READY" in waited.text
    shown = 'printf "%s\\n" "$OPENAI_BASE_URL" "$OPENAI_API_KEY"; exec sleep 100'
    with laptop.started(
        [*command, "connect", name, "--", "sh", "-c", shown], start_new_session=True
    ) as again:
        assert again.stdout is not None
        base_url, key = (again.stdout.readline().strip() for _ in range(2))
        assert asked(base_url, key)
        laptop.far.drop()
        wait_until(lambda: _answers(base_url, key), 60)  # the same address and key, through a new login
        os.killpg(again.pid, signal.SIGINT)
        again.wait(60)
    stopped = far(laptop, there, "stop", name, "--json")
    assert stopped.data["state"] == "SHUTDOWN"
    assert stopped.data["reason"] == "user"


def _answers(base_url: str, key: str) -> bool:
    try:
        return bool(asked(base_url, key))
    except OSError:
        return False


def test_a_wait_outlives_its_connection(laptop: Laptop, there: Site) -> None:
    """A wait that lost its connection goes on by itself, and ends as it would have."""
    launched = far(
        laptop, there, "launch", "simulated", "--profile", "cpu", "--json", "--", "--start-delay-s", "12"
    )
    name = launched.data["id"]
    with laptop.started([there.install.launcher, "--cluster", NAME, "wait", name]) as waiting:
        assert waiting.stdout is not None
        while "LAUNCHING" not in (line := waiting.stdout.readline()):
            assert line, "it ended"
        laptop.far.drop()
        out, error = waiting.communicate(timeout=60)
        assert waiting.returncode == 0, error
        assert "READY" in out
        assert f"The connection to {NAME} was lost. Trying again." in error
    far(laptop, there, "stop", name, "--no-wait")


def test_a_followed_log_has_each_line_once_whatever_the_connection_does(
    laptop: Laptop, there: Site, session: str
) -> None:
    status = far(laptop, there, "status", session, "--json").data
    log = Path(status["directory"]) / "engine.log"
    follow = [there.install.launcher, "--cluster", NAME, "logs", session, "-f", "-n", "1"]
    with laptop.started(follow) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        said: list[str] = []
        for count in range(40):
            with log.open("a") as file:
                file.write(f"line {count} – naïve\n")
            if count in (0, 39):
                while not said or said[-1] != f"line {count} – naïve\n":
                    said.append(following.stdout.readline())
                    assert said[-1]
            if count == 20:
                laptop.far.drop()
        assert said == [f"line {count} – naïve\n" for count in range(40)]
        following.send_signal(signal.SIGINT)
        assert following.wait(60) == 130
    wait_until(lambda: not laptop.there("over-ssh"))


def test_nothing_goes_on_there_when_this_end_is_gone(laptop: Laptop, there: Site) -> None:
    """Without a terminal, sshd leaves a program alone whose user is gone; the launcher there ends by itself."""
    slow = ["launch", "simulated", "--profile", "gpu", "--json", "--", "--start-delay-s", "60"]
    pending = far(laptop, there, *slow)
    assert pending.code == 0, pending
    wait = [there.install.launcher, "--cluster", NAME, "wait", pending.data["id"]]
    for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        wait_until(lambda: not laptop.there("over-ssh"))
        with laptop.started(wait, start_new_session=True) as waiting:
            wait_until(lambda: laptop.there("over-ssh"))
            os.killpg(waiting.pid, how)  # ssh's master goes on, as it is meant to
            assert waiting.wait(60) == code
            wait_until(lambda: not laptop.there("over-ssh"))
    far(laptop, there, "stop", pending.data["id"], "--no-wait")


def test_a_terminal_there_is_one_here(laptop: Laptop, there: Site, session: str) -> None:
    owner = ["setpriv", f"--reuid={laptop.owner.uid}", f"--regid={laptop.owner.gid}", "--clear-groups"]
    variables = [f"{name}={value}" for name, value in laptop.env.items()]
    start = [*owner, "env", "-i", "TERM=xterm", *variables, there.install.launcher, "--cluster", NAME]
    with Terminal([*start, "status"], columns=200) as terminal:
        terminal.wait_for(session)
        assert terminal.process.wait(60) == 0
    with Terminal([*start, "logs", session, "-f"]) as terminal:
        wait_until(lambda: laptop.there("over-ssh"))
        terminal.press("ctrl-c")
        assert terminal.process.wait(60) == 130
    wait_until(lambda: not laptop.there("over-ssh"))


def test_nobody_sees_the_keys_on_their_way(laptop: Laptop, there: Site, session: str) -> None:
    """They go through ssh's own channel: no command line of any process has one, on either side."""
    look = 'cat /proc/[0-9]*/cmdline; echo "$OPENAI_API_KEY"'
    done = far(laptop, there, "connect", session, "--", "sh", "-c", look)
    assert done.code == 0, done
    lines, _, key = done.text.rstrip("\n").rpartition("\0")
    (own,) = laptop.account.home.glob(f"*/{session}/api_key")
    for secret in (key, own.read_text().strip()):
        assert len(secret) > 40
        assert secret not in lines
