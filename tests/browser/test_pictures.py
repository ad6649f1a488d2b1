"""Images in a question: attached in every way, made small, sent as data: URLs, seen again, and left nowhere."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.browser.chat import Address, ask, begin_anew, entry, finish, open_side, questions
from tests.browser.conftest import WAYS, Visitor
from tests.browser.session import Session
from tests.programs.front import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# As a paste or a drop from another program brings them.
BRING = """
([event, into, data, name]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const given = { bubbles: true, cancelable: true };
  const made = event === "paste" ? new ClipboardEvent(event, { ...given, clipboardData: transfer })
                                 : new DragEvent(event, { ...given, dataTransfer: transfer });
  document.querySelector(into).dispatchEvent(made);
}
"""


def png(width: int, height: int, shade: int = 90) -> bytes:
    """A real image of one colour per row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((shade, row % 256, 160)) * width for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


SMALL = png(32, 24)


def image(name: str, data: bytes = SMALL, kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page: Page, *files: FilePayload) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Attach images").click()
    chooser.value.set_files(list(files))


def attached(page: Page) -> Any:
    return page.get_by_role("list", name="Attached images").get_by_role("img")


def files_with(folder: Path, *needles: bytes) -> list[Path]:
    """The files under `folder` that hold one of `needles`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(needle in path.read_bytes() for needle in needles)]


@pytest.mark.parametrize("way", WAYS)
def test_images_reach_the_model_and_stay_in_the_tab(
    way: str, visitor: Visitor, address: Address, counting: Session
) -> None:
    """Blackfish 12: pictures in a question."""
    page = visitor.log_in(address(counting, way), counting.key)
    choose(page, image("my_photo-1.png"), image("second [2](x).png", png(40, 30)))
    expect(attached(page)).to_have_count(2)
    before = counting.engine.counts()["images"]
    ask(page, "What is that?")
    finish(page)
    expect(page.locator("#chat .bot-row")).to_contain_text("3 words and the conversation 2 images")
    assert counting.engine.counts()["images"] == before + 2
    expect(attached(page)).to_have_count(0)
    shown = page.locator("#chat .user-row img")
    expect(shown).to_have_count(2)
    assert shown.first.get_attribute("alt") == "my_photo-1.png"
    assert shown.first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32

    ask(page, "And now?")  # the whole conversation goes along, images too
    finish(page, 2)
    expect(page.locator("#chat .bot-row").last).to_contain_text("the conversation 2 images")
    page.reload()
    expect(page.locator("#chat .user-row img")).to_have_count(2)
    page.get_by_role("button", name="Retry").click()
    wait_until(lambda: counting.engine.counts()["images"] == before + 6)


def test_nothing_of_an_image_is_left_in_the_job(
    visitor: Visitor, address: Address, counting: Session
) -> None:
    data = png(61, 47, shade=203)
    page = visitor.log_in(address(counting, "node"), counting.key)
    choose(page, image("secret-holiday.png", data))
    ask(page, "a secret question")
    finish(page)
    scratch = counting.page_socket.with_name("gradio")
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
    needles = (data[:64], base64.b64encode(data)[:80], b"secret-holiday", b"a secret question")
    assert files_with(counting.root, *needles) == []
    assert not [url for url in visitor.asked if "upload" in url or "/file" in url]


def test_paste_and_drop(visitor: Visitor, address: Address, counting: Session) -> None:
    page = visitor.log_in(address(counting, "direct"), counting.key)
    data = base64.b64encode(SMALL).decode()
    page.evaluate(BRING, ["paste", "#entry textarea", data, "pasted.png"])
    expect(attached(page)).to_have_count(1)
    page.evaluate(BRING, ["drop", "#chat", data, "dropped.png"])
    expect(attached(page)).to_have_count(2)
    page.get_by_role("button", name="Remove pasted.png").click()
    expect(attached(page)).to_have_count(1)
    expect(entry(page)).to_be_focused()
    entry(page).press("Enter")  # an image alone is a question, too
    finish(page)
    expect(page.locator("#chat .bot-row")).to_contain_text("0 words and the conversation 1 image.")


def test_big_images_are_made_small(visitor: Visitor, address: Address, counting: Session) -> None:
    page = visitor.log_in(address(counting, "direct"), counting.key)
    choose(page, image("wall.png", png(4000, 2000)))
    expect(attached(page)).to_have_count(1)
    sent = []
    page.on("request", lambda request: sent.append(request.post_data or ""))
    ask(page, "How large?")
    finish(page)
    shown = page.locator("#chat .user-row img")
    size = shown.evaluate(
        "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight, image.src.slice(0, 15)])"
    )
    assert size == [1568, 784, "data:image/jpeg"]
    assert max(len(body) for body in sent) < 400_000


def test_what_cannot_be_attached_is_told(visitor: Visitor, address: Address, counting: Session) -> None:
    page = visitor.log_in(address(counting, "direct"), counting.key)
    choose(page, image("notes.png", b"no image at all"))
    alert = page.get_by_role("alert").filter(has_text="notes.png")
    expect(alert).to_contain_text("Use PNG, JPEG, WebP or GIF")
    expect(attached(page)).to_have_count(0)
    choose(page, *(image(f"{number}.png") for number in range(9)))
    expect(page.get_by_role("alert").filter(has_text="One image was left out: a question")).to_be_visible()
    expect(attached(page)).to_have_count(8)


def test_a_model_that_reads_no_images(visitor: Visitor, address: Address, reader: Session) -> None:
    page = visitor.log_in(address(reader, "direct"), reader.key)
    ask(page, "one")
    finish(page)
    expect(page.get_by_role("button", name="Attach images")).to_have_count(0)
    page.evaluate(BRING, ["paste", "#entry textarea", base64.b64encode(SMALL).decode(), "x.png"])
    expect(page.get_by_role("alert").filter(has_text="This model reads no images.")).to_be_visible()
    assert reader.engine.counts()["images"] == 0


def test_an_engine_that_refuses_images_is_explained(
    visitor: Visitor, address: Address, counting: Session, reader: Session
) -> None:
    """The page takes a model's files at their word; the engine may know better."""
    page = visitor.log_in(address(counting, "direct"), counting.key)
    socket, counting.gateway.routes.engine = counting.gateway.routes.engine, reader.engine.socket
    try:
        choose(page, image("x.png"))
        ask(page, "What is that?")
        expect(page.locator("#chat .bot-row")).to_contain_text("This model reads no images.")
    finally:
        counting.gateway.routes.engine = socket


