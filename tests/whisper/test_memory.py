"""An hour of audio needs the memory of ten minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.site import ROOT
from tests.speech import needs_speech, speech

MODEL = ROOT / "launcher" / "models" / "shipped" / "tiny-whisper"
PROGRAM = """
import resource, sys, threading
from pathlib import Path
from launcher.whisper import heap
from launcher.whisper.server import Server
from launcher.whisper.transcriber import Transcriber
from launcher.whisper.wanted import Decoding, Wanted

heap.keep()
made = Transcriber(Path(sys.argv[1]), Server(threads=1, parallel=2))
wanted = Wanted(Decoding(language="en", timestamps=False, beam_size=1))
words = 0
for piece in made.transcribe(Path(sys.argv[2]), wanted, threading.Event()):
    words += sum(len(segment.text.split()) for segment in piece.segments)
print(words, piece.done_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(path: Path) -> tuple[int, float, float]:
    """Words, seconds of audio, and the most memory that a process of its own had for them."""
    argv = [sys.executable, "-c", PROGRAM, str(MODEL), str(path)]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words, seconds, kilobytes = said.split()
    return int(words), float(seconds), int(kilobytes) / 1024


def test_an_hour_needs_no_more_memory_than_ten_minutes(tmp_path: Path) -> None:
    needs_speech()
    words = ["one", "two", "three", "yes", "no"]
    long = speech(words, tmp_path / "hour.wav", gap_s=5, repeat=140)
    short = speech(words, tmp_path / "minutes.wav", gap_s=5, repeat=22)
    long_words, long_s, long_mb = peak_mb(long)
    short_words, short_s, short_mb = peak_mb(short)
    assert long_s > 3600
    assert 550 < short_s < 650
    assert long_words > 5 * short_words > 0
    assert long_mb <= 1.2 * short_mb, f"{long_mb:.0f} MB against {short_mb:.0f} MB"
