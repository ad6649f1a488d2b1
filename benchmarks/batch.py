"""P9: a batch run against a plain asyncio client and `vllm run-batch`: throughput, memory, what a SIGKILL costs.

    make bench NAME=batch [ARGS='--rounds 1 --lines 500 --memory 2000,10000 --vllm']

Throughput: the same window, the same gateway and engine, in turn; the engine answers each request after a fixed time,
so that a client which keeps the window full gets window / time. Memory: the peak of the client's process, lines that
are answered at once. With --vllm also the real vLLM on CPU with the shipped model, and `vllm run-batch`, which starts
its own. Prints one table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts.ways import KEY, ROOT, engine, free_port, gateway, program, until_answering

RATIO, MEMORY_RATIO = 0.97, 1.2
PLAIN, OURS, VLLM = "plain asyncio client", "launcher batch run", "vllm run-batch"
_MODEL = ROOT / "launcher" / "models" / "shipped" / "tiny-chat"


@dataclass(frozen=True)
class Took:
    """Seconds of sending and of the whole process, and its largest resident memory in MB (10^6 bytes)."""

    sending_s: float
    wall_s: float
    peak_mb: float


def main() -> None:
    """Measure, print the table and the JSON line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by TERM"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--answer-ms", type=float, default=250.0)
    parser.add_argument("--memory", default="10000,150000", help="two numbers of lines; empty: not measured")
    parser.add_argument("--vllm", action="store_true", help="the real vLLM on CPU, too")
    options = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        result |= throughput(folder, options)
        result |= killed(folder, options)
        if options.memory:
            result |= memory(folder, [int(word) for word in options.memory.split(",")])
        if options.vllm:
            result |= with_vllm(folder, options)
    print(json.dumps({"batch": result}))


