"""From a file to its pieces with the real model: right, in order, and the same whatever else goes on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.whisper.model import Ask, Heard
from launcher.whisper.queue import Queue
from launcher.whisper.refusal import Refusal
from launcher.whisper.server import Server
from launcher.whisper.transcriber import Piece, Transcriber
from launcher.whisper.wanted import Cutting, Decoding, Wanted
from tests.programs.front import wait_until
from tests.site import ROOT
from tests.speech import convert, duration_s, needs_speech, silence, speech

MODEL = ROOT / "launcher" / "models" / "shipped" / "tiny-whisper"
WORDS = ["one", "two", "three", "yes", "no", "go", "stop"]
ENGLISH = Decoding(language="en")


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    """Two batches at once of up to four stretches, each of a word or two."""
    return Transcriber(MODEL, Server(threads=1, parallel=2, batch_size=4, stretch_s=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_speech()
    return tmp_path_factory.mktemp("transcriber")


@pytest.fixture(scope="module")
def recording(folder: Path) -> Path:
    """A minute and a half of words: two windows."""
    return speech(WORDS, folder / "words.wav", gap_s=1.3, repeat=7)


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Path]:
    return [
        speech([WORDS[n % 7], WORDS[(2 * n + 1) % 7]], folder / f"clip{n}.wav", gap_s=1.0 + n / 20)
        for n in range(7)
    ]


@pytest.fixture(autouse=True)
def at_rest(transcriber: Transcriber) -> Iterator[None]:
    """Whatever a test did, nothing is left in the queue."""
    yield
    wait_until(lambda: transcriber.waiting == 0)


def pieces(
    transcriber: Transcriber, path: Path, wanted: Wanted | None = None, left: threading.Event | None = None
) -> list[Piece]:
    return list(transcriber.transcribe(path, wanted or Wanted(ENGLISH), left or threading.Event()))


def text(found: list[Piece]) -> str:
    return "".join(segment.text for piece in found for segment in piece.segments).strip()


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(),
        ENGLISH,
        replace(ENGLISH, timestamps=False),
        replace(ENGLISH, words=True),
        replace(ENGLISH, beam_size=1),
    ],
    ids=["detected", "plain", "text", "words", "greedy"],
)
def test_words_are_heard_and_their_times_lie_where_they_are_said(
    transcriber: Transcriber, folder: Path, decoding: Decoding
) -> None:
    said = ["yes", "no", "stop", "go"]
    path = speech(said, folder / "said.wav", gap_s=2.5)
    found = pieces(transcriber, path, Wanted(decoding))
    assert text(found).split() == said
    lines = [segment for piece in found for segment in piece.segments]
    assert all(piece.language == "en" for piece in found)
    times = [time for line in lines for time in (line.start, line.end)]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= duration_s(path)
    spoken = [word for line in lines for word in line.words or ()]
    assert [word.word.strip() for word in spoken] == (said if decoding.words else [])
    times = [time for word in spoken for time in (word.start, word.end)]
    assert times == sorted(times)
    for number, word in enumerate(spoken):  # each is said after 2.5 s more, and a little
        assert 2.5 * (number + 1) - 0.6 < word.start < 2.5 * (number + 1) + 0.6 * (number + 1)


def test_a_transcript_is_the_same_alone_and_in_company(
    transcriber: Transcriber, recording: Path, clips: list[Path]
) -> None:
    """Eight requests at once, which share batches, against one after the other: every figure is the same."""
    ways = [
        Wanted(ENGLISH), Wanted(Decoding(words=True)), Wanted(replace(ENGLISH, timestamps=False)), Wanted(Decoding()),
        Wanted(ENGLISH), Wanted(Decoding()), Wanted(Decoding(prompt="yes no")), Wanted(replace(ENGLISH, words=True)),
    ]  # fmt: skip
    files = [recording, *clips]
    alone = [pieces(transcriber, path, way) for path, way in zip(files, ways, strict=True)]
    assert all(text(found) for found in alone)
    with ThreadPoolExecutor(8) as pool:
        company = list(pool.map(lambda path, way: pieces(transcriber, path, way), files, ways))
    assert company == alone


def test_a_transcript_is_the_same_on_other_threads_and_in_other_batches(
    transcriber: Transcriber, clips: list[Path]
) -> None:
    """A session that goes on with another's work need not have as many cores."""
    other = Transcriber(MODEL, Server(threads=2, parallel=1, batch_size=1, stretch_s=3))
    for path in clips[:3]:
        assert pieces(other, path) == pieces(transcriber, path)


@pytest.mark.parametrize("decoding", [Decoding(), replace(ENGLISH, words=True)], ids=["detected", "words"])
def test_from_each_cursor_on_the_rest_is_the_same(
    transcriber: Transcriber, recording: Path, decoding: Decoding
) -> None:
    whole = pieces(transcriber, recording, Wanted(decoding))
    assert len(whole) > 20
    assert len({piece.cursor for piece in whole[:-1]}) == len(whole) - 1
    done = [piece.done_s for piece in whole]
    assert done == sorted(done)
    assert whole[-1].done_s == whole[-1].duration_s == round(duration_s(recording), 2)
    assert whole[-1].segments == ()
    for number in range(0, len(whole) - 1, 7):  # each goes over all that is left
        after = whole[number].cursor
        assert pieces(transcriber, recording, Wanted(decoding, after=after)) == whole[number + 1 :]
    # From the end on there is nothing but the end.
    assert pieces(transcriber, recording, Wanted(decoding, after=whole[-1].cursor)) == whole[-1:]


