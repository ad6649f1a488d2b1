"""The rows of `launcher metrics`, from the text of a real vLLM 0.32 behind its gateway (`vllm_metrics.txt`)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from launcher.api.metrics import Metrics, Reading, figures, parsed
from launcher.cli.metrics import rows, shown
from tests.hostile import HOSTILE

# Read through the gateway of a session of tiny-chat: four chats, one that the client left, one for a wrong model.
VLLM = Path(__file__).with_name("vllm_metrics.txt").read_text()
VEC_INF = [
    "Prompt Throughput", "Generation Throughput", "Requests Running", "Requests Waiting", "Requests Swapped",
    "GPU Cache Usage", "CPU Cache Usage", "Avg Request Latency", "Total Prompt Tokens", "Total Generation Tokens",
    "Successful Requests",
]  # fmt: skip


def reading(text: str, at: float = 0.0) -> Reading:
    return parsed(text, at)


def later(text: str, **added: float) -> str:
    """The same text after the engine has counted so much more."""
    for name, more in added.items():
        text = re.sub(
            rf"(?m)^(vllm:{name}{{.*}}) (\S+)$",
            lambda found, more=more: f"{found[1]} {float(found[2]) + more}",  # type: ignore[misc]
            text,
        )
    return text


def test_vec_infs_rows_come_from_the_names_of_a_current_vllm() -> None:
    """vec-inf 7: metrics from V1's names, and what V1 does not have is not reported rather than 0."""
    before, now = (
        reading(VLLM),
        reading(later(VLLM, prompt_tokens_total=100, generation_tokens_total=41), 2.0),
    )
    table = dict(rows(figures(now, before)))
    assert list(table)[:11] == VEC_INF
    assert table == {
        "Prompt Throughput": "50.0 tokens/s",
        "Generation Throughput": "20.5 tokens/s",
        "Requests Running": "1 reqs",
        "Requests Waiting": "0 reqs",
        "Requests Swapped": "not reported",
        "GPU Cache Usage": "0.4%",
        "CPU Cache Usage": "not reported",
        "Avg Request Latency": "0.7 s",
        "Total Prompt Tokens": "227 tokens",
        "Total Generation Tokens": "75 tokens",
        "Successful Requests": "5 reqs",
        "Failed Requests": "1 reqs",
        "Avg Time To First Token": "0.37 s",
        "Prefix Cache Hit Rate": "0.0%",
    }


def test_a_first_reading_has_no_throughput() -> None:
    table = dict(rows(figures(reading(VLLM))))
    assert table["Prompt Throughput"] == table["Generation Throughput"] == "not reported"
    assert table["Total Prompt Tokens"] == "127 tokens"


def test_an_engine_that_was_started_again_gives_no_throughput_below_zero() -> None:
    again = figures(reading(later(VLLM, generation_tokens_total=-30), 2.0), reading(VLLM))
    assert again.generation_tokens_per_sec is None
    assert again.prompt_tokens_per_sec == 0


def test_several_engines_of_one_session_are_counted_together() -> None:
    """Data parallel: each rank has its own label; counts add up, a share is their mean."""
    lines = [
        'vllm:num_requests_running{engine="0",model_name="m"} 2.0',
        'vllm:num_requests_running{engine="1",model_name="m"} 3.0',
        'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.2',
        'vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.6',
    ]
    found = figures(reading("\n".join(lines)))
    assert found.requests_running == 5
    assert found.gpu_cache_usage == pytest.approx(0.4)


def test_what_was_broken_off_is_no_success() -> None:
    lines = [
        f'vllm:request_success_total{{finished_reason="{reason}"}} {count}'
        for reason, count in (("stop", 4), ("length", 2), ("abort", 8), ("error", 16))
    ]
    assert figures(reading("\n".join(lines))).successful_requests_total == 6


def test_an_older_vllm_has_its_own_names() -> None:
    lines = [
        'vllm:gpu_cache_usage_perc{model_name="m"} 0.25',
        'vllm:cpu_cache_usage_perc{model_name="m"} 0.5',
        'vllm:num_requests_swapped{model_name="m"} 3',
    ]
    table = dict(rows(figures(reading("\n".join(lines)))))
    assert (table["GPU Cache Usage"], table["CPU Cache Usage"]) == ("25.0%", "50.0%")
    assert table["Requests Swapped"] == "3 reqs"


def test_an_engine_without_metrics_is_described_by_its_gateway() -> None:
    """Whisper: seconds of audio and no tokens; looking at the list of models is no request for it."""
    label = 'key="session",route="/v1/audio/transcriptions"'
    text = "\n".join(
        [
            f'launcher_gateway_requests_total{{{label},status="200"}} 6.0',
            f'launcher_gateway_requests_total{{{label},status="422"}} 1.0',
            f'launcher_gateway_requests_total{{{label},status="499"}} 1.0',
            'launcher_gateway_requests_total{key="session",route="/v1/models",status="200"} 50.0',
            'launcher_gateway_prompt_tokens_total{key="session"} 0.0',
            'launcher_gateway_completion_tokens_total{key="session"} 0.0',
            'launcher_gateway_audio_seconds_total{key="session"} 120.0',
            f"launcher_gateway_request_seconds_count{{{label}}} 8.0",
            f"launcher_gateway_request_seconds_sum{{{label}}} 20.0",
            "launcher_gateway_in_flight 2.0",
        ]
    )
    table = dict(rows(figures(reading(text.replace("120.0", "180.0"), 4.0), reading(text))))
    assert table == {
        **dict.fromkeys(VEC_INF, "not reported"),
        "Requests Running": "2 reqs",
        "Avg Request Latency": "2.5 s",
        "Successful Requests": "6 reqs",
        "Failed Requests": "1 reqs",
        "Audio Throughput": "15.0 s of audio/s",
        "Total Audio": "180 s",
    }


def test_nothing_is_reported_by_an_empty_answer() -> None:
    assert figures(reading("")) == Metrics()
    assert shown(Metrics()).count("not reported") == 11


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_of_a_model_breaks_the_reading(hostile: str) -> None:
    """A served name is its user's own; Prometheus' format escapes quotes, backslashes and line breaks."""
    escaped = hostile.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    text = VLLM.replace('model_name="tiny-chat"', f'model_name="{escaped}"')
    assert figures(reading(text)) == figures(reading(VLLM))


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running",
        "vllm:num_requests_running{ 1",
        "vllm:num_requests_running many",
        "{} 1",
        "\0 1",
        "é 1",
    ],
)
def test_what_is_no_sample_is_passed_over(line: str) -> None:
    assert figures(reading(f"{line}\n{VLLM}\n{line}")) == figures(reading(VLLM))


def test_a_figure_that_is_no_number_is_not_reported() -> None:
    assert figures(reading('vllm:kv_cache_usage_perc{engine="0"} NaN\nvllm:x 1')).gpu_cache_usage is None


def test_every_figure_has_its_row() -> None:
    full = Metrics(**{field.name: 1.0 for field in dataclasses.fields(Metrics)})
    assert len(rows(full)) == len(dataclasses.fields(Metrics))
    assert "not reported" not in shown(full)


@pytest.mark.parametrize("unit", ["x", 'a="', "} ", "} 1", "\\\\", 'a="\\"'])
def test_an_answer_as_long_as_it_may_be_is_read_once(unit: str) -> None:
    # Two million letters: what looked at each more than a few times would not come to an end.
    parsed(f"vllm:x{{{unit * (2_000_000 // len(unit))}}} 1", 0.0)
