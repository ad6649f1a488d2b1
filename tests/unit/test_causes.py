"""The known causes of failures: each one's log excerpt gives its sentence, and a corpus of healthy logs gives none.

`causes.yml` carries the excerpts; `logs/healthy` holds lines of sessions that were well, most of them with a word such
as "error", "failed" or "out of memory" in it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from string import Formatter

import pytest
import yaml

from launcher.api import Launcher
from launcher.engines import Diagnosis, job_log, vllm, whisper
from launcher.engines.causes import Cause, causes, endings, one_line, told
from launcher.engines.vllm_log import _error
from launcher.ondemand.offer import offer
from launcher.sessions.status import ENDINGS
from launcher.settings.layers import load
from tests.app import sites
from tests.hostile import HOSTILE

HEALTHY = Path(__file__).with_name("logs") / "healthy"
REAL = Path(__file__).with_name("vllm_logs")
REQUEST = {
    "account": '"physics"', "partition": '"gpu"', "qos": '"long"', "hours": "48", "gpus": "8 × a100", "cpus": "16",
    "memory": "512 GB", "constraint": '"v100"', "reservation": '"class"', "nodes": "2",
}  # fmt: skip
EACH = [pytest.param(cause, of, id=f"{cause.name}-{of}") for cause in causes() for of in cause.of]


def found(of: str, log: str) -> Diagnosis | None:
    """What a user is told of a log of `of`, by the same way as in a session."""
    if of == "vllm":
        return vllm.explain(log, 1, False, 4.2)
    if of == "whisper":
        return whisper.explain(log, 1, False, 4.2)
    return job_log.explain(log) if of == "job" else told("sbatch", log, request=REQUEST)


@pytest.mark.parametrize(("cause", "of"), EACH)
def test_the_excerpt_of_a_cause_gives_its_sentence(cause: Cause, of: str) -> None:
    diagnosis = found(of, f"an ordinary line\n{cause.log}and another one\n")
    assert diagnosis is not None
    assert diagnosis.reason == cause.reason
    fixed = [text for text, _, _, _ in Formatter().parse(cause.says) if text.strip(" ():")]
    if of == "job" and cause.reason in ENDINGS:
        fixed = []  # the reasons of the scheduler have sentences of their own
    for part in fixed:
        assert part.strip(" ():") in diagnosis.message, diagnosis.message
    assert diagnosis.hint
    assert diagnosis.quote
    assert any(diagnosis.quote.lstrip("… ")[:60] in one_line(line) for line in cause.log.splitlines())
    for said in (diagnosis.message, diagnosis.hint, diagnosis.form_hint or "x"):
        assert not re.search(r"[{}]|\(\)|  | ,|: ?\.|None", said), f"a hole in: {said}"


@pytest.mark.parametrize("cause", causes(), ids=lambda cause: cause.name)
def test_a_cause_says_where_its_words_come_from_and_is_one_sentence(cause: Cause) -> None:
    assert cause.source
    assert len(cause.log.strip().splitlines()) <= 5
    assert not cause.says.endswith(".")
    assert cause.hint.endswith((".", "lists yours.", "`."))
    assert "  " not in f"{cause.says}{cause.hint}"
    assert set(cause.of) <= {"vllm", "whisper", "job", "sbatch"}


def test_everything_that_stops_a_session_is_known() -> None:
    """The list that was asked for."""
    said = {cause.name for cause in causes()}
    assert said >= {
        "weights-out-of-memory", "kv-cache-too-small", "gated-model", "model-unknown", "architecture", "bfloat16",
        "heads", "driver", "nccl", "disk-full", "quota", "module-missing", "image-missing", "sbatch-account",
        "step-node-failure", "step-preempted", "step-time-limit", "address", "certificate", "proxy", "chat-template",
        "tokenizer", "weights-damaged", "placeholder-weights", "node-out-of-memory", "sbatch-partition", "sbatch-qos",
        "sbatch-feature", "sbatch-time-limit", "sbatch-too-many-gpus", "sbatch-policy",
    }  # fmt: skip


def test_a_step_in_the_form_names_fields_that_the_form_has(tmp_path: Path) -> None:
    site = tmp_path / "site.yml"
    site.write_text(
        yaml.safe_dump(sites.TWO_PARTITIONS | {"models": {"folders": [], "cache": str(tmp_path)}})
    )
    places = {"LAUNCHER_PLACES__CACHE": str(tmp_path / "cache"), "LAUNCHER_FORM__LIVE": "false"}
    offered = offer(Launcher(load({"LAUNCHER_SITE": str(site), "LAUNCHER_CONFIG": os.devnull, **places})))
    labels = {field["label"] for field in offered["attributes"].values() if "label" in field}
    assert {"Hardware", "GPUs"} <= labels
    for form in [*(cause.form for cause in causes()), *(ending.form for ending in endings())]:
        for name in re.findall(r'"([^"]+)"', form or ""):
            assert name in labels, f"{form}: there is no field {name}"


@pytest.mark.parametrize("of", ["vllm", "whisper", "job", "sbatch"])
def test_a_healthy_log_tells_no_cause(of: str) -> None:
    """vec-inf 6: a log of a healthy session with "error" in it changes nothing."""
    text = (HEALTHY / f"{of}.txt").read_text()
    assert "rror" in text
    log = text if of != "vllm" else "\n".join(map(_error, text.splitlines()))
    assert [line for line in log.splitlines() if told(of, line) is not None] == []
    assert told(of, log) is None


def test_a_real_start_tells_no_cause() -> None:
    for name in ("start.txt", "worker-killed.txt"):
        log = (REAL / name).read_text()
        assert told("vllm", "\n".join(map(_error, log.splitlines()))) is None


@pytest.mark.parametrize("ready", [False, True])
def test_an_unknown_end_after_a_healthy_log_says_that_it_is_unknown(ready: bool) -> None:
    log = (HEALTHY / "vllm.txt").read_text() + "ValueError: a new kind of trouble\n"
    diagnosis = vllm.explain(log, 1, ready, 41)
    assert diagnosis.reason == "engine-exit"
    assert "No known cause" in (diagnosis.hint or "")
    # While it serves, a request may have written the last lines.
    assert ("a new kind of trouble" in (diagnosis.quote or "")) is not ready
    assert ("leaked shared_memory" in (diagnosis.quote or "")) is not ready
    heard = whisper.explain((HEALTHY / "whisper.txt").read_text() + "21:57:00 ERROR odd\n", 1, ready, 41)
    assert (heard.reason, "odd" in (heard.quote or "")) == ("engine-exit", not ready)


@pytest.mark.parametrize(
    "cause", [cause for cause in causes() if cause.only_at_start], ids=lambda cause: cause.name
)
def test_words_that_a_request_may_have_written_tell_nothing_of_an_engine_that_serves(cause: Cause) -> None:
    for of, explain in (("vllm", vllm.explain), ("whisper", whisper.explain)):
        if of in cause.of:
            diagnosis = explain(cause.log, 1, True, 60.0)
            assert diagnosis.reason == "engine-exit"
            assert diagnosis.quote is None


def test_the_quote_of_an_engine_that_served_is_the_causes_own_words() -> None:
    line = "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB for my secret prompt\n"
    assert "my secret prompt" in (vllm.explain(line, 1, False, 1).quote or "")
    served = vllm.explain(line, 1, True, 1)
    assert served.quote == "RuntimeError: CUDA out of memory"
    assert "secret" not in f"{served.message}{served.hint}{served.quote}"


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_stands_in_a_log_the_quote_is_one_short_printable_line(text: str) -> None:
    log = f"{text} OSError: [Errno 28] No space left on device {text}\n"
    for diagnosis in (
        vllm.explain(log, 1, False, 1),
        whisper.explain(log, 1, False, 1),
        job_log.explain(log),
    ):
        assert diagnosis is not None
        assert diagnosis.reason == "storage"
        assert "No space left on device" in (diagnosis.quote or "")
        assert len(diagnosis.quote or "") <= 300
        assert (diagnosis.quote or "").isprintable()
        assert diagnosis.message.isprintable()


@pytest.mark.parametrize(
    "secret",
    [
        "hf_AbCdEfGhIjKlMnOpQrSt",
        "sk-0123456789abcdef0123",
        "https://alice:hunter2hunter2@proxy.example:3128",
        "Authorization: Bearer abcdefghijklmnop",
        "?token=abcdefghijklmnop",
        "password=abcdefghijklmnop",
    ],
)
def test_no_key_is_quoted(secret: str) -> None:
    word = re.split(r"[/:@= ]", secret.removeprefix("https://"))[-1 if "@" not in secret else 1]
    for log in (
        f"OSError: [Errno 28] No space left on device: {secret}\n",
        f"RuntimeError: something odd with {secret}\n",
    ):
        diagnosis = vllm.explain(log, 1, False, 1)
        assert diagnosis.quote
        assert word not in f"{diagnosis.quote}{diagnosis.message}"


@pytest.mark.parametrize(
    "said",
    ["api_key='{}'", "X-Api-Key: {}", '"password": "{}"', "'token': '{}'", "AWS_SECRET_ACCESS_KEY={}",
     "Namespace(api_key=['{}'], port=1)", "--hf-token {} --port 1", "Bearer: {}", "https://a/b?X-Amz-Signature={}&c=1"],
)  # fmt: skip
def test_no_key_is_quoted_however_it_is_written(said: str) -> None:
    log = f"RuntimeError: something odd with {said.format('abcdefgh12345678')}\n"
    quote = vllm.explain(log, 1, False, 1).quote
    assert quote
    assert "something odd with" in quote
    assert "abcdefgh" not in quote


def test_the_quote_of_an_endless_line_shows_what_was_found() -> None:
    quote = vllm.explain("x" * 10_000 + " RuntimeError: No CUDA GPUs are available", 1, False, 1).quote
    assert quote == "… No CUDA GPUs are available"


def test_a_line_without_end_holds_up_nobody() -> None:
    """Progress bars are such lines; each of these took a minute once. The suite's own time limit judges."""
    for piece in ("x", "7", "Error.", "\n", "Aa"):
        log = piece * (65536 // len(piece))
        for diagnosis in (vllm.explain(log, 1, False, 1), whisper.explain(log, 1, False, 1)):
            assert diagnosis.reason == "engine-exit"
        assert job_log.explain(log) is None


def test_an_old_version_of_vllm_is_read_as_well() -> None:
    log = (
        "(APIServer pid=1) (EngineCore_DP0 pid=68) WARNING 02-06 16:34:05 [a.py:1] No CUDA GPUs are available\n"
        "ERROR 02-06 16:34:06 [core.py:936] RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: "
        "system has unsupported display driver / cuda driver combination\n"
    )
    diagnosis = vllm.explain(log, 1, False, 1)
    assert diagnosis.reason == "driver"
    assert (diagnosis.quote or "").startswith("RuntimeError: Unexpected error")


def test_nothing_is_read_before_something_has_failed() -> None:
    program = (
        "import launcher.cli.status, launcher.serve.supervise, launcher.engines.vllm;"
        "import launcher.engines.causes as c; print(c.causes.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_every_reason_is_in_the_states() -> None:
    text = (Path(__file__).parents[2] / "docs" / "states.md").read_text()
    reasons = {cause.reason for cause in causes()} | {ending.reason for ending in endings()}
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []


def test_the_settings_that_a_hint_names_exist() -> None:
    settings = load({})
    for hint in causes():
        for block, key in re.findall(r"\b(places|session)\.(\w+)", hint.hint):
            assert hasattr(getattr(settings, block), key), hint.name
