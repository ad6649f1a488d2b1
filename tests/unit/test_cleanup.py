"""`launcher cleanup`: what goes, what stays, and that nothing goes by mistake."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import Launcher
from launcher.api.cleanup import Choice, planned, remove
from launcher.batch.files import Bounds, Files
from launcher.cli import main
from launcher.errors import RequestError
from launcher.planning import Request, make_plan
from launcher.schedulers import local
from launcher.sessions import registry
from launcher.sessions.job import write_job_id
from launcher.sessions.members import Members
from launcher.sessions.paths import SessionPaths, write_private
from launcher.sessions.plan import PlannedModel
from launcher.sessions.status import FAILED, READY, SHUTDOWN, Status
from launcher.settings.layers import load
from tests.hostile import HOSTILE

DAY_S = 86400.0
OVER = f"{socket.gethostname()}:999999999.1"  # no process ever has this number
Make = Callable[..., SessionPaths]


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUNCHER_SITE", os.devnull)
    monkeypatch.setenv("LAUNCHER_CONFIG", os.devnull)
    monkeypatch.setenv("LAUNCHER_PLACES__SESSIONS", str(tmp_path / "sessions"))
    return tmp_path / "sessions"


@pytest.fixture
def make(sessions: Path, tmp_path: Path) -> Make:
    """Make the folder of a session; the job is over unless `job` says otherwise."""

    def made(
        name: str,
        state: str = SHUTDOWN,
        *,
        model: str = "org/Qwen2.5-7B-Instruct",
        job: str = OVER,
        age_s: float = 0.0,
        final: bool = True,
        ondemand: bool = False,
        scheduler: str = "local",
    ) -> SessionPaths:
        plan = make_plan(Request("simulated", name=name), load(), door="ondemand" if ondemand else "shell")
        cluster = dataclasses.replace(plan.cluster, scheduler=scheduler)
        plan = dataclasses.replace(plan, id=name, model=PlannedModel(model, model), cluster=cluster)
        if ondemand:
            paths = SessionPaths(tmp_path / "staged" / name)
            paths.root.mkdir(parents=True, mode=0o700)
            registry.link(sessions, name, paths.root)
        else:
            paths = registry.make(sessions, name)
        write_private(paths.plan, plan.to_json())
        paths.engine_log.write_text("x" * 1000)
        when = time.time() - age_s
        ended = state in (SHUTDOWN, FAILED)
        Status(
            name, state, when, "So it is.", reason="user" if ended else None, job_id=job, updated_at=when,
            final=final and ended,
        ).write(paths.status)  # fmt: skip
        write_job_id(paths.job, job)
        return paths

    return made


def names(sessions: Path) -> list[str]:
    return sorted(os.listdir(sessions))


def test_ended_sessions_go_and_a_running_one_stays(
    make: Make, sessions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """vec-inf 10: refuses to touch a running job's files."""
    make("over"), make("broken", FAILED)
    make("runs", READY, job=local.own_job_id(), final=False)
    assert main(["cleanup", "--yes"]) == 0
    said = capsys.readouterr().out
    assert names(sessions) == ["runs"]
    assert "Removed 2 sessions" in said
    assert "runs stays. It is READY. Stop it first: launcher stop runs" in said
    assert main(["cleanup", "runs", "--yes"]) == 0
    assert names(sessions) == ["runs"]
    assert "There is nothing to remove." in capsys.readouterr().out


