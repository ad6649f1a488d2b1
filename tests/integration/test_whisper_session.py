"""A Whisper session on this machine, for real: launched, ready by a real answer, used through its gateway, ended.

What the server answers in detail is tests/contract's; here is what only a whole session shows: keys, limits, restarts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from launcher import Connection, Launcher, Session
from launcher.api.methods import methods
from launcher.api.record import read
from launcher.api.rerun import prepared
from launcher.cli.metrics import rows as metric_rows
from launcher.engines.whisper_arguments import PACKAGES
from launcher.errors import EngineError
from launcher.gateway.place import Place
from launcher.models.resolve import SHIPPED
from launcher.sessions import keys
from launcher.sessions.paths import SessionPaths
from launcher.settings.layers import load
from tests.conftest import needs
from tests.integration.test_local_sessions import children, gone
from tests.programs.containers import PROGRAMS, make_image
from tests.programs.front import KEY, wait_until
from tests.programs.replicas import endpoint
from tests.snapshots import as_nobody
from tests.speech import needs_speech, say, silence

pytestmark = pytest.mark.timeout(120)
MODEL = "tiny-whisper"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whisper")


@pytest.fixture(scope="module")
def recordings(place: Path) -> Path:
    """The one folder that the site lets sessions read, with one word in it."""
    needs_speech()
    folder = place / "recordings $(id)"
    folder.mkdir()
    say("seven", folder / "seven.wav")
    return folder


def launcher_in(place: Path, name: str, **settings: object) -> Launcher:
    site = place / f"{name}.yml"
    found = {
        "clusters": {"local": {"scheduler": "local"}},
        "profiles": {"local": {"cluster": "local", "hours_max": 2}},
        "places": {"sessions": str(place / "sessions"), "cache": str(place / "cache")},
        "network": {"bind": "127.0.0.1"},
        "session": {"page": False},
    }
    site.write_text(json.dumps({**found, **settings}))
    return Launcher(load({"LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": os.devnull}))


@pytest.fixture(scope="module")
def session(place: Path, recordings: Path) -> Iterator[Session]:
    """One session for all tests that leave it as it was."""
    launcher = launcher_in(
        place, "site", allow={"audio_folders": [str(recordings)]}, limits={"audio_hours": 0.01}
    )
    with launcher.launch(MODEL) as running:
        running.wait()
        yield running


@pytest.fixture
def client(session: Session) -> Iterator[openai.OpenAI]:
    with session.openai() as found:
        yield found


def usage(session: Session) -> dict[str, float]:
    connection = session.connection
    assert connection is not None
    url = connection.base_url.removesuffix("/v1") + "/status"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {connection.key}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, float] = json.load(answer)["usage"]
    return found


def test_a_word_is_heard_and_its_seconds_are_counted(
    session: Session, client: openai.OpenAI, recordings: Path
) -> None:
    before = usage(session)
    with (recordings / "seven.wav").open("rb") as file:
        heard = client.audio.transcriptions.create(model=MODEL, file=file, language="en")
    assert heard.text.strip(" .").lower() == "seven"
    wait_until(lambda: usage(session)["audio_s"] > before["audio_s"])
    after = usage(session)
    assert after["requests"] == before["requests"] + 1
    assert after["audio_s"] - before["audio_s"] == pytest.approx(1, abs=1)
    rows = dict(metric_rows(session.metrics()))
    assert rows["Prompt Throughput"] == rows["GPU Cache Usage"] == "not reported"
    assert rows["Requests Running"] == "0 reqs"
    assert float(rows["Total Audio"].split()[0]) >= 1
    assert float(rows["Avg Request Latency"].split()[0]) > 0


def test_the_start_went_through_its_phases(session: Session) -> None:
    status = session.status()
    assert [phase.name for phase in status.phases if phase.name != "warm-up"] == ["weights", "probe"]
    assert status.state == "READY"
    assert session.plan.engine == "whisper"
    assert session.plan.environment.name == "launcher"


def test_the_sessions_own_key_may_name_a_file_and_a_further_key_may_not(
    session: Session, recordings: Path
) -> None:
    _, secret = session.keys.new("colleague")
    connection = session.connection
    assert connection is not None
    wait_until(lambda: is_known(connection, secret))
    file = recordings / "seven.wav"
    assert named(connection, connection.key, file) == "seven"
    for headers in ({}, {"X-Launcher-Own": "1"}):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            named(connection, secret, file, **headers)
        assert caught.value.param == "path"
    session.keys.revoke("colleague")
    with pytest.raises(openai.PermissionDeniedError, match="in these folders only"):
        named(connection, connection.key, Path("/etc/passwd"))


def test_an_endpoint_passes_recordings_on_and_lends_nobody_the_sessions_own_key(
    session: Session, recordings: Path, tmp_path: Path
) -> None:
    """FIRST 2: recordings are uploaded through an endpoint; only its owner's key may name a file on the cluster."""
    there = session.connection
    assert there is not None
    _, secret = keys.new(SessionPaths(tmp_path), "colleague")
    with endpoint(further=SessionPaths(tmp_path).further_keys) as front:
        place = Place((there.host, there.port), there.key)
        front.fleet.add("speech", place, served=MODEL, aliases=frozenset((MODEL,)), framework="whisper")
        connection = dataclasses.replace(there, base_url=f"{front.url}/v1")
        file = recordings / "seven.wav"
        for key in (KEY, secret):
            with openai.OpenAI(base_url=f"{front.url}/v1", api_key=key) as client, file.open("rb") as sound:
                heard = client.audio.transcriptions.create(model="speech", file=sound, language="en")
            assert heard.text.strip(" .").lower() == "seven"
        assert front.usage.audio_s == pytest.approx(2, abs=2)
        assert named(connection, KEY, file) == "seven"
        with pytest.raises(openai.PermissionDeniedError) as caught:
            named(connection, secret, file, **{"X-Launcher-Own": "1", "X-Launcher-For-Others": "0"})
        assert caught.value.param == "path"


