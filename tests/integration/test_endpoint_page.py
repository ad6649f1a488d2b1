"""The endpoint's status page: behind the login, the same under every prefix of the portal, without a prompt's words."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin

import openai
import pytest

from launcher.fleet import issued, tables
from launcher.fleet.page import StatusPage
from launcher.fleet.store import Store
from launcher.fleet.usage import Use, Uses
from launcher.gateway.keys import Holder
from launcher.gateway.routes import Target
from tests.hostile import HOSTILE
from tests.integration.batching import begun, line
from tests.portal.apache import Portal
from tests.programs.endpoint import Endpoint
from tests.programs.front import wait_until


class Tables(HTMLParser):
    """Reads a page as a person does: the words of each row, the addresses, what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.inside = True

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.inside:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)


@dataclass
class Reported:
    """What a front would say: one model with everything."""

    name: str = "big"
    message: str = "Ready."
    more: dict[str, Any] = field(default_factory=dict)

    def report(self, holder: Holder) -> dict[str, Any]:
        replicas = [
            {"id": "a", "tokens_per_s": 20.0, "leaving": False},
            {"id": "b", "tokens_per_s": 80.0, "leaving": True},
        ]
        model = {
            "name": self.name, "state": "ready", "message": self.message, "estimate_s": None,
            "clusters": ["here", "there"], "in_flight": 7, "waiting": 3, "replicas": replicas, **self.more,
        }  # fmt: skip
        return {"models": [model], "moved": 2, "lost": 1}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(f"sqlite:///{tmp_path}/endpoint.db")) as made:
        yield made


HOLDER = Holder("alice", False, None, time.time() + 7000, owner="al")


def shown(store: Store, reported: Reported, holder: Holder = HOLDER) -> Tables:
    """The page once the usage is counted."""
    with contextlib.closing(StatusPage(store, reported.report, "http://127.0.0.1:1/v1")) as page:
        target = Target.parse("/")
        texts = [page.answer(None, target, holder).body.decode()]  # type: ignore[arg-type]

        def counted() -> bool:
            texts.append(page.answer(None, target, holder).body.decode())  # type: ignore[arg-type]
            return "is being counted" not in texts[-1]

        wait_until(counted)
        return Tables(texts[-1])


def use(id_: str, **more: object) -> Use:
    wanted: dict[str, object] = {
        "id": id_, "at": time.time(), "key": "alice", "owner": "al", "model": "big", "cluster": "here", "session": "s",
        "path": "/v1/completions", "status": 200, "prompt_tokens": 1000, "completion_tokens": 600, "audio_s": 0.0,
        "first_byte_s": 0.25, "seconds": 2.0, **more,
    }  # fmt: skip
    return Use(**wanted)  # type: ignore[arg-type]


def test_models_their_states_what_waits_and_how_fast_they_are(store: Store, tmp_path: Path) -> None:
    uses = Uses(store, tmp_path / "uses")
    uses.add(use("1"))
    uses.add(use("2", owner="bob", key="bob", prompt_tokens=5))
    uses.close()
    page = shown(store, Reported())
    assert page.row("big")[1:] == ["ready ", "here, there", "2 (1 leaving)", "7", "3", "20.0", "20–80"]
    # Only what is one's own, by model; the second row that is called big.
    assert [row for row in page.rows if row and row[0] == "big"][1][1:] == [
        "1",
        "0",
        "1,000",
        "600",
        "",
        "0.25 s",
    ]
    everybody = shown(store, Reported(), Holder("me", True, None, None, owner="me"))
    assert everybody.row("bob")[3] == "5"
    assert everybody.row("al")[3] == "1,000"


def test_a_database_that_fails_is_named_only_to_whose_endpoint_it_is(store: Store, tmp_path: Path) -> None:
    with store.writing() as connection:
        tables.uses.drop(connection)
    for holder, named in ((HOLDER, False), (Holder("me", True, None, None, owner="me"), True)):
        said = " ".join(shown(store, Reported(), holder).text)
        assert ("What was used cannot be read now." in said) is not named
        assert (str(tmp_path) in said) is named


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_messages_are_only_text(store: Store, text: str) -> None:
    page = shown(
        store, Reported(text, text, {"clusters": [text]}), Holder(text, False, None, None, owner=text)
    )
    assert page.row(text)[2] == text
    assert not page.tags & {"img", "script", "iframe", "object"}
    assert all(address in ("data:,", "./logout", "?still") for address in page.addresses)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    never = {"engine_args": ["--hang-at", "start"]}
    offers = {
        "sim": {"model": "simulated"},
        "theirs": {"model": "simulated", "groups": ["course"], "launch": never},
    }
    folder = tmp_path_factory.mktemp("endpoint")
    with Endpoint(folder, offers, groups={"course": {"owners": ["bob"]}}) as running:
        yield running


