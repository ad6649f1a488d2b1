"""The parts of an uploaded form, whatever the pieces are that they come in."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.batch.form import Form, FormError, Part, boundary
from tests.hostile import HOSTILE

MARK = b"----x"
# What a parser could take for a boundary.
TRAPS = st.sampled_from([b"\r\n--", b"\r\n----", b"\r\n------", b"-", b"\r", b"\n", b"--", b"\r\n\r\n", b"x"])
CONTENT = st.lists(TRAPS | st.binary(max_size=5), max_size=12).map(b"".join)


def form(*parts: tuple[str, bytes], end: bytes = b"--\r\n") -> bytes:
    text = b"".join(
        b"\r\n--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s" % (MARK, head.encode(), content)
        for head, content in parts
    )
    return text[2:] + b"\r\n--" + MARK + end


def read(body: bytes, cuts: list[int]) -> tuple[list[tuple[Part, bytes]], bool]:
    parser, found = Form(MARK), []
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, stop in itertools.pairwise(edges):
        for event in parser.feed(body[start:stop]):
            if isinstance(event, Part):
                found.append((event, b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + event)
    return found, parser.complete


@given(st.lists(CONTENT, min_size=1, max_size=3), st.lists(st.integers(0, 10**4), max_size=20))
def test_the_parts_are_what_was_sent(contents: list[bytes], cuts: list[int]) -> None:
    contents = [one for one in contents if b"\r\n--" + MARK not in b"\r\n" + one + b"\r\n"]
    body = form(*((f'name="p{number}"', one) for number, one in enumerate(contents)))
    found, complete = read(body, cuts)
    assert complete
    assert [(part.name, content) for part, content in found] == [
        (f"p{number}", one) for number, one in enumerate(contents)
    ]


@given(st.binary(max_size=200), st.lists(st.integers(0, 10**4), max_size=8))
def test_nonsense_is_refused_or_gives_nothing(body: bytes, cuts: list[int]) -> None:
    try:
        found, _ = read(body, cuts)
    except FormError:
        return
    assert all(isinstance(part, Part) for part, _ in found)


@pytest.mark.parametrize("cut", range(1, 40))
def test_half_a_form_is_not_complete(cut: int) -> None:
    body = form(('name="file"; filename="a.jsonl"', b"{}\n"), end=b"--")
    _, complete = read(body[:-cut], [])
    assert not complete


@pytest.mark.parametrize("name", [text for text in HOSTILE if text and "\n" not in text and "\0" not in text])
def test_any_file_name_is_read(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    ((part, _),), complete = read(form((f'name="file"; filename="{quoted}"', b"x")), [])
    assert complete
    assert part.name == "file"
    assert part.filename is not None


def test_a_file_name_that_is_not_ascii() -> None:
    ((part, _),), _ = read(form(("name=\"file\"; filename*=utf-8''na%C3%AFve.jsonl", b"x")), [])
    assert part.filename == "naïve.jsonl"


@pytest.mark.parametrize(
    "body",
    [
        form(('name="a"', b"")).replace(b"form-data", b"attachment"),
        form(("", b"x")),
        form(('name="' + "a" * 9000 + '"', b"x")),
        form(*[('name="a"', b"x")] * 65),
        b"--" + MARK + b"junk" * 100,
    ],
)
def test_forms_that_are_refused(body: bytes) -> None:
    with pytest.raises(FormError):
        read(body, [])


@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data", 'multipart/form-data; boundary=""']
)
def test_bodies_that_are_no_forms(kind: str) -> None:
    with pytest.raises(FormError):
        boundary(kind)
