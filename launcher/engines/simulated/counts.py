"""What the simulated engine counts, and how it says so: vLLM V1's metric names and `/simulated/requests`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Totals since the start; `running` is now."""

    running: int = 0
    started: int = 0
    finished: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    first_token_s: float = 0.0
    first_tokens: int = 0
    latency_s: float = 0.0
    upload_bytes: int = 0
    images: int = 0

    def as_json(self) -> dict[str, float]:
        """For tests: how many requests run, ended, and were cancelled because the client left."""
        return {
            "running": self.running,
            "started": self.started,
            "finished": self.finished,
            "cancelled": self.cancelled,
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "upload_bytes": self.upload_bytes,
            "images": self.images,
        }

    def as_prometheus(self, model: str) -> str:
        """The exposition text of `/metrics`, named as vLLM 0.32's `v1/metrics/loggers.py` names them."""
        quoted = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        label = f'engine="0",model_name="{quoted}"'
        lines: list[str] = []

        def add(name: str, kind: str, value: float, extra: str = "", help_text: str = "Simulated.") -> None:
            base = name.removesuffix("_total") if kind == "counter" else name
            lines.extend((f"# HELP {base} {help_text}", f"# TYPE {base} {kind}"))
            lines.append(f"{name}{{{label}{extra}}} {float(value)}")

        def add_histogram(name: str, total: float, count: int) -> None:
            lines.extend((f"# HELP {name} Simulated.", f"# TYPE {name} histogram"))
            lines.append(f'{name}_bucket{{{label},le="+Inf"}} {float(count)}')
            lines.append(f"{name}_count{{{label}}} {float(count)}")
            lines.append(f"{name}_sum{{{label}}} {total}")

        add("vllm:num_requests_running", "gauge", self.running)
        add("vllm:num_requests_waiting", "gauge", 0)
        add("vllm:kv_cache_usage_perc", "gauge", min(1.0, self.running / 256))
        add("vllm:prefix_cache_queries_total", "counter", self.prompt_tokens)
        add("vllm:prefix_cache_hits_total", "counter", 0)
        add("vllm:num_preemptions_total", "counter", 0)
        add("vllm:prompt_tokens_total", "counter", self.prompt_tokens)
        add("vllm:generation_tokens_total", "counter", self.generation_tokens)
        add("vllm:request_success_total", "counter", self.finished, ',finished_reason="stop"')
        add_histogram("vllm:time_to_first_token_seconds", self.first_token_s, self.first_tokens)
        add_histogram("vllm:e2e_request_latency_seconds", self.latency_s, self.finished)
        return "\n".join(lines) + "\n"
