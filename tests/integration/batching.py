"""Parts for testing batches over HTTP: files of requests, and waiting for what becomes of them."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types import Batch

from launcher import Connection, Launcher, Session
from launcher.settings.layers import load
from tests.programs.front import wait_until
from tests.settings import without_site

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Session]:
    """A session whose answers are as long as they may be, 50 tokens a second."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in without_site(folder).items():
            patch.setenv(name, value)
        quick = ("--tokens", "3000", "--first-token-ms", "0")
        with Launcher(load()).launch("simulated", engine_args=quick) as made:
            made.wait()
            yield made


def ask(
    connection: Connection, method: str, path: str, body: object = None, key: str | None = None
) -> tuple[int, Any]:
    """Status and JSON of one request, with the session's own key where no other is named."""
    link = http.client.HTTPConnection(connection.host, connection.port, timeout=20)
    with contextlib.closing(link):
        text = None if body is None else json.dumps(body)
        link.request(method, path, text, {"Authorization": f"Bearer {key or connection.key}"})
        with link.getresponse() as response:
            return response.status, json.loads(response.read() or b"null")


def runner(supervisor: int) -> psutil.Process | None:
    """The program of a batch that is running."""
    for process in psutil.Process(supervisor).children(recursive=True):
        if "launcher.batch.program" in process.cmdline():
            return process
    return None


def line(custom_id: str, *, model: str = "simulated", url: str = CHAT, **body: Any) -> dict[str, Any]:
    """One request of a batch."""
    asked = {"model": model, "messages": [{"role": "user", "content": f"Say {custom_id}"}], "max_tokens": 1}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**asked, **body}}


def jsonl(lines: Iterable[object]) -> bytes:
    """The text of a file of requests; what is no object goes in as it is."""
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


def begun(client: openai.OpenAI, lines: Iterable[object], **more: Any) -> Batch:
    """A batch of `lines`, uploaded and created."""
    file = client.files.create(file=("requests.jsonl", jsonl(lines)), purpose="batch")
    asked = {"endpoint": CHAT, "completion_window": "24h", **more}
    return client.batches.create(input_file_id=file.id, **asked)


def ended(client: openai.OpenAI, batch: Batch, timeout_s: float = 60.0) -> Batch:
    """The batch once it is over."""
    return until(client, batch, *OVER, timeout_s=timeout_s)


def until(client: openai.OpenAI, batch: Batch, *statuses: str, timeout_s: float = 60.0) -> Batch:
    """The batch once it has one of `statuses`."""
    seen = [batch]

    def there() -> bool:
        seen[0] = client.batches.retrieve(batch.id)
        return seen[0].status in statuses

    wait_until(there, timeout_s)
    return seen[0]


def entries(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file."""
    assert file_id is not None
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
