"""A folder of texts as a batch run: which files are asked, and when an answer's file may be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.batch.texts import Texts
from launcher.errors import RequestError


def reply(texts: Texts, custom_id: str, words: str) -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": words}}]}
    entry = {"id": "1", "custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}
    with texts.answers.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def ids_of(texts: Texts) -> list[str]:
    return [json.loads(one)["custom_id"] for one in texts.requests.read_text().splitlines()]


def test_a_folder_of_texts(tmp_path: Path) -> None:
    """Blackfish 11: batch chat over files: one answer each, a changed text again, a corrected answer never replaced."""
    source, target = tmp_path / "in", tmp_path / "in" / "answers"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("one")
    (source / "deep" / "b.md").write_text("two {text}")
    (source / ".hidden").write_text("no")
    (source / "bytes.bin").write_bytes(b"\xff\xfe\x00")
    texts = Texts(str(source), str(target))
    assert texts.write_requests("Say: {text}!", {"model": "m", "max_tokens": 5}) == [
        "bytes.bin: it is no UTF-8 text."
    ]
    requests = [json.loads(one) for one in texts.requests.read_text().splitlines()]
    assert [one["body"]["messages"][0]["content"] for one in requests] == ["Say: one!", "Say: two {text}!"]
    first, second = ids_of(texts)
    reply(texts, first, "eins")
    reply(texts, second, "zwei")
    reply(texts, "../../evil#1", "no")
    texts.keeper()
    assert (target / "a.txt").read_text() == "eins\n"
    assert (target / "deep" / "b.md.txt").read_text() == "zwei\n"
    assert not (tmp_path / "evil.txt").exists()

    (source / "a.txt").write_text("three")
    (target / "deep" / "b.md.txt").write_text("corrected\n")
    texts.write_requests("Say: {text}!", {"model": "m", "max_tokens": 5})
    again, same = ids_of(texts)
    assert (again != first, same) == (True, second)
    reply(texts, again, "drei")
    reply(texts, f"{second.partition('#')[0]}#other", "neu")
    texts.keeper()
    assert (target / "a.txt").read_text() == "drei\n"
    assert (target / "deep" / "b.md.txt").read_text() == "corrected\n"
    with pytest.raises(RequestError, match="no text"):
        Texts(str(target / ".launcher-batch" / "none"), str(tmp_path / "x")).write_requests("", {})
