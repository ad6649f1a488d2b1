"""The Hugging Face hub, through its own client: what a repository holds, its files, and its answers in plain words.

The only module that imports huggingface_hub, and only when it is asked something. Where files are kept is
`launcher.models.hub.download`'s business, and the token `launcher.models.hub.login`'s.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from launcher.errors import LauncherError, ModelError, RequestError, SettingsError
from launcher.models.folders import BLOB, COMMIT
from launcher.models.hub.login import token_in
from launcher.models.inspect.facts import BESIDE, TEMPLATES, Facts, facts_of, whisper_like
from launcher.models.inspect.header import Tensor, tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

CONTINUES = "Run the same command again, it continues."
# The hub's own rules (huggingface_hub/utils/_validators.py): at most 96 characters, no "--" and no "..".
_ID = re.compile(r"(?=.{1,96}$)[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}(?<!/)")
_JSON_MAX = 64_000_000
_PIECE = 1 << 20  # the client's own 10 MB would be all that a broken transfer forgets
_TIMEOUT_S = 20.0
_FILES_MAX = 20_000
# What the hub's client lets through when an answer is JSON of another shape than it believes.
_ODD = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
LARGEST_BYTES = 50_000_000_000  # huggingface_hub/constants.py, MAX_HTTP_DOWNLOAD_SIZE: more needs hf_xet
_PASSING = (429, 500, 502, 503, 504)
_PAUSES_S = (1.0, 2.0, 4.0)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file; its `hash` is the name of its blob in the hub's cache (launcher.models.folders.hash_of)."""

    name: str
    size: int
    hash: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What the repository `model` holds at `commit`, for which `revision` (a branch, a tag, a commit) was asked."""

    model: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]

    def file(self, name: str) -> HubFile | None:
        return next((file for file in self.files if file.name == name), None)


class _OddError(ValueError):
    """The hub's answer has the right form and says what cannot be; in words for the user."""


class TooMuchError(ModelError):
    """A server sends more than the hub announced, and may never end."""

    def __init__(self, file: HubFile) -> None:
        super().__init__(
            f"{file.name} is longer than the {file.size} bytes that the hub announces.",
            "A proxy on the way may change files; ask the site, and do not use what it sent.",
        )


