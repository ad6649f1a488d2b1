"""The engine `vllm`: its command, the arguments it refuses, and what it reads out of real logs of vLLM 0.32.

The logs in `vllm_logs` are the ends of real ones: failures provoked with the CPU build, paths shortened.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from launcher.engines import vllm
from launcher.engines.vllm_arguments import option_values
from launcher.errors import RequestError
from tests.engines.plans import vllm_plan

LOGS = Path(__file__).with_name("vllm_logs")

HOSTILE = ("a b", "$(id)", "`id`", "'; echo foo", '"', "<%= 1 %>", "-dash", "--dash", "grüße", "../../x")


def test_command_serves_the_snapshot_on_the_socket() -> None:
    plan = vllm_plan("--max-model-len", "1024")
    command = vllm.command(plan, Path("/run/s/engine.sock"), Path("/cache"))
    assert command.argv[:3] == ("vllm", "serve", plan.model.snapshot)
    assert command.argv[3:5] == ("--max-model-len", "1024")
    assert command.argv[5:7] == ("--uds", "/run/s/engine.sock")
    assert "--served-model-name=tiny-chat" in command.argv
    assert {"--no-enable-log-requests", "--disable-uvicorn-access-log"} < set(command.argv)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_served_name_stays_one_word(name: str) -> None:
    """Blackfish 16: the served name is the model's id."""
    command = vllm.command(vllm_plan(served_name=name), Path("/run/s/engine.sock"), Path("/cache"))
    assert f"--served-model-name={name}" in command.argv


def test_nothing_is_fetched_reported_or_logged() -> None:
    """della 4: the engine is told to ask nobody."""
    env = vllm.command(vllm_plan(), Path("/run/s/engine.sock"), Path("/cache")).env
    assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == "1"
    assert env["VLLM_LOGGING_LEVEL"] == "INFO"
    assert env["VLLM_API_KEY"] == ""
    assert env["PYTHONNOUSERSITE"] == "1"
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert env[name].startswith("/cache/")


def test_one_node_talks_over_loopback_and_keeps_its_sockets_private() -> None:
    env = vllm.command(vllm_plan(), Path("/run/s/engine.sock"), Path("/cache")).env
    assert env["VLLM_HOST_IP"] == "127.0.0.1"
    assert env["VLLM_RPC_BASE_PATH"] == env["TMPDIR"] == "/run/s"
    # A socket's name ends after 107 characters: vLLM would die there.
    assert "TMPDIR" not in vllm.command(vllm_plan(), Path("/" + "x" * 90) / "e", Path("/cache")).env


def test_probe_asks_for_one_token() -> None:
    probe = vllm.probe(vllm_plan())
    assert (probe.path, probe.field) == ("/v1/completions", "choices")
    assert probe.body["model"] == "tiny-chat"
    assert probe.body["max_tokens"] == 1


def test_probe_of_an_embedding_model(tmp_path: Path) -> None:
    assert vllm.probe(vllm_plan("--runner", "pooling")).path == "/v1/embeddings"
    assert vllm.probe(vllm_plan("--runner=pooling")).field == "data"
    (tmp_path / "modules.json").write_text("[]")
    assert vllm.probe(vllm_plan(snapshot=tmp_path)).path == "/v1/embeddings"
    assert vllm.probe(vllm_plan("--runner", "generate", snapshot=tmp_path)).path == "/v1/completions"