def test_edit_and_undo_keep_the_images(visitor: Visitor, address: Address, counting: Session) -> None:
    page = visitor.log_in(address(counting, "direct"), counting.key)
    choose(page, image("x.png"))
    ask(page, "first words")
    finish(page)
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Edit your question")).to_have_value("first words")
    page.get_by_label("Edit your question").fill("three other words")
    page.get_by_label("Edit your question").press("Enter")
    expect(page.locator("#chat .bot-row")).to_contain_text("3 words and the conversation 1 image")
    finish(page)
    page.get_by_role("button", name="Undo").click()
    expect(entry(page)).to_have_value("three other words")
    expect(attached(page)).to_have_count(1)
    entry(page).press("Enter")
    finish(page)
    expect(page.locator("#chat .bot-row")).to_contain_text("3 words and the conversation 1 image")
    assert questions(page) == ["three other words"]


def test_a_lost_image_is_told(visitor: Visitor, address: Address, counting: Session) -> None:
    """A tab's storage is small: what did not fit is gone after a reload."""
    page = visitor.log_in(address(counting, "direct"), counting.key)
    choose(page, image("x.png"))
    ask(page, "one")
    finish(page)
    page.wait_for_function("JSON.stringify({...sessionStorage}).includes('the conversation 1 image')")
    page.wait_for_timeout(500)
    page.evaluate(
        "Object.keys(sessionStorage).filter(k => k.includes('#')).forEach(k => sessionStorage.removeItem(k))"
    )
    page.reload()
    expect(page.locator("#chat .user-row")).to_contain_text("x.png (no longer here)")
    ask(page, "two")
    expect(page.locator("#chat .bot-row").last).to_contain_text(
        'The image "x.png" is no longer in this browser tab.'
    )


def test_a_forgotten_conversation_leaves_no_image(
    visitor: Visitor, address: Address, counting: Session
) -> None:
    page = visitor.log_in(address(counting, "direct"), counting.key)
    choose(page, image("x.png"))
    ask(page, "one")
    finish(page)
    stored = "JSON.stringify({...sessionStorage}).includes('data:image')"
    page.wait_for_function(stored)
    begin_anew(page)
    page.wait_for_function(f"!{stored}")
    choose(page, image("x.png"))
    ask(page, "two")
    finish(page)
    open_side(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert json.loads(page.evaluate("JSON.stringify({...sessionStorage})")) == {}
