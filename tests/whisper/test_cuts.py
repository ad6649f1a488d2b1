"""Where audio is cut: at silences, so that no word is cut through or lost, and always in the same places."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from launcher.whisper.cuts import Cuts, Stretch
from launcher.whisper.refusal import Refusal
from launcher.whisper.sound import RATE_HZ, Sound
from launcher.whisper.wanted import Cutting
from tests.speech import duration_s, needs_speech, silence, speech, spoken

WORDS = ["one", "two", "three", "yes", "no", "seven", "stop"]
GAP_S = 1.1
MOST_S = 12.0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words with pauses for more than four minutes: three windows."""
    needs_speech()
    return speech(WORDS, tmp_path_factory.mktemp("cuts") / "words.wav", gap_s=GAP_S, repeat=22)


def cut(
    path: Path, cutting: Cutting, *, stretch_s: float = MOST_S, window: int = 0, skip: int = 0
) -> list[Stretch]:
    with Sound(path) as sound:
        return list(Cuts(sound, cutting, stretch_s, window, skip))


def ends_of(path: Path, cutting: Cutting, stretch_s: float = MOST_S) -> int:
    with Sound(path) as sound:
        cuts = Cuts(sound, cutting, stretch_s)
        for _ in cuts:
            pass
        return cuts.end


def spans(stretches: list[Stretch]) -> list[tuple[int, int]]:
    return [span for stretch in stretches for span in stretch.spans]


def words_in(path: Path, repeat: int) -> list[tuple[int, int]]:
    """Where each word lies, in samples."""
    gap = round(GAP_S * RATE_HZ)
    found, here = [], gap
    for word in WORDS * repeat:
        length = len(spoken(word)) // 2
        found.append((here, here + length))
        here += length + gap
    assert here == round(duration_s(path) * RATE_HZ)
    return found


def test_no_word_is_cut_through_or_lost_or_heard_twice(recording: Path) -> None:
    heard = spans(cut(recording, Cutting()))
    for start, end in words_in(recording, 22):
        middle = (start + end) // 2
        holding = [span for span in heard if span[0] <= middle < span[1]]
        assert len(holding) == 1, f"the word at {middle / RATE_HZ:.2f} s"
        # Silero hears a soft consonant a moment late or early; the pads of 0.4 s cover that.
        assert holding[0][0] <= start + 0.05 * RATE_HZ
        assert holding[0][1] >= end - 0.05 * RATE_HZ


def test_stretches_are_full_and_follow_one_another(recording: Path) -> None:
    stretches = cut(recording, Cutting())
    lengths = [len(stretch.samples) / RATE_HZ for stretch in stretches]
    assert max(lengths) <= MOST_S
    # Speech is packed as tight as BatchedInferencePipeline does: two neighbours would not fit in one.
    assert np.mean(lengths) > 0.75 * MOST_S
    places = spans(stretches)
    assert all(start < end for start, end in places)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
    for before, after in itertools.pairwise(stretches):
        assert before.spans[-1][1] <= before.done <= after.spans[0][0]
    assert ends_of(recording, Cutting()) == round(duration_s(recording) * RATE_HZ)


def test_the_samples_are_those_of_the_spans(recording: Path) -> None:
    with Sound(recording) as sound:
        whole = sound.read(10**9)
    for stretch in cut(recording, Cutting()):
        wanted = np.concatenate([whole[start:end] for start, end in stretch.spans])
        assert np.array_equal(stretch.samples * 32768, wanted)


@pytest.mark.parametrize("cutting", [Cutting(), Cutting(at_silence=False)], ids=["silences", "blind"])
def test_from_each_place_on_the_rest_is_the_same(recording: Path, cutting: Cutting) -> None:
    whole = cut(recording, cutting)
    for number, stretch in enumerate(whole):
        rest = cut(recording, cutting, window=stretch.window, skip=stretch.index)
        assert [one.spans for one in rest] == [one.spans for one in whole[number + 1 :]]
        assert [(one.done, one.window, one.index) for one in rest] == [
            (one.done, one.window, one.index) for one in whole[number + 1 :]
        ]
        assert all(
            np.array_equal(one.samples, other.samples)
            for one, other in zip(rest, whole[number + 1 :], strict=True)
        )