@pytest.mark.parametrize(
    ("architecture", "model_type", "path"),
    [
        ("LlamaForCausalLM", "llama", "/v1/completions"),
        ("LlamaForSequenceClassification", "llama", "/pooling"),
        ("Qwen2ForRewardModel", "qwen2", "/pooling"),
        ("BertModel", "bert", "/v1/embeddings"),
        ("BertForSequenceClassification", "bert", "/pooling"),
        ("UnknownForNothing", "unknown", "/v1/completions"),
    ],
)
def test_the_probe_asks_what_a_model_of_this_kind_answers(
    tmp_path: Path, architecture: str, model_type: str, path: str
) -> None:
    """vec-inf 14: models that write, that embed, and that give scores."""
    config = {
        "architectures": [architecture], "model_type": model_type, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert vllm.probe(vllm_plan(snapshot=tmp_path)).path == path
    for odd in ("", "[]", "{}", "[" * 100_000):
        (tmp_path / "config.json").write_text(odd)
        assert vllm.probe(vllm_plan(snapshot=tmp_path)).path == "/v1/completions"


@pytest.mark.parametrize(
    "args",
    [
        ("--max-model-len", "8192"),
        ("--max-model-len", "-1"),
        ("--max-model-len=8k", "--enforce-eager"),
        ("-tp", "2"),
        ("-O3",),
        ("--dtype", "float16", "--seed", "0"),
        ("--tokenizer", "/models/other"),
        ("--reasoning-parser", "qwen3", "--tool-call-parser", "hermes", "--enable-auto-tool-choice"),
        ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}'),
        ("--speculative-config.method=ngram",),
        ("--compilation-config", '{"cudagraph_mode": "NONE", "cudagraph_capture_sizes": [1, 2]}'),
        ("--hf-overrides", '{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}'),
        ("--chat-template", "template.jinja"),
        ("--load-format", "runai_streamer"),
        ("--distributed-executor-backend", "mp"),
        ("--lora-modules", "sql=/models/lora/sql", "--enable-lora"),
        ("--no-enable-prefix-caching",),
        ("--limit-mm-per-prompt", '{"image": 2}'),
    ],
)
def test_useful_arguments_pass(args: tuple[str, ...]) -> None:
    vllm.check_args(args, allow_remote_code=False)


@pytest.mark.parametrize(
    "args",
    [
        ("--host", "0.0.0.0"),
        ("--host=0.0.0.0",),
        ("--hos", "0.0.0.0"),
        ("--ho=0.0.0.0",),
        ("--port", "8000"),
        ("--po", "8000"),
        ("--uds", "/tmp/x"),
        ("--api-key", "x"),
        ("--api_key=x",),
        ("--api", "x"),
        ("--api-key.0", "x"),
        ("--ssl-keyfile", "x"),
        ("--ssl_certfile=x",),
        ("--ssl-c", "x"),
        ("--middleware", "a.B"),
        ("--middle=a.B",),
        ("--root-path", "/x"),
        ("--served-model-name", "x"),
        ("--served_model_name", "x"),
        ("--served", "x"),
        ("--allowed-origins", '["*"]'),
        ("--allowed_o", '["*"]'),
        ("--allow-credentials",),
        ("--model", "x"),
        ("--model=x",),
        ("--config", "x.yaml"),
        ("--conf", "x.yaml"),
        ("--max-model-len", "--config", "x.yaml"),
        ("--revision", "main"),
        ("--hf-token", "hf_x"),
        ("--hf-tok=hf_x",),
        ("--download-dir", "/tmp"),
        ("--enable-log-requests",),
        ("--enable_log_requests",),
        ("--enable-log-r",),
        ("--enable-log-outputs",),
        ("--no-disable-uvicorn-access-log",),
        ("--no-disable-uvicorn",),
        ("--log-error-stack",),
        ("--log-level", "DEBUG"),
        ("--logging-config.log_level", "DEBUG"),
        ("--uvicorn-log-level=trace",),
        ("--grpc",),
        ("--omni",),
        ("--headless",),
        ("--nnodes", "2"),
        ("-n", "2"),
        ("-n2",),
        ("-dpa", "10.0.0.1"),
        ("--help",),
        ("--help=all",),
        ("-h",),
        ("--",),
        ("-tp", "2", "--", "other/model"),
        ("other/model",),
        ("--e",),
        ("--compilation-config.mode",),
        ("--compilation-config.mode", "--uds"),
        ("--max-model-len\n--host", "x"),
        ("--chat-template", "a\0b"),
    ],
)
def test_the_launchers_own_arguments_are_refused(args: tuple[str, ...]) -> None:
    for allowed in (False, True):
        with pytest.raises(RequestError) as refusal:
            vllm.check_args(args, allow_remote_code=allowed)
        assert refusal.value.hint


