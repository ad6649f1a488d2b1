"""Splitting targets, the public address, and what counts as the same origin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gateway.request import Headers
from launcher.gateway.routes import Address, Target, same_origin


def of(headers: dict[str, str]) -> Headers:
    return Headers([(name.encode(), value.encode("utf-8", "replace")) for name, value in headers.items()])


@pytest.mark.parametrize(
    ("raw", "prefix", "path", "query"),
    [
        ("/", "", "/", ""),
        ("/v1/models?x=/node/a/1", "", "/v1/models", "?x=/node/a/1"),
        ("/node/n1.example/5000", "/node/n1.example/5000", "/", ""),
        ("/node/n1/5000/", "/node/n1/5000", "/", ""),
        ("/node/n1/5000/v1?a?b", "/node/n1/5000", "/v1", "?a?b"),
        ("/node/n1/5000x/v1", "", "/node/n1/5000x/v1", ""),
        ("/node/n1/1/node/n2/2/v1", "/node/n1/1", "/node/n2/2/v1", ""),
        ("/rnode/n1/1/v1", "", "/rnode/n1/1/v1", ""),
        ("/v1/a..b/.hidden/...", "", "/v1/a..b/.hidden/...", ""),
    ],
)
def test_a_target_is_split(raw: str, prefix: str, path: str, query: str) -> None:
    target = Target.parse(raw)
    assert (target.prefix, target.path, target.query) == (prefix, path, query)


@given(st.text(max_size=60))
def test_a_target_is_refused_or_keeps_every_character(raw: str) -> None:
    try:
        target = Target.parse("/" + raw)
    except ValueError:
        return
    joined = target.prefix + target.path + target.query
    assert joined == "/" + raw or (target.prefix and target.path == "/")
    assert target.path.startswith("/")
    assert not target.path.startswith("//")
    assert joined.isascii()
    assert joined.isprintable()


@pytest.mark.parametrize(
    ("raw", "page"),
    [
        ("/", "/"),
        ("/ui", "/"),
        ("/ui/", "/"),
        ("/ui/a?b", "/a"),
        ("/uix", None),
        ("/v1", None),
        ("/UI/a", None),
    ],
)
def test_what_belongs_to_the_page(raw: str, page: str | None) -> None:
    assert Target.parse(raw).page_path == page


@pytest.mark.parametrize(
    ("raw", "up"), [("/", "./"), ("/login", "./"), ("/ui/a", "../"), ("/node/n/1/a/b/c", "../../")]
)
def test_the_way_up_to_the_sessions_root(raw: str, up: str) -> None:
    assert Target.parse(raw).up() == up


@pytest.mark.parametrize(
    ("headers", "prefix", "url"),
    [
        ({"Host": "n1:5000"}, "", "http://n1:5000"),
        ({"Host": "[::1]:5000"}, "", "http://[::1]:5000"),
        ({}, "", "http://localhost"),
        ({"Host": "n1:1", "X-Forwarded-Host": "a, b"}, "/node/n1/1", "http://b/node/n1/1"),
        ({"Host": "n1:1", "X-Forwarded-Host": "b", "X-Forwarded-Proto": "https"}, "", "https://b"),
        ({"Host": "n1:1", "X-Forwarded-Proto": "gopher"}, "", "http://n1:1"),
        (
            {"Host": "n1:1", "X-Forwarded-Host": "b", "X-Forwarded-Escaped-Uri": "x"},
            "",
            "http://b/rnode/n1/1",
        ),
        (
            {"Host": "n1:1", "X-Forwarded-Host": "b", "Referer": "https://b/rnode/n2/2/x"},
            "",
            "http://b/rnode/n2/2",
        ),
        ({"Host": "n1:1", "X-Forwarded-Host": "b", "Referer": "https://c/rnode/n2/2/x"}, "", "http://b"),
        ({"Host": "n1:1", "X-Forwarded-Host": "b", "Referer": "https://[b/rnode/n2/2"}, "", "http://b"),
    ],
)
def test_the_public_address(headers: dict[str, str], prefix: str, url: str) -> None:
    assert Address.of(of(headers), prefix).url == url


@given(
    st.dictionaries(st.sampled_from(["Host", "X-Forwarded-Host", "X-Forwarded-Proto", "Referer"]), st.text())
)
def test_a_forged_address_never_leaves_the_alphabet_of_an_address(headers: dict[str, str]) -> None:
    url = Address.of(of({**headers, "X-Forwarded-Escaped-Uri": "1"}), "").url
    assert url.isascii()
    assert not set(url) & set(" \"'<>\\\r\n,;")


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (None, "a", True),
        ("http://a", "a", True),
        ("https://a", "a:443", True),
        ("HTTPS://A", "a", True),
        ("http://a:443", "a", False),
        ("http://b", "a", False),
        ("http://", "", False),
        ("null", "null", False),
    ],
)
def test_same_origin(origin: str | None, host: str, same: bool) -> None:
    headers = of({"Host": host} if origin is None else {"Host": host, "Origin": origin})
    assert same_origin(headers) is same
