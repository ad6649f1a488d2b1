"""P9: a batch run against a plain asyncio client and `vllm run-batch`: throughput, memory, what a SIGKILL costs.

    make bench NAME=batch [ARGS='--rounds 1 --lines 500 --memory 2000,10000 --vllm']

Throughput: the same window, the same gateway and engine, in turn; the engine answers each request after a fixed time,
so that a client which keeps the window full gets window / time: the engine's own throughput. Memory: the peak of the
client's process, lines that are answered at once. With --vllm also the real vLLM on CPU with the shipped model, in
turn, and `vllm run-batch`, which starts its own. Prints what each round brings, one table and, as the last line, one
JSON object. That a job starts its engine once is shown by tests/integration/test_batch_run_jobs.py.
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
from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Row:
    """One figure: `name` in the JSON, `what` in the table; `plain` is the plain client's, where it has one."""

    name: str
    what: str
    value: float
    unit: str
    goal: float | None = None
    plain: float | None = None
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.goal is None or (self.value >= self.goal if self.at_least else self.value <= self.goal)


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
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        rows += throughput(folder, options)
        rows += killed(folder, options)
        if options.memory:
            rows += memory(folder, [int(word) for word in options.memory.split(",")])
        if options.vllm:
            rows += with_vllm(folder, options)
    show(rows)
    print(json.dumps(result(rows), ensure_ascii=False))


def show(rows: Sequence[Row]) -> None:
    """The table, as docs/performance.md has it."""
    wide = max(len(row.what) for row in rows)
    print(f"\n{'':{wide}}{'ours':>12}{'goal':>10}{'plain':>12}   unit")
    for row in rows:
        goal = "" if row.goal is None else f"{'≥' if row.at_least else '≤'} {row.goal:g}"
        plain = "" if row.plain is None else f"{row.plain:.3f}"
        print(f"{row.what:{wide}}{row.value:12.3f}{goal:>10}{plain:>12}   {row.unit}")


def result(rows: Sequence[Row]) -> dict[str, object]:
    """P9: each of its parts with its goal, met if all of them are. The other figures stand beside it."""
    parts = [row for row in rows if row.goal is not None]
    return {
        "P9": {
            "value": {row.name: round(row.value, 4) for row in parts},
            "goal": {row.name: row.goal for row in parts},
            "met": all(row.met for row in parts),
        },
        "others": {row.name: round(row.value, 4) for row in rows if row.goal is None},
        "plain": {row.name: round(row.plain, 4) for row in rows if row.plain is not None},
    }


def throughput(folder: Path, options: argparse.Namespace) -> list[Row]:
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
    ratio = statistics.median(
        plain.sending_s / one.sending_s for one, plain in zip(found[OURS], found[PLAIN], strict=True)
    )
    what = f"throughput, window {options.window}, {options.answer_ms:g} ms an answer"
    whole = f"the same, against the engine's own {ideal:.1f} a second"
    return [
        Row("throughput", what, ratio, "of a plain client's", RATIO),
        Row("of_engine", whole, rates[OURS] / ideal, "×", None, rates[PLAIN] / ideal),
    ]


def killed(folder: Path, options: argparse.Namespace) -> list[Row]:
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
    what = f"sent twice of {count} after a SIGKILL in the middle"
    return [Row("sent_twice", what, sent - count, "requests", options.window, at_least=False)]


def memory(folder: Path, counts_of_lines: list[int]) -> list[Row]:
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
    mine, plain = peaks[OURS], peaks[PLAIN]
    what, ratio, others = (
        f"memory at {many} lines against {few}",
        mine[many] / mine[few],
        plain[many] / plain[few],
    )
    return [
        Row("memory", what, ratio, "×", MEMORY_RATIO, others, at_least=False),
        Row("peak_mb", f"largest memory at {many} lines", mine[many], "MB", None, plain[many]),
    ]


def with_vllm(folder: Path, options: argparse.Namespace) -> list[Row]:
    """The real engine: ours and the plain client with a server that runs, `vllm run-batch` with its own."""
    source = write(folder / "vllm.jsonl", min(options.lines, 500), max_tokens=16)
    lines = source.read_text().count("\n")
    port = free_port()
    vllm = str(Path(sys.executable).parent / "vllm")
    set_up = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    wanted = ["--served-model-name", "tiny", "--enforce-eager"]
    argv = [vllm, "serve", str(_MODEL), "--port", str(port), *wanted]
    rates: dict[str, list[float]] = {PLAIN: [], OURS: []}
    log, url = folder / "vllm.log", f"http://127.0.0.1:{port}/v1"
    begun = time.perf_counter()
    with (
        log.open("wb") as out,
        subprocess.Popen(argv, env=set_up, stdout=out, stderr=out, text=True) as process,
    ):
        try:
            until_answering(port, process, 600)
            started_s = time.perf_counter() - begun
            client(PLAIN, folder, source, url, options.window)  # warm: from here on its prompts are known
            for turn in range(options.rounds):
                for who in (PLAIN, OURS) if turn % 2 == 0 else (OURS, PLAIN):
                    rates[who].append(lines / client(who, folder, source, url, options.window).sending_s)
                    print(f"round {turn + 1} {who:22}{rates[who][-1]:8.1f} requests/s with vLLM", flush=True)
        finally:
            process.terminate()
    argv = [vllm, "run-batch", "-i", str(source), "-o", str(folder / "vllm.out"), "--model", str(_MODEL)]
    took = measured([*argv, *wanted], set_up, folder)
    ratio = statistics.median(a / b for a, b in zip(rates[OURS], rates[PLAIN], strict=True))
    mine, plain = statistics.median(rates[OURS]), statistics.median(rates[PLAIN])
    return [
        Row("vllm", f"throughput with vLLM on CPU, {lines} lines", ratio, "of a plain client's", RATIO),
        Row("vllm_per_s", "requests that vLLM answers", mine, "a second", None, plain),
        Row("run_batch_s", f"the same with {VLLM}, its start included", took.wall_s, "s"),
        Row("run_batch_mb", f"largest process of {VLLM}", took.peak_mb, "MB"),
        Row("serve_start_s", "start of vllm serve alone", started_s, "s"),
    ]


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