@pytest.mark.parametrize(
    "args",
    [
        ("--trust-remote-code",),
        ("--trust_remote_code",),
        ("--trust-rem",),
        ("--tool-parser-plugin", "/home/mallory/x.py"),
        ("--reasoning-parser-plugin=/x",),
        ("--logits-processors", "evil:Processor"),
        ("--worker-cls", "evil.Worker"),
        ("--worker_extension_cls=evil.Worker",),
        ("--scheduler-cls", "evil.Scheduler"),
        ("--io-processor-plugin", "evil"),
        ("--tool-server", "demo"),
        ("--distributed-executor-backend", "evil.Executor"),
        ("--load-format", "pt"),
        ("--load_format=npcache",),
        ("--load-f", "pt"),
        ("--load-format", "my_plugin"),
        ("--structured-outputs-config.reasoning_parser_plugin=/x",),
        ("--compilation-config", '{"backend": "evil.compiler"}'),
        ("-cc.backend", "evil.compiler"),
        ("--speculative-config", '{"model": "x", "draft_load_config": {"load_format": "pt"}}'),
        ("--speculative-config", '{"model": "x", "trust_remote_code": true}'),
        ("--speculative-config", '[{"method": "custom_class", "model": "evil.Proposer"}]'),
        ("--chat-template", "x.py"),
    ],
)
def test_foreign_code_needs_the_sites_leave(args: tuple[str, ...]) -> None:
    """Blackfish 16: code of a model."""
    with pytest.raises(RequestError, match="would load Python code"):
        vllm.check_args(args, allow_remote_code=False)
    vllm.check_args(args, allow_remote_code=True)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_stays_one_word(value: str) -> None:
    args = ("--chat-template", value)
    if not value.startswith("-"):
        vllm.check_args(args, allow_remote_code=False)
    command = vllm.command(vllm_plan(*args), Path("/run/s/engine.sock"), Path("/cache"))
    assert command.argv[3:5] == args


def test_the_refusal_names_the_argument_and_why() -> None:
    with pytest.raises(RequestError, match=r"Engine argument --hos .*short for --host.*only port"):
        vllm.check_args(("--hos", "0.0.0.0"), allow_remote_code=False)


def test_option_values_reads_every_spelling() -> None:
    args = ("--max_model_len", "1", "--max-model-len=2", "--seed", "3", "--max-model-len")
    assert option_values(args, "--max-model-len") == ["1", "2", ""]


def test_phases_come_in_order_in_a_real_start() -> None:
    lines = (LOGS / "start.txt").read_text().splitlines()
    seen = [name for line in lines if (name := vllm.phase(line)) is not None]
    assert [name for place, name in enumerate(seen) if place == 0 or seen[place - 1] != name] == [
        "weights",
        "compile",
        "warm-up",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # From the source: compilation/backends.py, v1/worker/gpu_model_runner.py, v1/worker/gpu/cudagraph_utils.py.
        (
            "(EngineCore pid=1) INFO 11-21 11:00:00 [backends.py:1105] "
            "Using cache directory: /c for vLLM's torch.compile",
            "compile",
        ),
        (
            "(EngineCore pid=1) INFO 11-21 11:00:00 [backends.py:399] "
            "Compiling a graph for compile range (1, 8192) takes 12.20 s",
            "compile",
        ),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|####      | 20/51", "graphs"),
        (
            "(EngineCore pid=1) INFO 11-21 11:00:00 [gpu_model_runner.py:6582] "
            "Graph capturing finished in 5 secs, took 0.60 GiB",
            "warm-up",
        ),
        ("(APIServer pid=1) INFO 11-21 11:00:00 [api_server.py:1] something else", None),
        ("", None),
    ],
)
def test_phase_of_a_line(line: str, expected: str | None) -> None:
    assert vllm.phase(line) == expected


def expectations() -> list[tuple[str, str, str, str]]:
    rows = json.loads((LOGS / "expected.json").read_text())
    return [(row["log"], row["reason"], row["says"], row["hint"]) for row in rows]