def throughput(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Both clients in turn before one simulated engine behind our gateway."""
    source = write(folder / "in.jsonl", options.lines)
    found: dict[str, list[Took]] = {PLAIN: [], OURS: []}
    with simulated(folder, options.answer_ms) as url:
        for turn in range(options.rounds):
            for who in (PLAIN, OURS) if turn % 2 == 0 else (OURS, PLAIN):
                found[who].append(client(who, folder, source, url, options.window))
                rate = options.lines / found[who][-1].sending_s
                print(f"round {turn + 1} {who:22}{rate:8.1f} requests/s", flush=True)
    ideal = options.window / (options.answer_ms / 1000)
    rates = {
        who: statistics.median(options.lines / one.sending_s for one in rounds)
        for who, rounds in found.items()
    }
    print(f"\n{'':22}{'requests/s':>12}{'of ideal':>10}{'peak MB':>9}")
    for who, rounds in found.items():
        peak = statistics.median(one.peak_mb for one in rounds)
        print(f"{who:22}{rates[who]:12.1f}{rates[who] / ideal:10.3f}{peak:9.1f}")
    print(f"window {options.window}, {options.answer_ms:g} ms an answer: at most {ideal:.1f} requests/s")
    return {
        "value": round(rates[OURS] / rates[PLAIN], 4), "unit": "of a plain client's throughput", "want": RATIO,
        "of_ideal": round(rates[OURS] / ideal, 4), "plain_of_ideal": round(rates[PLAIN] / ideal, 4),
    }  # fmt: skip


def killed(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """How many requests are sent again after a SIGKILL in the middle: at most the window."""
    count = min(options.lines, 1000)
    source, output = write(folder / "killed.jsonl", count), folder / "killed.out"
    with simulated(folder, options.answer_ms) as url:
        process = begun(folder, ours(source, output, url, options.window))
        while not output.exists() or output.read_bytes().count(b"\n") < count // 2:
            time.sleep(0.05)
        process.kill()
        process.wait()
        before = output.read_bytes()
        assert begun(folder, ours(source, output, url, options.window)).wait() == 0
        sent = counts(folder)["started"]
    after = output.read_bytes()
    ids = [json.loads(line)["custom_id"] for line in after.splitlines()]
    whole = before[: before.rfind(b"\n") + 1]
    assert after.startswith(whole), "earlier bytes have changed"
    assert sorted(ids) == sorted(f"r{number}" for number in range(count))
    print(f"killed in the middle: {sent - count} of {count} requests sent twice, window {options.window}")
    return {"sent_twice": sent - count, "window": options.window}


def memory(folder: Path, counts_of_lines: list[int]) -> dict[str, object]:
    """The peak of our process by the number of lines, and of the plain client's."""
    peaks: dict[str, dict[int, float]] = {OURS: {}, PLAIN: {}}
    with engine(folder) as (_, port):
        for count in counts_of_lines:
            source = write(folder / f"{count}.jsonl", count)
            for who, known in peaks.items():
                took = client(who, folder, source, f"http://127.0.0.1:{port}/v1", 64)
                known[count] = took.peak_mb
                print(
                    f"{who:22}{count:9} lines {took.peak_mb:9.1f} MB {count / took.sending_s:9.1f} requests/s",
                    flush=True,
                )
    few, many = counts_of_lines[0], counts_of_lines[-1]
    ratios = {who: round(known[many] / known[few], 3) for who, known in peaks.items()}
    print(f"memory at {many} lines against {few}: × {ratios[OURS]} (plain client × {ratios[PLAIN]})")
    return {"memory_ratio": ratios[OURS], "memory_want": MEMORY_RATIO, "plain_memory_ratio": ratios[PLAIN]}


def with_vllm(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """The real engine: ours and the plain client with a server that runs, `vllm run-batch` with its own."""
    source = write(folder / "vllm.jsonl", min(options.lines, 500), max_tokens=16)
    lines = source.read_text().count("\n")
    port = free_port()
    vllm = str(Path(sys.executable).parent / "vllm")
    set_up = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    argv = [vllm, "serve", str(_MODEL), "--served-name", "tiny", "--port", str(port), "--enforce-eager"]
    argv = [word.replace("--served-name", "--served-model-name") for word in argv]
    log = (folder / "vllm.log").open("wb")
    found: dict[str, object] = {}
    begun = time.perf_counter()
    with subprocess.Popen(argv, env=set_up, stdout=log, stderr=log, text=True) as process:
        try:
            until_answering(port, process, 600)
            started_s = time.perf_counter() - begun
            client(PLAIN, folder, source, f"http://127.0.0.1:{port}/v1", options.window)  # warm
            rates = {
                who: lines
                / client(who, folder, source, f"http://127.0.0.1:{port}/v1", options.window).sending_s
                for who in (PLAIN, OURS)
            }
        finally:
            process.terminate()
    argv = [vllm, "run-batch", "-i", str(source), "-o", str(folder / "vllm.out"), "--model", str(_MODEL)]
    begun = time.perf_counter()
    took = measured([*argv, "--served-model-name", "tiny", "--enforce-eager"], set_up, folder)
    for who, rate in rates.items():
        print(f"{who:22}{rate:9.1f} requests/s with vLLM, which took {started_s:.0f} s to start")
    print(
        f"{VLLM:22}{lines / took.wall_s:9.1f} requests/s with its start, peak {took.peak_mb:.0f} MB in one process"
    )
    found["vllm"] = {
        "ours_of_plain": round(rates[OURS] / rates[PLAIN], 4), "plain_per_s": round(rates[PLAIN], 2),
        "run_batch_wall_s": round(took.wall_s, 1), "serve_start_s": round(started_s, 1), "lines": lines,
    }  # fmt: skip
    return found


def begun(folder: Path, argv: list[str]) -> subprocess.Popen[bytes]:
    """`argv` as a process that nobody listens to."""
    return subprocess.Popen(
        argv, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )


def write(path: Path, lines: int, **body: object) -> Path:
    with path.open("w") as file:
        for number in range(lines):
            asked = {
                "model": "tiny",
                "messages": [{"role": "user", "content": f"What is {number} plus {number}?"}],
                **body,
            }
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
            file.write(json.dumps(line) + "\n")
    return path


def environment(folder: Path) -> dict[str, str]:
    """Sessions and runs of the benchmark's own; the key for both clients."""
    return {
        **os.environ, "LAUNCHER_SITE": os.devnull, "LAUNCHER_CONFIG": os.devnull, "BENCH_KEY": KEY,
        "LAUNCHER_API_KEY": KEY, "LAUNCHER_PLACES__SESSIONS": str(folder / "sessions"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip


def ours(source: Path, output: Path, url: str, window: int) -> list[str]:
    argv = [sys.executable, "-m", "launcher", "batch", "run", str(source), "-o", str(output), "--url", url]
    return [*argv, "--window", str(window), "--json"]


def client(who: str, folder: Path, source: Path, url: str, window: int) -> Took:
    """One of the clients answers `source` once, from the beginning."""
    output = folder / f"{source.name}.out"
    output.unlink(missing_ok=True)
    if who == OURS:
        argv = ours(source, output, url, window)
    else:
        argv = [
            sys.executable,
            "-m",
            "benchmarks.parts.plain_batch",
            str(source),
            str(output),
            url,
            str(window),
        ]
    took = measured(argv, environment(folder), folder)
    text = (folder / "said").read_text()
    seconds = json.loads(text)["seconds"] if who == OURS else float(text)
    return Took(seconds, took.wall_s, took.peak_mb)


def measured(argv: list[str], env: Mapping[str, str], folder: Path) -> Took:
    """Run `argv`; what it says is in the file `said`."""
    begun = time.perf_counter()
    with (folder / "said").open("w") as said, (folder / "errors").open("w") as errors:
        process = subprocess.Popen(argv, env=env, stdout=said, stderr=errors, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv[:6]} failed: {(folder / 'errors').read_text()[-3000:]}")
    return Took(0.0, time.perf_counter() - begun, usage.ru_maxrss * 1024 / 1e6)


@contextmanager
def simulated(folder: Path, answer_ms: float) -> Iterator[str]:
    """Our gateway before a simulated engine that answers each request after `answer_ms`: its URL."""
    where = folder / "simulated.sock"
    argv = [
        sys.executable,
        "-m",
        "launcher.engines.simulated.serve",
        "--uds",
        str(where),
        "--served-name",
        "tiny",
    ]
    argv += ["--start-delay-s", "0", "--first-token-ms", str(answer_ms), "--token-rate", "0"]
    port = free_port()
    with program(argv, out=subprocess.DEVNULL) as one:
        until_answering(str(where), one)
        with program(gateway(folder, where)(port), out=subprocess.DEVNULL) as other:
            until_answering(port, other)
            yield f"http://127.0.0.1:{port}/v1"


def counts(folder: Path) -> dict[str, int]:
    """What the simulated engine has counted."""
    from tests.programs.front import ask_socket

    found: dict[str, int] = ask_socket(folder / "simulated.sock", "/simulated/requests").json()
    return found


if __name__ == "__main__":
    main()