def test_who_leaves_leaves_the_others_alone(
    transcriber: Transcriber, recording: Path, clips: list[Path]
) -> None:
    alone = [pieces(transcriber, path) for path in clips[:3]]
    left = threading.Event()
    closed = transcriber.transcribe(recording, Wanted(ENGLISH), threading.Event())
    next(closed)
    leaving = transcriber.transcribe(recording, Wanted(ENGLISH), left)
    next(leaving)
    with ThreadPoolExecutor(3) as pool:
        company = pool.map(lambda path: pieces(transcriber, path), clips[:3])
        left.set()
        closed.close()
        rest = list(leaving)
        assert list(company) == alone
    whole = pieces(transcriber, recording)
    assert len(rest) < len(whole) - 1
    assert rest == whole[1 : 1 + len(rest)]


def test_no_piece_follows_one_that_was_not_heard(
    transcriber: Transcriber, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends while one batch is under way may have heard a later one: the cursor must not pass the gap."""
    whole, left, held = pieces(transcriber, recording), threading.Event(), threading.Event()
    hear = transcriber._model.hear
    lock, heard = threading.Lock(), 0

    def slow(asks: Sequence[Ask]) -> list[Heard]:
        nonlocal heard
        with lock:
            heard, number = heard + 1, heard
        if number == 1:
            held.wait(100)
        return hear(asks)

    queue = Queue(slow, batch_size=1, parallel=2)
    monkeypatch.setattr(transcriber, "_queue", queue)
    leaving = transcriber.transcribe(recording, Wanted(ENGLISH), left)
    found = [next(leaving)]
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, leaving)
        wait_until(lambda: heard > 4)
        left.set()
        found += rest.result(90)
    held.set()
    assert found == whole[:1]


def test_a_clip_is_heard_while_a_long_file_is(
    transcriber: Transcriber, recording: Path, clips: list[Path]
) -> None:
    long = transcriber.transcribe(recording, Wanted(ENGLISH), threading.Event())
    begun = list(itertools.islice(long, 2))
    assert text(pieces(transcriber, clips[0]))
    rest = list(long)
    assert [*begun, *rest] == pieces(transcriber, recording)


def test_silence_has_no_words_but_a_length(transcriber: Transcriber, folder: Path) -> None:
    path = silence(folder / "silence.wav", 70)
    found = pieces(transcriber, path, Wanted(Decoding()))
    assert text(found) == ""
    assert [piece.done_s for piece in found] == sorted({piece.done_s for piece in found})
    assert (found[-1].done_s, found[-1].language) == (70.0, None)


def test_what_the_model_cannot_do_is_said(transcriber: Transcriber, recording: Path) -> None:
    with pytest.raises(Refusal) as refused:
        pieces(transcriber, recording, Wanted(Decoding(language="tlh")))
    assert (refused.value.status, refused.value.param) == (400, "language")
    with pytest.raises(Refusal) as refused:
        pieces(transcriber, recording, Wanted(ENGLISH, after="nowhere"))
    assert (refused.value.status, refused.value.param) == (400, "resume_from")
    cursor = next(transcriber.transcribe(recording, Wanted(ENGLISH), threading.Event())).cursor
    with pytest.raises(Refusal, match="other settings"):
        pieces(transcriber, recording, Wanted(ENGLISH, Cutting(threshold=0.4), cursor))


def test_words_of_the_user_are_no_commands_to_the_model(transcriber: Transcriber, clips: list[Path]) -> None:
    spoken = text(pieces(transcriber, clips[0]))
    for prompt in ("<|endoftext|>" * 300, "<|startoftranscript|><|de|>", "\0\n" * 2000, "ü" * 5000, " "):
        decoding = replace(ENGLISH, prompt=prompt, hotwords=prompt)
        assert isinstance(text(pieces(transcriber, clips[0], Wanted(decoding))), str)
    assert text(pieces(transcriber, clips[0], Wanted(replace(ENGLISH, prompt="<|endoftext|>")))) == spoken


def test_what_is_too_long_is_refused_at_once_or_when_it_turns_out(folder: Path, recording: Path) -> None:
    limited = Transcriber(MODEL, Server(threads=1, parallel=1, stretch_s=3, max_hours=65 / 3600))
    with pytest.raises(Refusal) as refused:
        next(limited.transcribe(recording, Wanted(ENGLISH), threading.Event()))
    assert (refused.value.status, refused.value.code) == (413, "audio_too_long")
    endless = convert(recording, folder / "live.webm", "-c:a", "libopus", "-live", "1", "-f", "webm")
    found = limited.transcribe(endless, Wanted(ENGLISH), threading.Event())
    assert next(found).duration_s is None
    with pytest.raises(Refusal) as refused:
        list(found)
    assert refused.value.status == 413
    # A process that ends in the middle of a batch aborts in CTranslate2.
    wait_until(lambda: limited.waiting == 0 and limited._queue._idle == 1)