@pytest.mark.parametrize(("log", "reason", "says", "hint"), expectations())
def test_real_failures_are_explained(log: str, reason: str, says: str, hint: str) -> None:
    text = (LOGS / log).read_text()
    found = vllm.explain(text, 2 if log == "unknown-flag.txt" else 1, ready=False, elapsed_s=41.4)
    assert found.message.startswith("vLLM stopped after 41 s (exit code ")
    assert found.reason == reason
    assert says in found.message
    assert hint in (found.hint or "")
    assert len(found.message) < 400
    assert "\n" not in found.message


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        # Where a GPU is needed: the words of vLLM's, torch's and NCCL's source.
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "out-of-memory",
            "CUDA out of memory",
        ),
        (
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
            "Your Tesla V100-SXM2-32GB GPU has compute capability 7.0.",
            "hardware",
            "V100",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.11/79.11 GiB) on startup "
            "is less than desired GPU memory utilization (0.92, 72.78 GiB).",
            "gpu-busy",
            "3.11 of 79.11 GiB",
        ),
        (
            "World size (4) is larger than the number of available GPUs (2) in this node.",
            "request",
            "4 GPUs, and the job has 2",
        ),
        (
            "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
            "network",
            "NCCL",
        ),
        (
            "RuntimeError: CUDA error: an illegal memory access was encountered",
            "gpu-fault",
            "illegal memory access",
        ),
        ("RuntimeError: No CUDA GPUs are available", "no-gpu", "no GPU"),
        ("OSError: [Errno 28] No space left on device", "storage", "full"),
        ("OSError: [Errno 98] Address already in use", "address", "taken"),
        ("ModuleNotFoundError: No module named 'vllm'", "environment", "No module named 'vllm'"),
    ],
)
def test_failures_that_need_a_gpu_are_explained(text: str, reason: str, says: str) -> None:
    line = f"(EngineCore pid=12) ERROR 11-21 10:50:58 [core.py:1510] {text}\n"
    found = vllm.explain(line, 1, ready=False, elapsed_s=3)
    assert (found.reason, found.hint is not None) == (reason, True)
    assert says in found.message


@pytest.mark.parametrize(
    ("code", "reason", "says"),
    [
        (127, "environment", "was not found"),
        (126, "environment", "may not be run"),
        (-signal.SIGKILL, "out-of-memory", "probably"),
        (137, "out-of-memory", "probably"),
        (-signal.SIGSEGV, "engine-exit", "crashed"),
        (-signal.SIGBUS, "out-of-memory", "/dev/shm"),
        (-signal.SIGTERM, "engine-exit", "told to stop"),
        (0, "engine-exit", "exit code 0"),
        (None, "engine-exit", "exit code unknown"),
    ],
)
def test_an_ending_without_words(code: int | None, reason: str, says: str) -> None:
    found = vllm.explain("", code, ready=False, elapsed_s=1)
    assert found.reason == reason
    assert says in found.message


def test_a_killed_process_of_a_running_engine() -> None:
    found = vllm.explain((LOGS / "worker-killed.txt").read_text(), 0, ready=True, elapsed_s=60)
    assert found.reason == "out-of-memory"
    assert "while it was in use" in found.message
    assert "probably" in found.message


def test_an_unknown_error_is_quoted_only_before_the_session_was_ready() -> None:
    line = (
        "(EngineCore pid=1) ERROR 11-21 11:00:00 [core.py:1512] ValueError: cannot parse 'my secret prompt'\n"
    )
    assert "my secret prompt" in vllm.explain(line, 1, ready=False, elapsed_s=1).message
    served = vllm.explain(line, 1, ready=True, elapsed_s=1).message
    assert "my secret prompt" not in served
    assert "ValueError" in served


def test_control_characters_of_a_log_do_not_reach_the_message() -> None:
    found = vllm.explain("RuntimeError: \x1b[31mred\x07 text\n", 1, ready=False, elapsed_s=1)
    assert found.message.isprintable()
