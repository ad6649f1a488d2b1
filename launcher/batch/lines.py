"""The lines of output and error file, in OpenAI's shape; an error also has the number of its line in the input."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

from launcher.batch.input import Fault
from launcher.batch.window import Answer


def line_of(answer: Answer) -> bytes:
    """The line of an answer in the output, or in the error file."""
    head = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": answer.request.custom_id}
    response = {"status_code": answer.status, "request_id": answer.request_id}
    error: object = None if answer.good else {"code": answer.code, "message": answer.message}
    tail = "" if answer.good else f', "line": {answer.request.number + 1}'
    return b"".join((
        json.dumps(head)[:-1].encode(), b', "response": ', json.dumps(response)[:-1].encode(), b', "body": ',
        answer.body, b'}, "error": ', json.dumps(error).encode(), tail.encode(), b"}\n",
    ))  # fmt: skip


def line_of_fault(fault: Fault) -> bytes:
    """The line of a fault that was found before anything was sent."""
    entry = {
        "id": f"batch_req_{secrets.token_hex(12)}", "custom_id": fault.custom_id, "response": None,
        "error": {"code": fault.code, "message": fault.message}, "line": fault.line,
    }  # fmt: skip
    return json.dumps(entry).encode() + b"\n"


def answers_in(path: Path) -> Iterator[tuple[str, object]]:
    """custom_id and body of each whole line of an output; nothing where there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for text in file:
            try:
                entry = json.loads(text)
                yield str(entry["custom_id"]), entry["response"]["body"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # torn; the next run takes it away