def is_known(connection: Connection, key: str) -> bool:
    with openai.OpenAI(base_url=connection.base_url, api_key=key, max_retries=0) as client:
        try:
            return bool(client.models.list().data)
        except openai.AuthenticationError:
            return False


def named(connection: Connection, key: str, file: Path, **headers: str) -> str:
    """What the session hears in a file that it opens itself."""
    with openai.OpenAI(
        base_url=connection.base_url, api_key=key, default_headers=headers, max_retries=0
    ) as client:
        answer = client.post(
            "/audio/transcriptions", cast_to=object, body={"model": MODEL, "path": str(file)},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )  # fmt: skip
    assert isinstance(answer, dict)
    return str(answer["text"]).strip(" .").lower()


def test_the_sites_limit_of_hours_is_kept(client: openai.OpenAI, place: Path) -> None:
    """A hundredth of an hour are 36 seconds."""
    for seconds, taken in ((35, True), (37, False)):
        file = silence(place / f"{seconds}.wav", seconds)
        if taken:
            assert client.audio.transcriptions.create(model=MODEL, file=file).text.strip() == ""
        else:
            with pytest.raises(openai.APIStatusError) as caught:
                client.audio.transcriptions.create(model=MODEL, file=file)
            assert caught.value.status_code == 413


def test_nobody_else_reaches_the_engine(session: Session) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    socket = str(engine_socket(session))
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    said = as_nobody(
        lambda: (
            subprocess.run(
                [sys.executable, "-c", code, socket], capture_output=True, text=True, check=False
            ).stderr
        )
    )
    assert "PermissionError" in said
    assert subprocess.run([sys.executable, "-c", code, socket], check=False).returncode == 0


def engine_socket(session: Session) -> Path:
    """Where the engine listens, as it says itself."""
    said = re.findall(r"Listening on (\S+/engine\.sock)", session.paths.engine_log.read_text())
    return Path(said[-1])


def test_the_page_of_the_endpoint_shows_how_to_transcribe(session: Session) -> None:
    connection = session.connection
    assert connection is not None
    url = connection.base_url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {connection.key}", "Accept": "text/html"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/", headers=headers), timeout=10) as answer:
        page = answer.read().decode()
    assert "audio.transcriptions.create" in page
    assert "chat" not in page
    assert connection.key not in page