def test_blind_cuts_leave_nothing_out(recording: Path) -> None:
    stretches = cut(recording, Cutting(at_silence=False))
    places = spans(stretches)
    assert places[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(places))
    assert places[-1][1] == round(duration_s(recording) * RATE_HZ)
    assert {end - start for start, end in places[:-1]} == {round(MOST_S * RATE_HZ)}


def test_silence_is_passed_over_and_said(tmp_path: Path) -> None:
    path = silence(tmp_path / "silence.wav", 400)
    stretches = cut(path, Cutting())
    assert spans(stretches) == []
    done = [stretch.done for stretch in stretches]
    assert done == sorted(set(done))
    assert 50 * RATE_HZ < done[0] <= 60 * RATE_HZ
    assert ends_of(path, Cutting()) == 400 * RATE_HZ


def test_a_scrap_at_the_end_is_no_stretch(tmp_path: Path) -> None:
    path = silence(tmp_path / "scrap.wav", 2 * MOST_S + 0.05)
    stretches = cut(path, Cutting(at_silence=False))
    assert len(spans(stretches)) == 2
    assert ends_of(path, Cutting(at_silence=False)) == round((2 * MOST_S + 0.05) * RATE_HZ)
    alone = silence(tmp_path / "alone.wav", 0.05)
    assert spans(cut(alone, Cutting(at_silence=False))) == [(0, 800)]


@pytest.mark.parametrize(
    "cutting",
    [
        Cutting(min_silence_ms=60_000),
        Cutting(speech_pad_ms=30_000),
        Cutting(min_silence_ms=0, speech_pad_ms=0),
        Cutting(threshold=0.0),
        Cutting(threshold=1.0),
        Cutting(min_speech_ms=3000),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stretch_s", [2.0, 30.0])
def test_whatever_is_asked_for_it_comes_to_an_end(
    recording: Path, cutting: Cutting, stretch_s: float
) -> None:
    with Sound(recording) as sound:
        stretches = []
        for stretch in Cuts(sound, cutting, stretch_s):
            stretches.append(stretch)
            assert len(stretches) < 1000
    places = spans(stretches)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))
    assert all(len(stretch.samples) <= stretch_s * RATE_HZ for stretch in stretches)


def test_speech_without_a_pause_is_cut_all_the_same(tmp_path: Path) -> None:
    path = speech(["one", "two", "three"], tmp_path / "fast.wav", gap_s=0.0, repeat=120)
    stretches = cut(path, Cutting())
    assert all(len(stretch.samples) <= MOST_S * RATE_HZ for stretch in stretches)
    heard = sum(len(stretch.samples) for stretch in stretches) / RATE_HZ
    assert heard > 0.95 * duration_s(path)


def test_a_place_beyond_the_end_is_refused(recording: Path) -> None:
    end = round(duration_s(recording) * RATE_HZ)
    assert cut(recording, Cutting(), window=end) == []
    with pytest.raises(Refusal) as refused:
        cut(recording, Cutting(), window=end + 1)
    assert (refused.value.status, refused.value.param) == (400, "resume_from")


def test_times_in_a_stretch_become_times_in_the_audio() -> None:
    """Two spans of one second, at 10 s and at 20 s, are heard as two seconds."""
    stretch = Stretch(((160_000, 176_000), (320_000, 336_000)), np.zeros(32_000, np.float32), 0, 0, 0)
    assert [stretch.time_s(at) for at in (0.0, 0.5, 1.0, 1.5, 9.0)] == [10.0, 10.5, 20.0, 20.5, 21.0]
    assert [stretch.end_s(at) for at in (0.5, 1.0, 1.5, 2.0)] == [10.5, 11.0, 20.5, 21.0]
    assert stretch.within(stretch.span_at(0.9), 1.2) == 11.0  # a word's end stays where the word is
    assert stretch.within(stretch.span_at(1.1), 0.8) == 20.0
