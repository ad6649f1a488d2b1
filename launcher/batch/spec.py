"""What a batch run is asked to do: the content of its `run.json`, written once. Never a key, never a prompt."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from launcher.errors import RequestError, SessionError, StorageError
from launcher.sessions.paths import write_private

SCHEMA = 1
WINDOW = 256  # as many as vLLM's scheduler takes at once by itself: fewer would leave it idle
WINDOW_MAX = 4096
RETRIES = 5
# What a line may ask for; all of them answer with JSON.
URLS = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/rerank",
    "/v1/score", "/v1/classify", "/v1/pooling",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spec:
    """`input`, `output` and `errors` are absolute paths.

    `endpoint`: the only url that lines may have (None: any of URLS). `models`: names that lines may give (none: any);
    `served`: what is sent instead (None: what the line says). `window`: requests in flight. `retries`: how often a
    request is tried again that fails by itself (408, 500, 504, …); what all of them suffer from is waited out.
    `strict`: nothing is sent where any line is wrong. `changing`: the input may be another one each time; what it no
    longer asks for stays answered.
    """

    input: str
    output: str
    errors: str
    endpoint: str | None = None
    models: tuple[str, ...] = ()
    served: str | None = None
    window: int = WINDOW
    retries: int = RETRIES
    strict: bool = False
    changing: bool = False

    def checked(self) -> Self:
        """Itself; raises RequestError for a value that cannot be."""
        if not 1 <= self.window <= WINDOW_MAX:
            raise RequestError(
                f"A window of {self.window} requests cannot be.", f"Choose one from 1 to {WINDOW_MAX}."
            )
        if self.retries < 0:
            raise RequestError(f"retries must be 0 or more, not {self.retries}.")
        if self.endpoint is not None and self.endpoint not in URLS:
            raise RequestError(
                f'"{self.endpoint[:80]}" is no url of a batch.', f"Choose one of: {', '.join(URLS)}."
            )
        if len({self.input, self.output, self.errors}) < 3:
            raise RequestError(
                f"Input, output and error file must be three files; the output is {self.output}.",
                "Name another one with -o.",
            )
        return self

    def write(self, path: Path) -> None:
        """Put it into `path` (0600); raises StorageError."""
        try:
            write_private(path, json.dumps({"schema": SCHEMA, **asdict(self)}) + "\n")
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error.strerror}.", "Free some space there."
            ) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The one in `path`; raises SessionError where there is none that this launcher reads."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            known = {field.name for field in fields(cls)}
            data = {name: value for name, value in data.items() if name in known}
            return cls(**{**data, "models": tuple(data.get("models") or ())})
        except OSError as error:
            raise SessionError(f"{path.parent} holds no batch run.", "See: launcher batch ls") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SessionError(f"{path} is not a batch run's: {error}.", "Begin the run again.") from error
