"""A real client through the gateway and without it: `vllm bench serve`, one after the other in turn.

    make bench NAME=vllm_bench [ARGS='--rounds 1 --prompts 100']

The engine is the benchmarks' own, which listens on a port too: every token is an event, 100 a second for each
request. So the differences are the gateway's and the client's own noise. Loading vLLM takes the client about 15 s.
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
from collections.abc import Mapping
from pathlib import Path

from benchmarks.parts.ways import DIRECT, KEY, OURS, ROOT, Way, engine, free_port, gateway, running

_TOKENIZER = ROOT / "launcher" / "models" / "shipped" / "tiny-chat"
_SHOWN = {
    "request_throughput": "requests/s",
    "p50_ttft_ms": "TTFT p50",
    "p99_ttft_ms": "TTFT p99",
    "p50_itl_ms": "ITL p50",
    "p99_itl_ms": "ITL p99",
}


def main() -> None:
    """Print the table and, as the last line, the medians as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--token-rate", type=float, default=100.0, help="tokens a second for each request")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by TERM"))  # so that what was started ends too
    found: dict[str, list[Mapping[str, float]]] = {DIRECT: [], OURS: []}
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        paced = ("--rate", str(options.token_rate), "--first-token-ms", "20")
        with engine(folder, *paced) as (socket_path, port):
            way = Way(OURS, free_port(), argv=gateway(folder, socket_path))
            assert isinstance(way.address, int)
            with running(way, way.address):
                ports = {DIRECT: port, OURS: way.address}
                for turn in range(options.rounds):
                    for who in (DIRECT, OURS) if turn % 2 == 0 else (OURS, DIRECT):
                        found[who].append(
                            client(folder, ports[who], options.prompts, options.concurrency, seed=turn)
                        )
                        one = found[who][-1]
                        print(
                            f"round {turn + 1} {who:18}{one['request_throughput']:8.2f} requests/s",
                            flush=True,
                        )
    show(found)


def client(folder: Path, port: int, prompts: int, concurrency: int, seed: int) -> Mapping[str, float]:
    """Run `vllm bench serve` once; what it wrote, with `failed` among it."""
    result = folder / "result.json"
    argv = [str(Path(sys.executable).parent / "vllm"), "bench", "serve", "--backend", "openai-chat"]
    argv += ["--base-url", f"http://127.0.0.1:{port}", "--endpoint", "/v1/chat/completions"]
    argv += ["--model", "tiny", "--tokenizer", str(_TOKENIZER), "--dataset-name", "random"]
    argv += ["--random-input-len", "32", "--random-output-len", "64", "--seed", str(seed)]
    argv += ["--num-prompts", str(prompts), "--max-concurrency", str(concurrency), "--disable-tqdm"]
    argv += ["--percentile-metrics", "ttft,itl", "--metric-percentiles", "50,99"]
    argv += ["--save-result", "--result-dir", str(folder), "--result-filename", result.name]
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(argv, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not result.exists():
        raise RuntimeError(f"vllm bench serve failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    found: Mapping[str, float] = json.loads(result.read_text())
    result.unlink()
    return found


def show(found: Mapping[str, list[Mapping[str, float]]]) -> None:
    """The table and the JSON line."""
    medians = {
        who: {key: statistics.median(one[key] for one in rounds) for key in _SHOWN}
        for who, rounds in found.items()
    }
    print(f"\n{'':18}" + "".join(f"{title:>12}" for title in _SHOWN.values()) + f"{'failed':>8}")
    for who, values in medians.items():
        failed = sum(one["failed"] for one in found[who])
        print(f"{who:18}" + "".join(f"{value:12.3f}" for value in values.values()) + f"{failed:8.0f}")
    print("Times in ms. Each number is the median of the rounds.")
    ratio = medians[OURS]["request_throughput"] / medians[DIRECT]["request_throughput"]
    print(json.dumps({"vllm_bench": {"value": round(ratio, 4), "unit": "of direct's requests/s", **medians}}))


if __name__ == "__main__":
    main()
