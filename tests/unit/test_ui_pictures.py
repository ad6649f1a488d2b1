"""Images in a question: references are found, unknown ones refused, nothing but data: URLs reaches the engine."""

from __future__ import annotations

import pytest

from launcher.ui import pictures
from launcher.ui.pictures import LostPictureError
from tests.hostile import HOSTILE

RED, BLUE = "data:image/png;base64,iVBORw0KGgo=", "data:image/jpeg;base64,/9j/4AAQ"
BROUGHT = {"ab12cd34": RED, "zz000000": BLUE}
ONE, TWO = "[my_photo.png](#picture-ab12cd34)", "[b (2)](#picture-zz000000)"


def part(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("text", HOSTILE)
def test_words_alone_stay_as_they_are(text: str) -> None:
    assert pictures.content(text, BROUGHT) == text
    assert pictures.split(text) == ({}, text)


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip() == text and text])
def test_images_stand_before_the_words(text: str) -> None:
    assert pictures.content(f"{ONE} {TWO}\n\n{text}", BROUGHT) == [
        part(RED),
        part(BLUE),
        {"type": "text", "text": text},
    ]


def test_images_alone() -> None:
    assert pictures.content(f"{ONE}\n\n", BROUGHT) == [part(RED)]


def test_a_reference_within_the_words_is_words() -> None:
    text = f"What does {ONE} mean?"
    assert pictures.content(text, BROUGHT) == text


@pytest.mark.parametrize(
    "url",
    [
        None,
        7,
        "",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        "data:image/png;base64,AA AA",
        "data:image/png;base64,AAAA\nhttp://x",
    ],
)
def test_only_images_that_were_brought_along(url: object) -> None:
    brought = {} if url is None else {"ab12cd34": url}
    with pytest.raises(LostPictureError, match="my_photo"):
        pictures.content(ONE, brought)  # type: ignore[arg-type]  # a browser can send anything
