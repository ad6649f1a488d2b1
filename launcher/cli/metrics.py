"""`launcher metrics`: what a session does now, in vec-inf's rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from launcher.api import Launcher, Session
from launcher.api.metrics import Metrics, now, stream
from launcher.cli.parser import SESSION
from launcher.cli.tables import Redrawn, one_line, table

EXAMPLES = """\
examples:
  launcher metrics tiny-chat-3f9a               drawn anew every two seconds until Ctrl-C
  launcher metrics tiny-chat-3f9a --once
  launcher metrics tiny-chat-3f9a --json -f     one JSON object a line, every two seconds"""
ABSENT = "not reported"
# vec-inf's rows in its order, then ours, which are left out where nothing reports them.
_ROWS = (
    ("Prompt Throughput", "prompt_tokens_per_sec", "{:.1f} tokens/s"),
    ("Generation Throughput", "generation_tokens_per_sec", "{:.1f} tokens/s"),
    ("Requests Running", "requests_running", "{:.0f} reqs"),
    ("Requests Waiting", "requests_waiting", "{:.0f} reqs"),
    ("Requests Swapped", "requests_swapped", "{:.0f} reqs"),
    ("GPU Cache Usage", "gpu_cache_usage", "{:.1%}"),
    ("CPU Cache Usage", "cpu_cache_usage", "{:.1%}"),
    ("Avg Request Latency", "avg_request_latency", "{:.1f} s"),
    ("Total Prompt Tokens", "total_prompt_tokens", "{:.0f} tokens"),
    ("Total Generation Tokens", "total_generation_tokens", "{:.0f} tokens"),
    ("Successful Requests", "successful_requests_total", "{:.0f} reqs"),
)
_MORE = (
    ("Failed Requests", "failed_requests_total", "{:.0f} reqs"),
    ("Avg Time To First Token", "time_to_first_token_s", "{:.2f} s"),
    ("Prefix Cache Hit Rate", "prefix_cache_hit_rate", "{:.1%}"),
    ("Audio Throughput", "audio_s_per_s", "{:.1f} s of audio/s"),
    ("Total Audio", "total_audio_s", "{:.0f} s"),
)


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.add_argument("session", metavar="ID", help=SESSION)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="one table; so it is where no terminal shows it")
    how.add_argument("-f", "--follow", action="store_true", help="go on every two seconds, a terminal or not")


def run(arguments: argparse.Namespace) -> int:
    """Show them once, or until Ctrl-C or the session's end."""
    session = Launcher().session(arguments.session)
    live = arguments.follow or (sys.stdout.isatty() and not arguments.once and not arguments.json)
    if not live:
        _show(session, now(session), arguments.json)
        return 0
    return _follow(session, stream(session), arguments.json)


def _follow(session: Session, readings: Iterator[Metrics], as_json: bool) -> int:
    place = Redrawn(sys.stdout)
    try:
        for reading in readings:
            if as_json:
                _show(session, reading, as_json)
            else:
                silent = "\nIt does not answer just now." if reading == Metrics() else ""
                place.show(f"{shown(reading)}{silent}")
    except KeyboardInterrupt:  # the ordinary end of looking
        if not as_json:
            print()
        return 130
    status = session.status()
    print(f"{session.id}: {status.state}. {one_line(status.message)}", file=sys.stderr)
    return 0


def _show(session: Session, reading: Metrics, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"id": session.id, "model": session.plan.model.id, **figures(reading)}), flush=True)
    else:
        print(shown(reading), flush=True)


def figures(metrics: Metrics) -> dict[str, float | None]:
    """The figures by name for JSON; null where nothing reports one."""
    values = {field: getattr(metrics, field) for _, field, _ in (*_ROWS, *_MORE)}
    return {name: None if value is None else round(value, 6) for name, value in values.items()}


def rows(metrics: Metrics) -> list[tuple[str, str]]:
    """vec-inf's rows, with "not reported" where nothing does, and those of ours that something reports."""
    values = figures(metrics)
    return [
        (name, ABSENT if (value := values[field]) is None else form.format(value))
        for name, field, form in (*_ROWS, *_MORE)
        if (name, field, form) in _ROWS or values[field] is not None
    ]


def shown(metrics: Metrics) -> str:
    """The table of them."""
    return table(rows(metrics), head=["Metric", "Value"])