class Hub:
    """The hub as this user sees it; `notice` gets sentences that the user should read."""

    def __init__(self, notice: Callable[[str], None] = lambda _: None) -> None:
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.utils._http import default_client_factory
        from huggingface_hub.utils.logging import set_verbosity
        from huggingface_hub.utils.tqdm import disable_progress_bars

        from launcher.models.hub.bounded import bounded

        # Its warnings would stand beside our own sentences; and it would report what it runs on, and ask for more.
        set_verbosity(50)  # CRITICAL
        disable_progress_bars()
        constants.HF_HUB_DISABLE_TELEMETRY = True
        constants.DOWNLOAD_CHUNK_SIZE = _PIECE
        huggingface_hub.set_client_factory(lambda: bounded(default_client_factory()))
        self.endpoint: str = constants.ENDPOINT
        self._token_file: str = constants.HF_TOKEN_PATH
        self.token = token_in(self._token_file)
        if given := next(
            (name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None
        ):
            notice(
                f"{given} is not used: what a shell knows, every program in it knows. "
                f"Put the token into {self._token_file} with: hf auth login"
            )
        # False and not None: without a login the client would look for tokens in further places.
        self._api: HfApi = huggingface_hub.HfApi(
            endpoint=self.endpoint, token=self.token or False, library_name="inference-ondemand"
        )

    def listing(self, model: str, revision: str | None = None) -> Listing:
        """The files of `model`; raises ModelError for one that is unknown or private, or without a way to the hub."""
        asked = revision or "main"
        with self._said(model, asked), self._understood(model):
            info = _patiently(
                lambda: self._api.model_info(model, revision=asked, files_metadata=True, timeout=_TIMEOUT_S)
            )
            # In the hub's own letters, so that there is one folder of it and not two.
            name, commit, files = str(info.id), info.sha or "", info.siblings or []
            if not COMMIT.fullmatch(commit):
                raise _OddError("it names no commit")
            if len(files) > _FILES_MAX:
                raise _OddError(f"it names {len(files)} files")
            found = tuple(_file(sibling) for sibling in files)
        return Listing(name if name.lower() == model.lower() else model, asked, commit, found)

    def check_access(self, listing: Listing, name: str) -> None:
        """Raise ModelError unless this user may have the file `name`: what is gated is said before any transfer."""
        with self._said(listing.model, listing.revision):
            from huggingface_hub import get_hf_file_metadata

            get_hf_file_metadata(self._url(listing, name), token=self.token or False, timeout=_TIMEOUT_S)

    def fetch(self, listing: Listing, file: HubFile, into: BinaryIO, start: int) -> None:
        """Write `file` from byte `start` on into `into`; the client itself tries five times to go on after a break."""
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils._headers import build_hf_headers

        from launcher.models.hub.bounded import at_most

        # Always the hub's own address: it redirects to a fresh link of the CDN, however long the transfer takes, and
        # the client leaves the token out when a redirect goes to another host.
        headers = build_hf_headers(token=self.token or False, library_name="inference-ondemand")
        with at_most(None), self._said(listing.model, listing.revision, file.name):
            http_get(
                self._url(listing, file.name), into, resume_size=start, headers=headers,
                expected_size=file.size, displayed_filename="file",
            )  # fmt: skip

    def facts(self, model: str, revision: str | None = None) -> Facts:
        """What `model` is, from its config.json and the headers of its weights, which are read by ranges."""
        listing = self.listing(model, revision)
        if listing.file("config.json") is None:
            raise ModelError(
                f'Model "{model}" has no config.json on the hub.',
                "Its repository is not in transformers' format.",
            )
        config = self._json(listing, "config.json")
        if not isinstance(config, dict):
            raise ModelError(
                f'Model "{model}": config.json on the hub is not a JSON object.', "Do not use it."
            )
        if "architectures" not in config and (binary := listing.file("model.bin")) is not None:
            return whisper_like(binary.size)
        beside = {file.name: self._json(listing, file.name) for file in listing.files if file.name in BESIDE}
        beside |= {file.name: True for file in listing.files if file.name in TEMPLATES}
        return facts_of(config, self._tensors(listing), beside=beside)

    def _tensors(self, listing: Listing) -> list[Tensor] | None:
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

        from launcher.models.hub.bounded import HEADER_MAX, at_most
        from launcher.models.hub.wanted import wanted

        try:
            names = [
                n
                for n in wanted([f.name for f in listing.files], listing.model)
                if n.endswith(".safetensors")
            ]
        except ModelError:
            return None
        found: list[Tensor] = []
        for name in names:
            if "/" in name:
                continue  # further modules of sentence-transformers, which facts() does not count either
            try:
                with at_most(HEADER_MAX), self._said(listing.model, listing.revision):
                    header = self._api.parse_safetensors_file_metadata(
                        listing.model, name, revision=listing.commit, timeout=_TIMEOUT_S
                    )
                found.extend(tensor(key, info.dtype, info.shape) for key, info in header.tensors.items())
            except (NotASafetensorsRepoError, SafetensorsParsingError, *_ODD) as error:
                raise ModelError(
                    f'Model "{listing.model}": {name} on the hub is not a safetensors file.', "Do not use it."
                ) from error
        return found or None

    def _json(self, listing: Listing, name: str) -> Any:
        from launcher.models.hub.bounded import InMemory

        file = listing.file(name)
        if file is None:
            return None
        if file.size > _JSON_MAX:
            raise ModelError(
                f'Model "{listing.model}": {name} on the hub is larger than 64 MB.', "Do not use it."
            )

        text = InMemory(TooMuchError(file), file.size)
        self.fetch(listing, file, text, 0)
        try:
            return json.loads(text.getvalue())
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f'Model "{listing.model}": {name} on the hub is not JSON.', "Do not use it."
            ) from error

    def _url(self, listing: Listing, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(listing.model, name, revision=listing.commit, endpoint=self.endpoint)

    @contextmanager
    def _understood(self, model: str) -> Iterator[None]:
        from huggingface_hub.errors import HFValidationError

        try:
            yield
        except (HFValidationError, json.JSONDecodeError):
            raise
        except _ODD as error:
            why = f": {error}" if isinstance(error, _OddError) else ""
            raise ModelError(
                f'{self.endpoint} does not describe "{model}" as a hub does{why}.',
                "Check HF_ENDPOINT; do not use what it offers.",
            ) from error

    @contextmanager
    def _said(self, model: str, revision: str, file: str | None = None) -> Iterator[None]:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        try:
            yield
        except OfflineModeIsEnabled as error:
            raise ModelError(
                "HF_HUB_OFFLINE is set, so the hub is not asked.", "Unset it for this command."
            ) from error
        except HfHubHTTPError as error:
            raise self._answer(error, model, revision, file) from error
        except HFValidationError as error:
            raise RequestError(f'"{model[:80]}" is not an id of the hub.', "Give org/name.") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ConnectionError) as error:
            if file is not None:
                broken = f'Model "{model}": the transfer of {file} broke off ({_short(error)}).'
                raise ModelError(broken, CONTINUES) from error
            raise ModelError(
                f"{self.endpoint} cannot be reached from here ({_short(error)}).",
                "Run this on a host with a way to the internet, such as a login node; HTTPS_PROXY names a proxy.",
            ) from error
        except json.JSONDecodeError as error:
            raise ModelError(
                f"{self.endpoint} does not answer as a hub does.", "Check HF_ENDPOINT."
            ) from error

    def _answer(self, error: Any, model: str, revision: str, file: str | None) -> LauncherError:
        from huggingface_hub.errors import (
            DisabledRepoError,
            GatedRepoError,
            RemoteEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        status = error.response.status_code
        said = error.response.headers.get("X-Error-Message") or ""
        if isinstance(error, GatedRepoError):
            whose = f"with the account of the token in {self._token_file}" if self.token else "there"
            then = "run this again" if self.token else "log in here with: hf auth login"
            return ModelError(
                f'Model "{model}" is gated: its licence must be accepted at {self.endpoint}/{model}.',
                f"Accept it {whose}, then {then}." if self.token else f"Accept it {whose}, then {then}",
            )
        if isinstance(error, DisabledRepoError):
            return ModelError(f'Model "{model}" was taken off the hub.', "Choose another one.")
        if status == 401 and self.token and (said.startswith("Invalid credentials") or file is None):
            return SettingsError(
                f"{self.endpoint} does not know the token in {self._token_file}.",
                "Log in again with: hf auth login",
            )
        if isinstance(error, RevisionNotFoundError):
            return ModelError(
                f'Model "{model}" has no revision "{revision}" on the hub.', self._revisions(model)
            )
        if isinstance(error, RemoteEntryNotFoundError):
            return ModelError(
                f'Model "{model}" has no file {file} on the hub.', "Try again: it may just have changed."
            )
        if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
            login = "" if self.token else " If it is private, log in with: hf auth login"
            return ModelError(
                f'There is no model "{model}" on {self.endpoint}.', f"{self._near(model)}{login}".strip()
            )
        if status == 429:
            return ModelError(
                f"{self.endpoint} takes no more requests from here for a while (429).",
                f"Wait some minutes. {CONTINUES}",
            )
        if status == 403:
            return ModelError(
                f'{self.endpoint} does not let you have "{model}" (403).', said[:200] or "Ask its owner."
            )
        return ModelError(f"{self.endpoint} has trouble (status {status}).", CONTINUES)

    def _near(self, model: str) -> str:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        author, _, name = model.rpartition("/")
        names: list[str] = []
        # The models of the same organisation, then those with the first word of the name.
        for given in ({"author": author} if author else {}, {"search": re.split(r"[-_.]", name)[0]}):
            if given and not names:
                try:
                    names = [str(found.id) for found in self._api.list_models(limit=200, **given)]
                except (HfHubHTTPError, httpx2.HTTPError, OSError, LauncherError, *_ODD):
                    return ""
        lowered = {known.lower(): known for known in names if _ID.fullmatch(known)}
        near = [lowered[found] for found in difflib.get_close_matches(model.lower(), lowered, 3)]
        return f"Did you mean {' or '.join(near)}?" if near else "Check the id."

    def _revisions(self, model: str) -> str:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        try:
            refs = self._api.list_repo_refs(model)
            names = [ref.name for ref in (*refs.branches, *refs.tags) if ref.name.isprintable()]
        except (HfHubHTTPError, httpx2.HTTPError, OSError, LauncherError, *_ODD):
            return "Leave --revision out for the newest."
        return f"It has: {', '.join(names[:8])}." if names else "Leave --revision out for the newest."


def check_id(model: str) -> None:
    """Raise RequestError unless `model` may be an id of the hub."""
    if not _ID.fullmatch(model) or "--" in model or ".." in model or model.endswith((".git", ".ipynb")):
        raise RequestError(f'"{model[:80]}" is not an id of the hub.', "Give one such as org/name.")


def check_revision(revision: str | None) -> None:
    """Raise RequestError unless `revision` may be a branch, a tag or a commit."""
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise RequestError(f'"{revision[:60]}" is not a revision.', "Give a branch, a tag or a commit.")


def _patiently(ask: Callable[[], _T]) -> _T:
    # The client does so for files, but not for what it asks the API.
    from huggingface_hub.errors import HfHubHTTPError

    for pause_s in _PAUSES_S:
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in _PASSING:
                raise
            asked = error.response.headers.get("Retry-After", "")
            time.sleep(min(int(asked), 30) if asked.isdigit() else pause_s)
    return ask()


def _file(sibling: Any) -> HubFile:
    name, lfs = sibling.rfilename, sibling.lfs
    shown = ascii(name)[:80]
    parts = name.split("/")
    if (
        not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
        or len(name) > 1000
    ):
        raise _OddError(f"a file is called {shown}")
    size, digest = (lfs.size, lfs.sha256) if lfs else (sibling.size, sibling.blob_id)
    if type(size) is not int or not 0 <= size < 2**63:
        raise _OddError(f"{shown} has no size")
    if not isinstance(digest, str) or not BLOB.fullmatch(digest) or len(digest) != (64 if lfs else 40):
        raise _OddError(f"{shown} has no hash")
    return HubFile(name, size, digest)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    host = urlsplit(text).netloc
    return (text if text and not host else type(error).__name__)[:120]