def test_a_dry_run_deletes_nothing(make: Make, sessions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """vec-inf 10: `--dry-run` deletes nothing."""
    paths = make("over")
    before = sorted(paths.root.iterdir())
    assert main(["cleanup", "--dry-run"]) == 0
    assert "over" in capsys.readouterr().out
    assert main(["cleanup", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in shown["removed"]] == ["over"]
    assert shown["dry_run"]
    assert shown["bytes"] > 1000
    assert sorted(paths.root.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--model-family", "Qwen2.5"], ["b", "c"]),
        (["--model-name", "Llama-3.2-1B"], ["a", "c"]),
        (["--model", "org/Llama-3.2-1B"], ["a", "c"]),
        (["--name", "c"], ["a", "b"]),
        (["--job-id", "300"], ["a", "b"]),
        (["--before-job-id", "300"], ["c"]),
        (["--before-job-id", "100"], ["a", "b", "c"]),
        (["--older-than", "30d"], ["a", "c"]),
        (["--state", "FAILED"], ["a", "b"]),
        (["--filters", "id=a"], ["b", "c"]),
        (["--filters", "status=STOPPED,model=Qwen*"], ["b", "c"]),
        (["--before-job-id", "300", "--model-family", "Llama-3.2"], ["a", "c"]),
        (["a", "c"], ["b"]),
    ],
)
def test_each_filter_chooses_its_sessions(
    make: Make, sessions: Path, slurm_forgot: None, options: list[str], left: list[str]
) -> None:
    """vec-inf 10: `cleanup` filters by family, name, job id, before-job-id."""
    make("a", job="100", scheduler="slurm")
    make("b", job="200+1", scheduler="slurm", model="org/Llama-3.2-1B", age_s=40 * DAY_S)
    make("c", FAILED, job="300", scheduler="slurm", model="org/DeepSeek-V3")
    assert main(["cleanup", "--yes", *options]) == 0
    assert names(sessions) == left


@pytest.fixture
def slurm_forgot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A squeue that answers and knows no job."""
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_where_slurm_does_not_answer_nothing_goes(
    make: Make, sessions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a", job="100", scheduler="slurm")
    make("b", job="101", scheduler="slurm", final=False)  # a preempted one, which Slurm may run again
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["cleanup", "--yes"]) == 0
    assert names(sessions) == ["a", "b"]
    said = capsys.readouterr().out
    assert "a stays. Its job may not be over: There is no program squeue here" in said
    assert "b stays. It may run again." in said


def test_one_whose_process_still_ends_stays(
    make: Make, sessions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("ends", job=local.own_job_id())  # it has said its last word, its process is still there
    assert main(["cleanup", "--yes"]) == 0
    assert names(sessions) == ["ends"]
    assert "ends stays. Its job is still ending." in capsys.readouterr().out


def test_of_open_ondemands_only_the_entry_goes_and_it_says_so(
    make: Make, sessions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = make("card", ondemand=True)
    assert main(["cleanup", "--yes"]) == 0
    assert "Of Open OnDemand's sessions only the entry in this list goes" in capsys.readouterr().out
    assert names(sessions) == []
    assert staged.plan.exists()
    assert staged.engine_log.exists()


def test_a_folder_that_is_not_the_launchers_is_not_removed(
    make: Make, sessions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    make("copied").root.rename(elsewhere)
    assert main(["cleanup", str(elsewhere), "--yes"]) == 0
    assert (elsewhere / "session.json").exists()
    assert "so it is not the launcher's to remove" in capsys.readouterr().out


def test_what_a_link_in_the_folder_leads_to_stays(make: Make, sessions: Path, tmp_path: Path) -> None:
    paths, precious = make("over"), tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("years of work")
    (paths.root / "link").symlink_to(precious)
    (paths.root / "hard").hardlink_to(precious / "thesis")
    assert main(["cleanup", "--yes"]) == 0
    assert names(sessions) == []
    assert (precious / "thesis").read_text() == "years of work"


def test_nobody_is_asked_where_there_is_no_terminal(
    make: Make, sessions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("over")
    assert main(["cleanup"]) == 2
    assert "nobody can be asked here. Add --yes if that is meant." in capsys.readouterr().err
    assert main(["prune", "--json"]) == 2
    assert names(sessions) == ["over"]


def test_the_record_can_be_kept(make: Make, sessions: Path) -> None:
    paths = make("over")
    write_private(paths.record, "{}\n")
    write_private(paths.job_script, "#!/bin/sh\n")
    assert main(["rm", "--yes", "--keep-record"]) == 0
    assert sorted(os.listdir(paths.root)) == ["job.json", "record.json", "session.json", "status.json"]


def test_a_batch_keeps_the_files_of_its_members_until_all_are_over(
    make: Make, sessions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make("one")
    other = make("other", READY, job=local.own_job_id(), final=False)
    batch = Members((str(one.root), str(other.root)))
    batch.write(one.members)
    batch.write(other.members)
    assert main(["cleanup", "--yes"]) == 0
    assert names(sessions) == ["one", "other"]
    assert "Others of its batch are not over" in capsys.readouterr().out


def test_a_batchs_number_means_all_its_members(make: Make, sessions: Path, slurm_forgot: None) -> None:
    for place in range(2):
        make(f"member{place}", job=f"77+{place}", scheduler="slurm")
    make("other", job="770", scheduler="slurm")
    assert main(["cleanup", "77", "77+1", "--dry-run"]) == 0
    assert main(["cleanup", "--job-id", "77", "--yes"]) == 0
    assert names(sessions) == ["other"]


def test_a_session_in_a_log_directory_of_the_users_own_goes_with_it(
    sessions: Path, tmp_path: Path, make: Make
) -> None:
    make("first")  # makes the usual folder
    logs = tmp_path / "logs"
    plan = make_plan(Request("simulated", log_dir=str(logs)), load(), door="shell")
    paths = Launcher().make(plan)
    write_private(paths.plan, plan.to_json())
    Status(plan.id, SHUTDOWN, time.time(), "Over.", reason="user", job_id=OVER, final=True).write(
        paths.status
    )
    write_job_id(paths.job, OVER)
    (logs / "mine.txt").write_text("not a session")
    assert main(["cleanup", "--yes"]) == 0
    assert names(sessions) == []
    assert names(logs) == ["mine.txt"]


def test_what_a_broken_removal_left_is_taken_along(make: Make, sessions: Path) -> None:
    make("over")
    (sessions / ".gone.0123abcd.removed" / "below").mkdir(parents=True)
    (sessions / ".starts").mkdir()
    assert main(["cleanup", "--yes"]) == 0
    assert names(sessions) == [".starts"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_word_removes_nothing(
    make: Make, sessions: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty word above all: a script's variable that was not set must not mean everything."""
    make("over")
    for option in ("--model", "--model-family", "--name", "--state", "--job-id", "--older-than"):
        assert main(["cleanup", "--yes", f"{option}={text}"]) in (0, 2), option
        assert names(sessions) == ["over"], option
    assert "Traceback" not in capsys.readouterr().err


def test_an_id_that_is_not_there_stops_all(make: Make, sessions: Path) -> None:
    make("over")
    assert main(["cleanup", "over", "nothere", "--yes"]) == 6
    assert main(["cleanup", "", "--yes"]) in (2, 6)
    assert names(sessions) == ["over"]


def test_a_session_that_never_spoke_has_only_its_jobs_log(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make("silent", FAILED)
    paths.engine_log.unlink()
    assert main(["logs", "silent"]) == 6
    assert "has no engine log yet. Look at: launcher status silent" in capsys.readouterr().err
    paths.job_log.write_text("slurmstepd: error: no such module\n")
    assert main(["logs", "silent"]) == 6
    assert "Look at: launcher logs silent --of job" in capsys.readouterr().err
    assert main(["logs", "silent", "--of", "job"]) == 0
    assert "no such module" in capsys.readouterr().out


def test_python_gets_the_same(make: Make, sessions: Path) -> None:
    """vec-inf 11: `cleanup_logs` has an equivalent in Python."""
    make("over")
    launcher = Launcher()
    (planned,) = launcher.cleanup(dry_run=True)
    assert (planned.id, planned.state, planned.removed) == ("over", SHUTDOWN, False)
    with pytest.raises(RequestError, match="not a span of time"):
        launcher.cleanup(older_than="soon")
    assert launcher.cleanup(model_family="Llama-3.1") == []
    (gone,) = launcher.cleanup("over", before_job_id=None)
    assert gone.removed
    assert names(sessions) == []


def test_answers_of_batches_that_nobody_has_fetched_stay(make: Make, tmp_path: Path) -> None:
    kept, read, gone = (make(f"s-{name}") for name in ("kept", "read", "gone"))
    (tmp_path / "answers").write_bytes(b"{}\n")
    for paths, seconds in ((kept, None), (read, None), (gone, -1)):
        files = Files(paths.batches / "files", Bounds())
        files.adopt("session", "file-" + "0" * 24, tmp_path / "answers", "answers", seconds)
    Files(read.batches / "files", Bounds()).fetched("session", "file-" + "0" * 24)
    found = {one.id: one.kept for one in planned(Launcher(load()), Choice())}
    assert found["s-read"] is None
    assert found["s-gone"] is None, "they had expired"
    assert found["s-kept"] is not None
    assert f"never fetched: {kept.batches}" in found["s-kept"]
    (named,) = remove(Launcher(load()), planned(Launcher(load()), Choice(ids=("s-kept",))))
    assert named.removed
    assert not kept.root.exists()