def test_an_engine_that_is_killed_comes_back_and_leaves_nothing(place: Path, recordings: Path) -> None:
    with launcher_in(place, "own").launch(MODEL) as session:
        connection = session.wait()
        pid = session.status().pid
        assert pid is not None
        (engine,) = children(pid)
        processes = [engine, *children(engine)]
        os.kill(engine, signal.SIGKILL)
        wait_until(lambda: session.status().engine_restarts == 1)
        wait_until(lambda: session.status().state == "READY")
        assert all(gone(process) for process in processes)
        with session.openai() as client, (recordings / "seven.wav").open("rb") as file:
            assert "seven" in client.audio.transcriptions.create(model=MODEL, file=file).text.lower()
        runtime = engine_socket(session).parent
        assert runtime.is_dir()
    assert (session.status().state, session.status().reason) == ("SHUTDOWN", "user")
    assert not runtime.exists()
    record = json.loads(session.paths.record.read_text())
    assert record["versions"]["whisper"]
    assert record["usage"]["audio_s"] > 0
    assert record["plan"]["engine"] == "whisper"
    assert {entry["name"] for entry in record["weights"]} >= {"model.bin", "tokenizer.json"}
    ahead = record["times"]["read_ahead"]
    assert ahead["read_bytes"] + ahead["present_bytes"] >= 1_000_000, "the weights were in memory before"
    assert record["model"]["task"] == "transcription"
    assert any(package.startswith("faster-whisper==") for package in record["environment"]["packages"])
    written = methods(read(session.paths.record))
    assert f"served by faster-whisper {record['versions']['whisper']} without a GPU" in written
    assert "of audio)" in written
    again = prepared(launcher_in(place, "own"), read(session.paths.record), door="python", strict=True)
    assert again.differences == ()
    logs = "".join(path.read_text() for path in session.paths.root.glob("*.log*"))
    for secret in (connection.key, "seven"):
        assert secret not in logs


def test_a_model_that_does_not_load_says_why(place: Path) -> None:
    broken = place / "broken"
    shutil.copytree(SHIPPED / MODEL, broken)
    (broken / "tokenizer.json").write_text('{"a":')
    session = launcher_in(place, "broken").launch(str(broken))
    with pytest.raises(EngineError) as caught:
        session.wait()
    assert caught.value.reason == "model-files"
    assert "the model's tokenizer.json is missing or damaged" in str(caught.value)
    assert session.status().state == "FAILED"


def older(folder: Path) -> Path:
    """The model as Systran's older copies lie on the hub: the vocabulary in lines, no preprocessor_config.json."""
    shutil.copytree(SHIPPED / MODEL, folder)
    words = json.loads((folder / "vocabulary.json").read_text())
    (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in words))
    for name in ("vocabulary.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


def test_a_venv_of_the_sites_runs_the_launchers_program(place: Path, recordings: Path) -> None:
    """What Whisper needs is the venv's, the server is ours: the launcher is not installed in it."""
    venv = place / "a venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site_packages,) = venv.glob("lib/python3*/site-packages")
    own = Path(next(path for path in sys.path if path.endswith("site-packages")))
    for name in PACKAGES:
        (site_packages / name).symlink_to(own / name)
    (site_packages / "rest.pth").write_text(f"{own}\n")
    (site_packages / "sitecustomize.py").write_text("import sys; print('started in', sys.prefix)\n")
    environments = {"w": {"kind": "venv", "path": str(venv), "engines": ["whisper"]}}
    launcher = launcher_in(place, "venv", environments=environments)
    with launcher.launch(str(older(place / "older"))) as session:
        session.wait()
        assert f"started in {venv}" in session.paths.engine_log.read_text()
        with session.openai() as client:
            file = recordings / "seven.wav"
            assert "seven" in client.audio.transcriptions.create(model="whisper-1", file=file).text.lower()


def test_in_a_container_recordings_are_read_where_they_lie(
    place: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image has Python and what Whisper needs, and nothing of the launcher or of this machine's files."""
    needs("bwrap", "bubblewrap")
    path = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}
    image = make_image(place / "whisper.sif", [sys.prefix, sys.base_prefix], env=path)
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    environments = {"box": {"kind": "container", "image": str(image), "engines": ["whisper"]}}
    allow = {"audio_folders": [str(recordings)]}
    with launcher_in(place, "box", environments=environments, allow=allow).launch(MODEL) as session:
        connection = session.wait()
        assert named(connection, connection.key, recordings / "seven.wav") == "seven"
        assert session.status().phases[0].name == "container"
