"""Transcripts as files: other people's parsers read them, and hostile texts stay texts."""

from __future__ import annotations

import itertools
import unicodedata
from io import StringIO

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.audio import TranscriptionVerbose

from launcher.whisper import formats
from launcher.whisper.segments import REPEATED, Segment, Word
from tests.hostile import HOSTILE

SPOKEN = [
    Segment(0.0, 1.5, " Hello there.", avg_logprob=-0.2, tokens=(1, 2)),
    Segment(1.5, 3.25, " How are you?", words=(Word(" How", 1.5, 1.8, 0.9), Word(" are", 1.8, 2.0, 0.8))),
    Segment(3725.04, 3726.0, " Fine.", marks=(REPEATED,)),
]
HOSTILE_TEXTS = [
    *HOSTILE,
    "1\n00:00:01,000 --> 00:00:02,000\nforged",
    "a --> b",
    "NOTE x",
    "WEBVTT",
    "</v><b>&amp;",
]


def plain(text: str) -> str:
    shown = (letter for letter in text if letter.isspace() or unicodedata.category(letter) != "Cc")
    return " ".join("".join(shown).split())


def read_srt(document: str) -> list[tuple[float, float, str]]:
    cues = list(srt.parse(document))
    assert [cue.index for cue in cues] == list(range(1, len(cues) + 1))
    return [(cue.start.total_seconds(), cue.end.total_seconds(), cue.content) for cue in cues]


def read_vtt(document: str) -> list[tuple[float, float, str]]:
    cues = webvtt.from_buffer(StringIO(document), format="vtt").captions
    return [(_seconds(cue.start), _seconds(cue.end), cue.text) for cue in cues]


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_subtitles_are_read_by_other_programs() -> None:
    expected = [(0.0, 1.5, "Hello there."), (1.5, 3.25, "How are you?"), (3725.04, 3726.0, "Fine.")]
    assert read_srt(formats.srt(SPOKEN)) == expected
    assert read_vtt(formats.vtt(SPOKEN)) == expected


def test_text_flows_and_lines_stand_alone() -> None:
    assert formats.text(SPOKEN) == "Hello there. How are you? Fine."
    assert formats.txt(SPOKEN) == "Hello there.\nHow are you?\nFine.\n"


def test_a_table_tells_what_to_listen_to_again() -> None:
    rows = [line.split("\t") for line in formats.tsv(SPOKEN).splitlines()]
    assert rows[0] == ["start", "end", "text", "marks"]
    assert rows[1] == ["0", "1500", "Hello there.", ""]
    assert rows[3] == ["3725040", "3726000", "Fine.", "repeated"]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_texts_stay_one_cue(text: str) -> None:
    segments = [Segment(0, 1, " before"), Segment(1, 2, text), Segment(2, 3, " after")]
    expected = ["before", *([plain(text)] if plain(text) else []), "after"]
    assert [cue[2] for cue in read_srt(formats.srt(segments))] == [
        line.replace("-->", "->") for line in expected
    ]
    read = [cue[2] for cue in read_vtt(formats.vtt(segments))]
    assert read == [line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in expected]
    assert formats.txt(segments).splitlines() == expected
    assert all(line.count("\t") == 3 for line in formats.tsv(segments).splitlines())


def test_nothing_said_is_an_empty_document() -> None:
    assert (formats.text([]), formats.txt([]), formats.srt([])) == ("", "", "")
    assert formats.vtt([]) == "WEBVTT\n\n"
    assert read_vtt(formats.vtt([])) == []
    assert formats.verbose_json([], language=None, duration_s=1.0)["segments"] == []


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((" Ja.", " Nein."), "Ja. Nein."),
        (("yes", "no"), "yes no"),
        (("Yes. ", "No."), "Yes. No."),
        (("你好。", "再见。"), "你好。再见。"),
        (("สวัสดี", "ครับ"), "สวัสดีครับ"),
        (("안녕하세요", "여러분"), "안녕하세요 여러분"),
        (("", " one", " ", "two "), "one two"),
    ],
)
def test_lines_meet_as_their_script_wants(texts: tuple[str, ...], expected: str) -> None:
    assert formats.text([Segment(i, i + 1, text) for i, text in enumerate(texts)]) == expected


times = st.floats(0, 400_000, allow_nan=False)
segments_made = st.lists(st.builds(Segment, start=times, end=times, text=st.text(max_size=30)), max_size=8)


@settings(max_examples=40)
@given(segments_made)
def test_cues_come_in_order_and_last_a_moment(segments: list[Segment]) -> None:
    for cues in (read_srt(formats.srt(segments)), read_vtt(formats.vtt(segments))):
        assert all(end > start for start, end, _ in cues)
        assert all(first[0] <= second[0] for first, second in itertools.pairwise(cues))
        assert len(cues) == sum(1 for segment in segments if plain(segment.text))


@settings(max_examples=40)
@given(segments_made, st.sampled_from([formats.Text, formats.Lines, formats.Srt, formats.Vtt, formats.Tsv]))
def test_a_growing_document_ends_as_the_whole_one(
    segments: list[Segment], kind: type[formats.Writer]
) -> None:
    growing, whole = kind(), kind()
    assert "".join(growing.add([segment]) for segment in segments) == whole.add(segments)


def test_verbose_json_is_what_the_openai_client_knows() -> None:
    data = formats.verbose_json(SPOKEN, language="de", duration_s=3726.004, of_words=True)
    read = TranscriptionVerbose.model_validate(data, strict=True)
    assert (read.language, read.duration, read.text) == ("german", 3726.0, "Hello there. How are you? Fine.")
    assert [(part.id, part.text, part.end) for part in read.segments or []] == [
        (0, " Hello there.", 1.5),
        (1, " How are you?", 3.25),
        (2, " Fine.", 3726.0),
    ]
    assert [(word.word, word.start) for word in read.words or []] == [("How", 1.5), ("are", 1.8)]
    assert read.usage is not None
    assert read.usage.seconds == 3726.0
    assert data["segments"][2]["marks"] == ["repeated"]


def test_verbose_json_has_the_lists_that_were_asked_for() -> None:
    only_words = formats.verbose_json(SPOKEN, language="en", duration_s=1, of_segments=False, of_words=True)
    assert "segments" not in only_words
    assert "words" in only_words
    assert "words" not in formats.verbose_json(SPOKEN, language="en", duration_s=1, of_words=False)
