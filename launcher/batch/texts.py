"""A folder of texts as a batch run: each file is one request, each answer a file of its own.

Owns which files those are, the requests made of them, and when an answer's file may be written: one that a person has
corrected is never replaced. Requests and answers are kept in a hidden folder of the output's, not in the state.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from launcher.batch.lines import answers_in
from launcher.batch.window import Answer
from launcher.errors import RequestError, StorageError
from launcher.sessions.paths import write_private

HIDDEN = ".launcher-batch"
PLACE = "{text}"
_MOST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts below `source`, answered into `target` (absolute paths)."""

    source: str
    target: str

    @property
    def requests(self) -> Path:
        return Path(self.target) / HIDDEN / "requests.jsonl"

    @property
    def answers(self) -> Path:
        return Path(self.target) / HIDDEN / "answers.jsonl"

    def write_requests(self, prompt: str, body: Mapping[str, Any]) -> list[str]:
        """Write the requests, each `prompt` with the text in the place of {text} or after it.

        Returns sentences about the files that were left out. Raises RequestError where there is no text, StorageError
        where they cannot be written.
        """
        left_out: list[str] = []
        try:
            found = self._found(left_out)
            if (first := next(found, None)) is None:
                raise RequestError(f"There is no text below {self.source}.", "Name a folder of text files.")
            self.requests.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One by one: a folder may hold more than the memory.
            texts = itertools.chain((first,), found)
            write_private(self.requests, (_request(name, text, prompt, body) for name, text in texts))
        except OSError as error:
            raise _storage(self.requests, error) from error
        return left_out

    def keeper(self) -> Callable[[Answer], None]:
        """Write the files of all answers that have none yet; what is returned writes each further one."""
        ours: dict[str, str] = {}  # by name, the digest of the last answer
        for custom_id, body in answers_in(self.answers):
            self._keep(custom_id, body, ours)

        def keep(answer: Answer) -> None:
            if answer.good:
                self._keep(answer.request.custom_id, json.loads(answer.body), ours)

        return keep

    def write(self, path: Path) -> None:
        """Put it into `path`."""
        write_private(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The one in `path`, if any."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _found(self, left_out: list[str]) -> Iterator[tuple[str, str]]:
        for folder, folders, files in os.walk(self.source):
            folders[:] = sorted(
                one for one in folders if one[0] != "." and os.path.join(folder, one) != self.target
            )
            for file in sorted(one for one in files if one[0] != "."):
                path = Path(folder) / file
                name = os.path.relpath(path, self.source)
                try:
                    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                        raise ValueError("it is too large, or no file")
                    name.encode()
                    if len(name) > 400:
                        raise ValueError("its name is too long")
                    yield name, path.read_text(encoding="utf-8-sig")
                except UnicodeError:
                    shown = name.encode("utf-8", "backslashreplace").decode()
                    left_out.append(f"{shown}: it is no UTF-8 text.")
                except (OSError, ValueError) as error:
                    left_out.append(f"{name}: {error}.")

    def _keep(self, custom_id: str, body: object, ours: dict[str, str]) -> None:
        name = custom_id.rpartition("#")[0]
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts:
            return  # somebody else's line
        path = Path(self.target) / (name if name.endswith(".txt") else f"{name}.txt")
        text = _text(body).encode("utf-8", "replace")
        before, ours[name] = ours.get(name), hashlib.sha256(text).hexdigest()
        try:
            if os.path.lexists(path):
                there = hashlib.sha256(path.read_bytes()).hexdigest()
                if there != before or there == ours[name]:
                    return
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.part")
            part.write_bytes(text)
            os.replace(part, path)
        except OSError as error:
            raise _storage(path, error) from error


def _request(name: str, text: str, prompt: str, body: Mapping[str, Any]) -> str:
    content = prompt.replace(PLACE, text) if PLACE in prompt else f"{prompt.rstrip()}\n\n{text}"
    asked = {**body, "messages": [{"role": "user", "content": content}]}
    # With other words or other options it is another request.
    told = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    line = {"custom_id": f"{name}#{told}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
    return json.dumps(line) + "\n"


def _text(body: object) -> str:
    """The words of a chat's answer; of one without words, the whole message."""
    try:
        message = body["choices"][0]["message"]  # type: ignore[index] # whatever is not so shaped is told as it is
        content = message["content"]
    except (KeyError, IndexError, TypeError):
        return json.dumps(body, ensure_ascii=False) + "\n"
    if not isinstance(content, str):
        return json.dumps(message, ensure_ascii=False) + "\n"
    return content if content.endswith("\n") else f"{content}\n"


def _storage(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}.", "Mend that, then run the same command again."
    )
