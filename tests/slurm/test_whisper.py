"""Whisper through Open OnDemand's job on a real Slurm: the form, an ordinary user, the card, a word, the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.app.ondemand import OnDemand
from tests.conftest import needs_ruby
from tests.programs.front import wait_until
from tests.site import Install, Site
from tests.slurm.cluster import Cluster
from tests.slurm.people import People, Person
from tests.speech import needs_speech, say

pytestmark = [pytest.mark.slurm, pytest.mark.app, pytest.mark.timeout(240)]
MODEL = "tiny-whisper"


@pytest.fixture(scope="module")
def site(installed: Install, slurm: Cluster) -> Iterator[Site]:
    held = {"whisper": {"kind": "venv", "path": str(installed.whisper()), "engines": ["whisper"]}}
    made = Site(installed, slurm, environments=held)
    yield made
    for person in {slurm.people.alice, slurm.people.bob}:
        slurm.run_as(person, ["scancel", "--me"])
    made.remove()


def recording(person: Person, name: str, folder: Path) -> Path:
    """A word that only `person` may read, in their home."""
    path = person.home / name
    path.write_bytes(say("seven", folder / "seven.wav").read_bytes())
    os.chown(path, person.uid, person.gid)
    path.chmod(0o600)
    return path


def heard(status: dict[str, Any], key: str, **fields: object) -> str:
    file = fields.pop("file", None)
    with openai.OpenAI(base_url=status["base_url"], api_key=key, max_retries=0) as client:
        if isinstance(file, Path):
            return client.audio.transcriptions.create(model="whisper-1", file=file).text
        answer: Any = client.post(
            "/audio/transcriptions", cast_to=object, body={"model": MODEL, **fields},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )  # fmt: skip
    return str(answer["text"])


def is_refused(status: dict[str, Any], key: str, file: Path) -> bool:
    """Whether a further key may not name a file; the gateway knows it a moment after it was made."""
    with pytest.raises((openai.PermissionDeniedError, openai.AuthenticationError)) as caught:
        heard(status, key, path=str(file))
    return caught.type is openai.PermissionDeniedError


def test_a_recording_is_transcribed_in_a_job(
    site: Site, slurm: Cluster, users: People, tmp_path: Path
) -> None:
    needs_ruby()
    needs_speech()
    alice, bob = users.alice, users.bob
    ood = OnDemand(site.install.app, "4.2", env=site.env)
    session = ood.launch(slurm, alice, ood.posted(alice, model=MODEL))
    card = session.wait_for("Running")
    assert card.connection is not None
    status = site.status(alice, card.connection["session_id"])
    assert status["state"] == "READY", status
    shown = (card.view_html or "") + (card.info_html or "")
    assert "transcri" in shown
    assert "chat/completions" not in shown

    key, own = site.key(status), recording(alice, "my talk's $(id).wav", tmp_path)
    assert "seven" in heard(status, key, file=own).lower()
    assert "seven" in heard(status, key, path=str(own)).lower()  # read where it lies, as alice
    with pytest.raises(openai.APIStatusError) as caught:
        heard(status, key, path=str(recording(bob, "private.wav", tmp_path)))
    assert caught.value.status_code in (403, 404)
    made = site.run(alice, "keys", "new", status["id"], "--name", "colleague", "--json")
    wait_until(lambda: is_refused(status, made.data["key"], own))

    session.cancel()
    session.wait_for("Completed")
    assert site.until(alice, status["id"], "SHUTDOWN")["reason"] == "cancelled"
    for path in session.staged_root.glob("*.log*"):
        text = path.read_text(errors="replace")
        assert key not in text
        assert "seven" not in text
        assert "my talk" not in text


def test_a_folder_is_transcribed_by_a_job_of_its_own(
    site: Site, slurm: Cluster, users: People, tmp_path: Path
) -> None:
    """Blackfish 10: txt, srt and json of each recording in a folder; the job ends with the work, which is done once."""
    needs_speech()
    alice = users.alice
    folder = alice.home / f"talks of {site.folder.name}"
    folder.mkdir()
    os.chown(folder, alice.uid, alice.gid)
    names = (f"{folder.name}/first one.wav", f"{folder.name}/second.wav")
    for name in names:
        recording(alice, name, tmp_path)
    command = ("transcribe", str(folder), "--model", MODEL, "--format", "txt,srt,json", "--json")
    planned = site.run(alice, *command, "--dry-run")
    assert planned.code == 0, planned
    assert [path.suffix for path in folder.iterdir()] == [".wav", ".wav"]
    done = site.run(alice, *command, timeout_s=200)
    assert done.code == 0, done
    assert {one["state"] for one in done.data["recordings"]} == {"done"}
    for name in names:
        made = (alice.home / name).with_suffix(".txt")
        assert "seven" in made.read_text().lower()
        assert made.stat().st_uid == alice.uid
        assert all(made.with_suffix(ending).exists() for ending in (".srt", ".json"))
    session = site.status(alice, done.data["session"])
    assert (session["state"], session["reason"]) == ("SHUTDOWN", "user")
    assert slurm.job(session["job_id"])["JobState"] != "RUNNING"
    again = site.run(alice, *command, timeout_s=100)
    assert {one["state"] for one in again.data["recordings"]} == {"skipped"}
    shutil.rmtree(folder)
