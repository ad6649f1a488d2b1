"""The body of an audio request, whatever way it is cut up on the wire."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.whisper.refusal import Refusal
from launcher.whisper.uploads import Head, Uploads
from tests.whisper.wire import BOUNDARY, form, part

KIND = f"multipart/form-data; boundary={BOUNDARY}"
# What a careless reader stumbles over: the mark itself, and line ends where the pieces meet.
NASTY = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", BOUNDARY.encode(), b"a", b"\0", bytes(300)]), max_size=40
).map(b"".join)


class Wire(io.RawIOBase):
    """Gives at most as many bytes as each of `sizes` says, in turns."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes = io.BytesIO(data), self._turns(sizes)

    @staticmethod
    def _turns(sizes: list[int]) -> Iterator[int]:
        while True:
            yield from sizes

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, next(self._sizes)))


def received(
    data: bytes, sizes: list[int], scratch: Path, head: Head
) -> tuple[dict[str, list[str]], bytes | None]:
    with Uploads(scratch, 10**6).received(Wire(data, sizes), head, lambda _: None) as got:
        return got.fields, got.file.read() if got.file is not None else None


def is_mark(data: bytes) -> bool:
    return any(end + b"--" + BOUNDARY.encode() in b"\n" + data for end in (b"\r", b"\n"))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NASTY.filter(lambda data: not is_mark(data)), st.lists(st.integers(1, 400), min_size=1), st.booleans())
def test_a_file_arrives_byte_for_byte(tmp_path: Path, sound: bytes, sizes: list[int], told: bool) -> None:
    data = form({"model": "tiny", "prompt": "Grüße\r\n"}, sound)
    head = Head(KIND, len(data) if told else None)
    assert received(data, sizes, tmp_path, head) == ({"model": ["tiny"], "prompt": ["Grüße\r\n"]}, sound)
    assert not list(tmp_path.iterdir())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=600), st.lists(st.integers(1, 400), min_size=1), st.booleans())
def test_what_is_no_form_is_refused_and_nothing_else(
    tmp_path: Path, noise: bytes, sizes: list[int], begun: bool
) -> None:
    data = part("model", "tiny") + noise if begun else noise
    with pytest.raises(Refusal) as refused:
        received(data, sizes, tmp_path, Head(KIND, len(data)))
    assert refused.value.status in (400, 413)


def test_other_files_are_ignored_as_other_fields_are(tmp_path: Path) -> None:
    data = part("image", b"\x89PNG", "a.png") + form({"model": "tiny"}, b"RIFF")
    assert received(data, [7], tmp_path, Head(KIND, len(data))) == ({"model": ["tiny"]}, b"RIFF")


def test_a_plain_form_has_fields_alone(tmp_path: Path) -> None:
    data = b"model=tiny&path=%2Fa+b%2F%C3%BC.wav&x=1&x=2&empty="
    fields, file = received(data, [5], tmp_path, Head("application/x-www-form-urlencoded", None))
    assert fields == {"model": ["tiny"], "path": ["/a b/ü.wav"], "x": ["1", "2"], "empty": [""]}
    assert file is None


def test_the_model_is_known_before_the_file_comes(tmp_path: Path) -> None:
    seen: list[dict[str, list[str]]] = []

    def refuse(fields: dict[str, list[str]]) -> None:
        seen.append(dict(fields))
        raise Refusal(404, "no such model", "model_not_found")

    wire = Wire(form({"model": "other"}, bytes(10**6)), [50])
    with pytest.raises(Refusal), Uploads(tmp_path, 10**7).received(wire, Head(KIND, None), refuse):
        pytest.fail("it was not refused")
    assert seen == [{"model": ["other"]}]
    assert len(wire.read(10**7)) > 0
