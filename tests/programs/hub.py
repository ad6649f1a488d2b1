"""A small Hugging Face hub on loopback, real enough for the real `huggingface_hub`: models, files, links and troubles.

Large files are answered with a redirect to a second origin (the CDN) that knows ranges. `hub.requests` tells what was
asked and whether a token came along. Troubles are set for one file each and used up one by one.

    with Hub() as hub:
        hub.add("org/name", {"config.json": b"{}", "model.safetensors": ...})
        run(..., env={"HF_ENDPOINT": hub.endpoint})
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_SMALL = 10_000  # what the hub keeps in git itself; anything larger is in LFS
_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Asked:
    """One request: `authorized` says whether it carried a token, `at` where a range began."""

    method: str
    path: str
    authorized: bool
    cdn: bool
    at: int = 0


@dataclass
class Repository:
    """One model: `revisions` maps a branch, tag or commit to the files of a commit."""

    id: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


@dataclass
class Troubles:
    """What goes wrong with one file on the CDN; each list is used up from its beginning."""

    cut: list[int] = field(default_factory=list)  # the connection ends after so many bytes
    status: list[int] = field(default_factory=list)  # this status instead of the file, unless it is 200
    wrong: int = 0  # so many times, bytes of the right number and the wrong kind
    more: int = 0  # so many bytes more than it announces
    whole: bool = False  # ranges are not understood
    hold: tuple[int, threading.Event] | None = None  # so many bytes, then nothing until the event


class Hub:
    """The hub and its CDN, each on a port of its own; `tokens` are believed, `accepted` have accepted the licences."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.accepted: set[str] = set()
        self.troubles: dict[str, Troubles] = {}
        self.requests: list[Asked] = []
        self.listings: list[int] = []  # statuses that the next questions for a listing get
        self.extra: list[dict[str, Any]] = []  # further entries of every listing
        self._servers = [_Server(_HubAnswers, self), _Server(_CdnAnswers, self)]

    @property
    def endpoint(self) -> str:
        return self._servers[0].url

    @property
    def cdn(self) -> str:
        return self._servers[1].url

    def add(
        self,
        model: str,
        files: Mapping[str, bytes],
        *,
        revision: str = "main",
        gated: bool = False,
        private: bool = False,
    ) -> str:
        """Add a commit with these files and let `revision` stand there; the commit."""
        repository = self.repositories.setdefault(model, Repository(model))
        digest = hashlib.sha1(model.encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        commit = digest.hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[revision] = commit
        repository.gated, repository.private = gated, private
        return commit

    def trouble(self, name: str, **kinds: Any) -> Troubles:
        """Let something go wrong with the file of this name."""
        self.troubles[name] = Troubles(**kinds)
        return self.troubles[name]

    def transferred(self, name: str) -> list[int]:
        """Where each transfer of the file of this name began, in order."""
        return [a.at for a in self.requests if a.cdn and a.method == "GET" and a.path.endswith(f"/{name}")]

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for trouble in self.troubles.values():
            if trouble.hold is not None:
                trouble.hold[1].set()
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers: type[BaseHTTPRequestHandler], hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), answers)
        self.hub = hub
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that left is no news."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    cdn = False

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        raise NotImplementedError

    @property
    def hub(self) -> Hub:
        return self.server.hub

    @property
    def token(self) -> str | None:
        given = self.headers.get("authorization")
        return given.removeprefix("Bearer ") if given else None

    def send(self, status: int, content: bytes = b"", /, **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: `hub.requests` tells more."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        begin = _RANGE.match(self.headers.get("range") or "")
        at = int(begin[1]) if begin else 0
        self.hub.requests.append(
            Asked(self.command, unquote(parts.path), self.token is not None, self.cdn, at)
        )
        self.answer(parts.path, parse_qs(parts.query))


class _HubAnswers(_Answers):
    def answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        if self.token is not None and self.token not in self.hub.tokens:
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        if path == "/api/models":
            return self._search(query)
        if found := re.fullmatch(r"/api/models/(.+?)/refs", path):
            repository = self._repository(unquote(found[1]))
            return self._refs(repository) if repository else None
        if found := re.fullmatch(r"/api/models/(.+?)/tree/([^/]+)", path):
            return self._tree(unquote(found[1]), unquote(found[2]))
        if found := re.fullmatch(r"/api/models/(.+?)(?:/revision/([^/]+))?", path):
            return self._listing(unquote(found[1]), unquote(found[2] or "main"))
        if found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            return self._file(unquote(found[1]), unquote(found[2]), unquote(found[3]))
        return self.send(404)

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        named = {"X_Error_Code": code} if code else {}
        self.send(status, json.dumps({"error": message}).encode(), X_Error_Message=message, **named)

    def _repository(self, model: str) -> Repository | None:
        found = self.hub.repositories.get(model)
        if found is None or (found.private and self.token is None):
            # As the real one: who is not known is not told whether it exists.
            if self.token is None:
                self._refuse(401, None, "Invalid username or password.")
            else:
                self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        return found

    def _commit(self, repository: Repository, revision: str) -> str | None:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def _search(self, query: Mapping[str, list[str]]) -> None:
        author, words = query.get("author", [""])[0], query.get("search", [""])[0]
        names = [
            name for name, known in self.hub.repositories.items()
            if not known.private and name.startswith(author) and words.lower() in name.lower()
        ]  # fmt: skip
        body = json.dumps([{"id": name, "modelId": name, "tags": []} for name in names]).encode()
        self.send(200, body, Content_Type="application/json")

    def _refs(self, repository: Repository) -> None:
        branches = [
            {"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repository.refs.items()
        ]
        body = json.dumps({"branches": branches, "converts": [], "tags": []}).encode()
        self.send(200, body, Content_Type="application/json")

    def _listing(self, model: str, revision: str) -> None:
        if self.hub.listings and (status := self.hub.listings.pop(0)) != 200:
            return self.send(status, Retry_After="0")
        repository = self._repository(model)
        commit = self._commit(repository, revision) if repository else None
        if repository is None or commit is None:
            return None
        siblings = [_described(name, content) for name, content in repository.commits[commit].items()]
        listing = {
            "id": model, "modelId": model, "sha": commit, "private": repository.private, "tags": [],
            "gated": "manual" if repository.gated else False, "siblings": siblings + self.hub.extra,
        }  # fmt: skip
        return self.send(200, json.dumps(listing).encode(), Content_Type="application/json")

    def _tree(self, model: str, revision: str) -> None:
        repository = self._repository(model)
        commit = self._commit(repository, revision) if repository else None
        if repository is None or commit is None:
            return
        entries = []
        for name, content in repository.commits[commit].items():
            known = _described(name, content)
            entry = {"type": "file", "path": name, "size": known["size"], "oid": known["blobId"]}
            if lfs := known.get("lfs"):
                entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            entries.append(entry)
        self.send(200, json.dumps(entries).encode(), Content_Type="application/json")

    def _file(self, model: str, revision: str, name: str) -> None:
        repository = self._repository(model)
        commit = self._commit(repository, revision) if repository else None
        if repository is None or commit is None:
            return
        if repository.gated and self.token not in self.hub.accepted:
            self._refuse(
                401 if self.token is None else 403, "GatedRepo", f"Access to model {model} is restricted."
            )
            return
        content = repository.commits[commit].get(name)
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        known = {"X_Repo_Commit": commit, "ETag": f'"{_etag(content)}"'}
        if len(content) < _SMALL:
            self.send(200, content, Accept_Ranges="bytes", **known)
            return
        known |= {"X_Linked_Etag": f'"{_etag(content)}"', "X_Linked_Size": str(len(content))}
        self.send(302, Location=f"{self.hub.cdn}/{model}/{commit}/{name}", **known)


class _CdnAnswers(_Answers):
    cdn = True

    def answer(self, path: str, query: Mapping[str, list[str]]) -> None:
        found = re.fullmatch(r"/(.+)/([0-9a-f]{40})/(.+)", unquote(path))
        assert found is not None
        content = self.hub.repositories[found[1]].commits[found[2]][found[3]]
        trouble = self.hub.troubles.get(found[3], Troubles())
        if trouble.status and (status := trouble.status.pop(0)) != 200:
            return self.send(status, Retry_After="0")
        if trouble.wrong:
            trouble.wrong -= 1
            content = bytes(len(content))
        content += bytes(trouble.more)
        wanted = _RANGE.match(self.headers.get("range") or "")
        if wanted is None or trouble.whole:
            return self._body(200, content, trouble, {})
        begin, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if begin > end:
            return self.send(416)
        part = {"Content_Range": f"bytes {begin}-{end}/{len(content)}"}
        return self._body(206, content[begin : end + 1], trouble, part)

    def _body(self, status: int, content: bytes, trouble: Troubles, headers: dict[str, str]) -> None:
        self.send(status, Content_Length=str(len(content)), **headers)
        if self.command == "HEAD":
            return
        stop = trouble.cut.pop(0) if trouble.cut else len(content)
        for begin in range(0, min(stop, len(content)), _PIECE):
            if trouble.hold is not None and begin >= trouble.hold[0]:
                trouble.hold[1].wait(60)
            self.wfile.write(content[begin : min(begin + _PIECE, stop)])
        if stop < len(content):
            self.close_connection = True


def _etag(content: bytes) -> str:
    if len(content) < _SMALL:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return hashlib.sha256(content).hexdigest()


def _described(name: str, content: bytes) -> dict[str, Any]:
    pointer = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    described: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": pointer}
    if len(content) >= _SMALL:
        described["lfs"] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 134,
        }
    return described