def visit(
    endpoint: Endpoint, path: str, cookie: str = "", form: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """One request as a browser sends it."""

    async def ask() -> tuple[int, dict[str, str], str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        body = urlencode(form or {})
        head = [
            f"{'GET' if form is None else 'POST'} {path} HTTP/1.1", f"Host: 127.0.0.1:{endpoint.port}",
            "Accept: text/html,*/*", f"Cookie: {cookie}", "Connection: close",
            "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}", "", body,
        ]  # fmt: skip
        writer.write("\r\n".join(head).encode())
        data = (await reader.read(-1)).decode()
        writer.close()
        top, _, rest = data.partition("\r\n\r\n")
        lines = top.split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        return int(lines[0].split()[1]), fields, rest

    return asyncio.run(ask())


def test_batches_that_go_on_are_shown_to_their_owner_alone(endpoint: Endpoint) -> None:
    keys = {owner: endpoint.new_key(f"batch-{owner}", owner=owner) for owner in ("bob", "zoe")}
    with openai.OpenAI(base_url=f"http://127.0.0.1:{endpoint.port}/v1", api_key=keys["bob"]) as bob:
        batch = begun(bob, [line("a", model="theirs")])  # which never gets ready

        def page(owner: str) -> str:
            _, fields, _ = visit(endpoint, "/login", form={"key": keys[owner]})
            return visit(endpoint, "/", re.split("[;]", fields["set-cookie"])[0])[2]

        wait_until(lambda: batch.id in page("bob"))
        assert Tables(page("bob")).row(batch.id)[2] in ("validating", "in progress")
        wait_until(lambda: "is being counted" not in page("zoe"))
        assert batch.id not in page("zoe")
        bob.batches.cancel(batch.id)


@pytest.mark.parametrize("prefix", ["", "/node/some.host/4711"])
def test_the_page_is_behind_the_login_under_every_prefix(endpoint: Endpoint, prefix: str) -> None:
    """FIRST 12: people see models and usage behind the same login; a key with limits opens it too."""
    name = f"page{len(prefix)}"
    key = endpoint.new_key(name, requests_per_minute=100)
    status, fields, text = visit(endpoint, f"{prefix}/")
    assert (status, "Open the endpoint" in text) == (401, True)
    assert "launcher keys get-access-token" in text
    assert Tables(text).addresses == ["data:,", "./login"]
    status, _, text = visit(endpoint, f"{prefix}/login", form={"key": "sk-wrong"})
    assert (status, "does not open the endpoint" in text) == (401, True)
    status, fields, _ = visit(endpoint, f"{prefix}/login", form={"key": key})
    assert (status, fields["location"]) == (303, "./")
    cookie = re.split("[;]", fields["set-cookie"])[0]
    status, fields, text = visit(endpoint, f"{prefix}/", cookie)
    page = Tables(text)
    assert status == 200
    assert page.row("sim")[1].startswith("startable")
    assert "theirs" not in text
    assert page.addresses == ["data:,", "./logout", "?still"]
    assert 'http-equiv="refresh"' in text
    status, _, text = visit(endpoint, f"{prefix}/?still", cookie)
    assert (status, "http-equiv" in text) == (200, False)
    assert Tables(text).addresses == ["data:,", "./logout", "./"]
    assert "script" not in page.tags
    assert "default-src 'none'" in fields["content-security-policy"]
    assert key not in text
    store = Store(endpoint.state)
    issued.revoke(store, name, force=True)
    store.close()
    wait_until(lambda: visit(endpoint, f"{prefix}/", cookie)[0] == 401)


@pytest.mark.parametrize("way", ["node", "rnode"])
def test_the_page_through_the_real_portal(endpoint: Endpoint, portal: Portal, way: str) -> None:
    """Apache keeps the prefix of /node and strips that of /rnode; login, page and logout work below both."""
    root = (portal.node_url if way == "node" else portal.rnode_url)("127.0.0.1", endpoint.port)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar())
    )
    opener.addheaders = [("Accept", "text/html")]

    def answer(url: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        request = urllib.request.Request(url, None if form is None else urlencode(form).encode())
        request.add_header("Referer", root)
        try:
            with opener.open(request) as found:
                return found.status, found.url, found.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.url, error.read().decode()

    status, _, text = answer(root)
    assert (status, "Open the endpoint" in text) == (401, True)
    status, url, text = answer(urljoin(root, Tables(text).addresses[-1]), {"key": endpoint.key})
    assert (status, url) == (200, root)
    page = Tables(text)
    assert page.row("sim")[1]
    logout = next(address for address in page.addresses if address.endswith("logout"))
    status, url, text = answer(urljoin(root, logout), {})
    assert (status, url) == (200, urljoin(root, "login"))
    assert answer(root)[0] == 401


def test_no_word_of_a_prompt_is_on_the_page(endpoint: Endpoint) -> None:
    assert endpoint.chat("sim", "a very secret question", hold_s=60)[0] == 200
    cookie = visit(endpoint, "/login", form={"key": endpoint.key})[1]["set-cookie"].partition(";")[0]
    texts: list[str] = []

    def counted() -> bool:
        texts.append(visit(endpoint, "/", cookie)[2])
        return any(row[:1] == [issued.myself()] for row in Tables(texts[-1]).rows)

    wait_until(counted)
    page = Tables(texts[-1])
    assert page.row("sim")[1].startswith("ready")
    assert page.row(issued.myself())[1] == "1"
    assert not any("secret" in text for text in texts)


def test_a_monitor_needs_no_key_that_can_do_what_its_owners_own_can(endpoint: Endpoint) -> None:
    monitor, guest = endpoint.new_key("prometheus", owner=issued.myself()), endpoint.new_key("guest")
    status, text, fields = endpoint.ask("GET", "/metrics", key=monitor)
    assert (status, fields["content-type"].partition(";")[0]) == (200, "text/plain")
    assert 'launcher_endpoint_ready{model="sim"}' in text
    assert endpoint.ask("GET", "/metrics", key=guest)[0] == 403
