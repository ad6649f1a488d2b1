"""The engine `whisper`: its command, the arguments it takes, its first request, and what it reads out of a log."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from launcher.engines import vllm, whisper
from launcher.engines.sound import one_second
from launcher.engines.whisper_arguments import OPTIONS, OWN
from launcher.engines.whisper_log import explain, phase
from launcher.errors import RequestError
from launcher.serve.environment import inside
from launcher.sessions.plan import Plan
from launcher.settings.schema import Environment
from launcher.whisper.server import add_options
from tests.engines.plans import vllm_plan
from tests.engines.whisper_plans import whisper_plan
from tests.hostile import HOSTILE

SOCKET, CACHE = Path("/run/s/engine.sock"), Path("/cache")


def argv(plan: Plan) -> tuple[str, ...]:
    return whisper.command(plan, SOCKET, CACHE).argv


def value(words: tuple[str, ...], option: str) -> str:
    return words[words.index(option) + 1]


def test_command_serves_the_snapshot_on_the_socket() -> None:
    plan = whisper_plan("--stretch-s", "3")
    words = argv(plan)
    assert words[0] == "python3"
    assert Path(words[1]).is_file()
    assert value(words, "--uds") == str(SOCKET)
    assert value(words, "--model") == plan.model.snapshot
    assert value(words, "--cache").startswith(str(CACHE))
    assert value(words, "--scratch") == str(SOCKET.parent)  # uploads: private, and gone with the session
    assert value(words, "--stretch-s") == "3"
    assert words.index("--stretch-s") < words.index("--uds")  # ours win
    assert not {"--max-hours", "--folder"} & set(words)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_served_name_stays_one_word(name: str) -> None:
    assert f"--served-name={name}" in argv(whisper_plan(served_name=name))


def test_a_session_without_gpu_asks_for_the_processor_and_one_with_for_cuda() -> None:
    assert value(argv(whisper_plan()), "--device") == "cpu"
    assert value(argv(whisper_plan(gpus=1)), "--device") == "cuda"
    for own in (("--device", "cpu"), ("--device=cpu",)):
        words = argv(whisper_plan(*own, gpus=1))
        assert [word.partition("=")[0] for word in words].count("--device") == 1
        assert "cuda" not in words


def test_what_the_site_limits_is_the_engines_argument() -> None:
    plan = whisper_plan()
    plan = dataclasses.replace(
        plan,
        limits=dataclasses.replace(plan.limits, audio_hours=2.5),
        audio_folders=("/scratch/a b", "/project/$(id)"),
    )
    words = argv(plan)
    assert value(words, "--max-hours") == "2.5"
    named = [words[place + 1] for place, word in enumerate(words) if word == "--folder"]
    assert named == ["/scratch/a b", "/project/$(id)"]
    assert Plan.from_json(plan.to_json()) == plan


def test_nothing_is_fetched_or_reported() -> None:
    env = whisper.command(whisper_plan(), SOCKET, CACHE).env
    assert env["HF_HUB_OFFLINE"] == env["DO_NOT_TRACK"] == env["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert env["TMPDIR"] == str(SOCKET.parent)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--stretch-s", "3"),
        ("--stretch-s=2.5", "--beam-size", "5"),
        ("--compute-type", "int8_float16", "--device=cuda", "--batch-size", "16"),
        ("--threads", "2", "--parallel=4", "--max-requests", "8"),
    ],
)
def test_what_a_user_may_say(args: tuple[str, ...]) -> None:
    whisper.check_args(args, allow_remote_code=False)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--uds", "/tmp/x"), "Engine argument --uds is the launcher's own. Leave it out."),
        (("--folder=/",), "Engine argument --folder is the launcher's own. Leave it out."),
        (("--max-hours", "99"), "Engine argument --max-hours is the launcher's own. Leave it out."),
        (("--model", "/x"), "Engine argument --model is the launcher's own. Leave it out."),
        (("--beam-size",), "Engine argument --beam-size has no value. Write --beam-size=VALUE."),
        (
            ("--beam-size", "wide"),
            'Engine argument --beam-size must be a whole number, not "wide". Correct it, or leave it out.',
        ),
        (
            ("--beam-size", "99"),
            'Engine argument --beam-size must be from 1 to 20, not "99". Correct it, or leave it out.',
        ),
        (
            ("--device", "tpu"),
            'Engine argument --device must be one of auto, cpu, cuda, not "tpu". Correct it, or leave it out.',
        ),
        (
            ("--beamsize", "5"),
            'The engine whisper has no argument "--beamsize". Did you mean --beam-size or --batch-size?',
        ),
        (("5",), 'The engine whisper has no argument "5". Known: ' + ", ".join(OPTIONS) + "."),
    ],
)
def test_what_a_user_may_not_say(args: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        whisper.check_args(args, allow_remote_code=True)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_are_no_arguments(text: str) -> None:
    for args in (
        (text,),
        (f"--{text}",),
        ("--device", text),
        ("--stretch-s", text),
        ("--batch-size=" + text,),
    ):
        with pytest.raises(RequestError):
            whisper.check_args(args, allow_remote_code=True)


def test_every_option_of_the_server_is_a_users_or_ours() -> None:
    """The table here and the program's parser cannot import each other: this is what holds them together."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    theirs = {option for action in parser._actions for option in action.option_strings}
    assert set(OPTIONS) == theirs - set(OWN)
    help_ = subprocess.run(
        [sys.executable, "-m", "launcher.whisper", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in (*OPTIONS, *OWN):
        assert option in help_, option


@pytest.mark.parametrize("option", OPTIONS)
def test_a_value_that_passes_here_passes_there(option: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    rule = OPTIONS[option]
    values = rule.words or (f"{rule.least:g}", f"{rule.most:g}")
    for each in values:
        whisper.check_args((option, each), allow_remote_code=False)
        parser.parse_args([option, each])


def test_the_first_request_is_a_second_of_sound() -> None:
    probe = whisper.probe(whisper_plan())
    assert (probe.path, probe.field) == ("/v1/audio/transcriptions", "usage")
    assert probe.body == {
        "model": "tiny-whisper", "response_format": "json", "vad_filter": "false", "beam_size": "1"
    }  # fmt: skip
    assert probe.sound is not None
    with wave.open(io.BytesIO(probe.sound)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 16_000)
        assert any(file.readframes(100))  # it can be heard
    assert one_second() == probe.sound


def test_a_whisper_model_that_vllm_serves_is_asked_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    probe = vllm.probe(vllm_plan(snapshot=tmp_path))
    assert (probe.path, probe.field, probe.sound) == ("/v1/audio/transcriptions", "usage", one_second())


def test_phases_are_the_servers_words() -> None:
    assert phase("Loading the model") == "weights"
    assert phase("2026-11-21 12:00:00 Measuring threads") == "warm-up"
    assert phase("Listening on /run/s/engine.sock") == "probe"
    assert phase("Transcribed 3 s") is None


# Lines as CTranslate2 4.8 and faster-whisper 1.2 print them; tests/engines/test_whisper_deaths.py provokes those that
# need no GPU, the others are quoted in issues of SYSTRAN/faster-whisper (717, 516, 442, 1276) and linuxserver (15).
LINES = {
    "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded": (
        "gpu-libraries",
        "it found no libcublas.so.12, without which it cannot use the GPU",
    ),
    "Could not load library libcudnn_ops_infer.so.8. Error: libcudnn_ops_infer.so.8: cannot open shared object file: "
    "No such file or directory": (
        "gpu-libraries",
        "it found no libcudnn_ops_infer.so.8, without which it cannot use the GPU",
    ),
    "Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9.1, libcudnn_ops.so.9, libcudnn_ops.so}": (
        "gpu-libraries",
        "it found no libcudnn_ops, without which it cannot use the GPU",
    ),
    "RuntimeError: CUDA failed with error out of memory": (
        "out-of-memory",
        "the GPU's memory did not suffice",
    ),
    "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED": (
        "out-of-memory",
        "the GPU's memory did not suffice",
    ),
    "RuntimeError: mkl_malloc: failed to allocate memory": (
        "out-of-memory",
        "the node's memory did not suffice",
    ),
    "OSError: [Errno 28] No space left on device": (
        "storage",
        "a disk it writes to is full (cache or temporary files)",
    ),
    "RuntimeError: CUDA failed with error no CUDA-capable device is detected": (
        "no-gpu",
        "it found no GPU that it can use",
    ),
    "RuntimeError: CUDA failed with error CUDA driver version is insufficient for CUDA runtime version": (
        "no-gpu",
        "it found no GPU that it can use",
    ),
    "RuntimeError: CUDA failed with error an illegal memory access was encountered": (
        "gpu-fault",
        "a GPU reported an error (an illegal memory access was encountered)",
    ),
    "ValueError: Requested float16 compute type, but the target device or backend do not support efficient float16 "
    "computation.": ("hardware", "this processor or GPU cannot compute in float16"),
    "RuntimeError: Unsupported model binary version. This executable supports models with binary version v6 or below": (
        "unsupported-model",
        "this CTranslate2 is too old for the model, or it is no Whisper model",
    ),
    "RuntimeError: Unable to open file 'model.bin' in model '/models/x'": (
        "model-files",
        "the model's model.bin is missing",
    ),
    "ModuleNotFoundError: No module named 'faster_whisper'": (
        "environment",
        "its Python has no faster_whisper",
    ),
    "ImportError: /lib/libstdc++.so.6: version `GLIBCXX_3.4.30' not found": (
        "environment",
        "the node's system is older than the environment was made for (GLIBCXX_3.4.30 is missing)",
    ),
    "__main__.py: error: argument --beam-size: invalid": (
        "request",
        "it refused its arguments: argument --beam-size: invalid",
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_a_death_has_its_sentence(line: str) -> None:
    reason, sentence = LINES[line]
    log = f'Loading the model\nTraceback (most recent call last):\n  File "x.py", line 1, in y\n{line}\n'
    found = explain(log, 1, False, 4.2)
    assert (found.reason, found.message) == (
        reason,
        f"The Whisper server stopped after 4 s (exit code 1) before it was ready: {sentence}.",
    )
    assert found.hint


def test_what_a_request_may_have_written_is_not_shown() -> None:
    log = "RuntimeError: my secret words\nValueError: Unable to open file 'secret' in model\n"
    found = explain(log, 1, True, 60.0)
    assert "secret" not in f"{found.message}{found.hint}"
    assert (
        found.message
        == "The Whisper server stopped after 60 s (exit code 1) while it was in use: ValueError."
    )


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (-signal.SIGKILL, "out-of-memory", "it was killed (signal 9)"),
        (137, "out-of-memory", "it was killed (signal 9)"),
        (-signal.SIGABRT, "engine-exit", "it gave up (signal 6)"),
        (127, "environment", "Python was not found"),
        (0, "engine-exit", "(exit code 0)"),
        (None, "engine-exit", "(exit code unknown)"),
    ],
)
def test_a_death_without_a_word(code: int | None, reason: str, words: str) -> None:
    found = explain("", code, False, 1.0)
    assert found.reason == reason
    assert words in found.message


@pytest.mark.parametrize("ready", [False, True])
def test_the_process_with_the_model_was_killed(ready: bool) -> None:
    """gunicorn watches over that process, and ends with a code of its own."""
    log = (
        "21:50:01 INFO Listening on /run/s/engine.sock\n"
        "[2026-11-21 22:13:58 +0000] [8880] [ERROR] Worker (pid:8887) was sent SIGKILL! Perhaps out of memory?\n"
        "[2026-11-21 22:13:58 +0000] [8880] [ERROR] Shutting down: Master\n"
        "[2026-11-21 22:13:58 +0000] [8880] [ERROR] Reason: the process with the model ended\n"
    )
    found = explain(log, 1, ready, 5.0)
    assert found.reason == "out-of-memory"
    assert "it was killed (signal 9), probably because the job's memory did not suffice" in found.message
    other = explain(log.replace("SIGKILL! Perhaps out of memory?", "SIGSEGV!"), 1, ready, 5.0)
    assert "it crashed (signal 11)" in other.message


def test_what_the_server_itself_says_is_shown_as_long_as_nobody_used_it() -> None:
    log = (
        "21:50:01 INFO Loading the model\n21:50:02 ERROR /m: the model cannot be loaded: odd. Take another.\n"
    )
    said = explain(log, 3, False, 2.0)
    assert said.message.endswith("before it was ready: /m: the model cannot be loaded: odd. Take another.")
    assert "odd" not in explain(log, 3, True, 2.0).message


# -- where the program comes from


def started(plan: Plan, environment: Environment, **variables: str) -> tuple[tuple[str, ...], dict[str, str]]:
    plan = dataclasses.replace(plan, environment=environment)
    made = inside(
        whisper.command(plan, SOCKET, CACHE), plan, SOCKET.parent, CACHE, {"PATH": "/bin", **variables}
    )
    return made.argv, dict(made.env)


def test_without_an_environment_it_runs_on_the_launchers_own_python() -> None:
    words, _ = started(whisper_plan(), Environment("launcher", "venv"))
    assert words[0] == str(Path(sys.prefix) / "bin" / "python3")


def test_a_venvs_cuda_libraries_are_found(tmp_path: Path) -> None:
    libraries = [
        tmp_path / "lib" / "python3.12" / "site-packages" / "nvidia" / name / "lib"
        for name in ("cublas", "cudnn")
    ]
    for folder in libraries:
        folder.mkdir(parents=True)
    environment = Environment("w", "venv", path=str(tmp_path))
    wanted = ":".join(map(str, libraries))
    assert started(whisper_plan(gpus=1), environment)[1]["LD_LIBRARY_PATH"] == wanted
    both = started(whisper_plan(gpus=1), environment, LD_LIBRARY_PATH="/opt/lib")[1]["LD_LIBRARY_PATH"]
    assert both == f"{wanted}:/opt/lib"
    assert "LD_LIBRARY_PATH" not in started(whisper_plan(), environment)[1]


def test_a_container_sees_the_program_the_model_and_the_users_recordings(tmp_path: Path) -> None:
    plan = dataclasses.replace(whisper_plan(), audio_folders=(str(tmp_path), "/not/there", f"{tmp_path},x"))
    words, _ = started(plan, Environment("w", "container", image="/images/w.sif"))
    binds = [words[place + 1] for place, word in enumerate(words) if word == "--bind"]
    package = str(Path(whisper.PROGRAM).parents[1])
    assert f"{package}:{package}:ro" in binds
    assert f"{plan.model.snapshot}:{plan.model.snapshot}:ro" in binds
    assert str(tmp_path) in binds
    assert "/not/there" not in binds
    assert words[words.index("/images/w.sif") + 1] == "python3"


def test_the_program_runs_where_the_launcher_is_not_installed(tmp_path: Path) -> None:
    """A Python with nothing but its own library: the package is found, and what it lacks is said as a cause."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    command = whisper.command(whisper_plan(), tmp_path / "s", tmp_path / "c")
    done = subprocess.run(
        [str(bare / "bin" / "python3"), *command.argv[1:]],
        env={"PATH": os.defpath, **command.env, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    found = explain(done.stdout + done.stderr, done.returncode, False, 0.3)
    assert found.reason == "environment", done.stderr
    assert "its Python has no " in found.message
    assert "Ask the site to install faster-whisper, Flask and gunicorn" in (found.hint or "")
