"""Sound out of files: every usual format gives the same samples; whatever else is offered is refused, and nothing read.

The hostile ones are what a stranger could upload: playlists and movies that name other files or addresses, pipes and
devices, files that were cut off or damaged.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from launcher.whisper.refusal import Refusal
from launcher.whisper.server import Server
from launcher.whisper.sound import RATE_HZ, Samples, Sound
from launcher.whisper.transcriber import Transcriber
from launcher.whisper.wanted import Decoding, Wanted
from tests.site import ROOT
from tests.speech import convert, needs_speech, silence, speech

MODEL = ROOT / "launcher" / "models" / "shipped" / "tiny-whisper"
WORDS = ["one", "two", "three", "yes", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_speech()
    return tmp_path_factory.mktemp("sound")


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber(MODEL, Server(threads=1, parallel=1, stretch_s=6))


@pytest.fixture(scope="module")
def spoken(folder: Path) -> Path:
    """About 12 s of words."""
    return speech(WORDS, folder / "spoken.wav", gap_s=0.7, repeat=2)


def samples(path: Path) -> Samples:
    with Sound(path) as sound:
        return sound.read(3600 * RATE_HZ)


def alike(ours: Samples, theirs: Samples) -> float:
    """How alike two sounds are in their loudness over time, where coding may have moved one by up to 0.15 s."""
    wanted = loudness(ours)[:100]
    return max(
        float(np.corrcoef(wanted, loudness(theirs[moved:])[:100])[0, 1]) for moved in range(0, 2400, 200)
    )


def loudness(found: Samples) -> NDArray[np.float64]:
    """How loud each tenth of a second is."""
    tenths = found[: len(found) // 1600 * 1600].astype(np.float64).reshape(-1, 1600)
    return np.asarray(np.sqrt((tenths**2).mean(axis=1)))


VIDEO = ("-f", "lavfi", "-i", "color=size=64x64:rate=5", "-shortest")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("studio.wav", ("-ar", "96000", "-ac", "2", "-c:a", "pcm_s24le")),
        ("phone.wav", ("-ar", "8000", "-c:a", "pcm_mulaw")),
        ("a.mp3", ("-ar", "44100")),
        ("a.m4a", ("-ar", "48000", "-ac", "2")),
        ("a.flac", ()),
        ("a.ogg", ("-c:a", "libvorbis")),
        ("a.opus", ()),
        ("a.aac", ()),
        ("a.webm", ("-c:a", "libopus")),
        ("a.aiff", ()),
        ("film.mp4", VIDEO),
        ("film.mkv", VIDEO),
        ("film.avi", VIDEO),
        ("film.ts", VIDEO),
        ("a'; $(id) ü.mp3", ()),
    ],
)
def test_usual_formats_sound_alike(folder: Path, spoken: Path, name: str, options: tuple[str, ...]) -> None:
    there = convert(spoken, folder / name, *options)
    ours, theirs = samples(spoken), samples(there)
    assert len(theirs) == pytest.approx(len(ours), abs=0.2 * RATE_HZ)
    assert alike(ours, theirs) > 0.9


def test_it_is_read_a_little_at_a_time(spoken: Path) -> None:
    whole = samples(spoken)
    with Sound(spoken) as sound:
        assert sound.duration_s == pytest.approx(len(whole) / RATE_HZ, abs=0.01)
        assert sound.skip(12_345) == 12_345
        parts = [sound.read(777), sound.read(50_000), sound.read(10**9), sound.read(5)]
    assert [len(part) for part in parts] == [777, 50_000, len(whole) - 12_345 - 50_777, 0]
    assert np.array_equal(np.concatenate(parts), whole[12_345:])


def test_it_ends_when_the_client_leaves(spoken: Path) -> None:
    left = threading.Event()
    with Sound(spoken, left) as sound:
        assert len(sound.read(10)) == 10
        left.set()
        assert sound.skip(10**9) < len(samples(spoken))


def test_a_change_of_rate_in_the_middle_is_followed(folder: Path, spoken: Path) -> None:
    """As where somebody glued recordings of two machines together."""
    first = convert(spoken, folder / "first.mp3", "-ar", "44100", "-write_xing", "0")
    second = convert(spoken, folder / "second.mp3", "-ar", "22050", "-ac", "2", "-write_xing", "0")
    (both := folder / "both.mp3").write_bytes(first.read_bytes() + second.read_bytes())
    assert len(samples(both)) == pytest.approx(2 * len(samples(spoken)), rel=0.02)


def test_a_damaged_part_is_left_out(folder: Path, spoken: Path) -> None:
    there = convert(spoken, folder / "damaged.mp3", "-b:a", "64k")
    data = bytearray(there.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = os.urandom(4000)
    there.write_bytes(data)
    with Sound(there) as sound:
        found = sound.read(10**9)
        assert len(found) > 0.8 * len(samples(spoken))
        assert sound.damaged


@pytest.mark.parametrize("name", ["cut.wav", "cut.mp3", "cut.flac", "cut.ogg", "cut.mkv", "cut.ts"])
def test_what_was_cut_off_is_read_as_far_as_it_goes(folder: Path, spoken: Path, name: str) -> None:
    there = convert(spoken, folder / name)
    data = there.read_bytes()
    there.write_bytes(data[: len(data) * 6 // 10])
    assert 0.4 < len(samples(there)) / len(samples(spoken)) < 0.75


def bare(folder: Path, name: str, data: bytes) -> Path:
    (path := folder / name).write_bytes(data)
    return path


def film(folder: Path, name: str, *options: str) -> Path:
    still = ("-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=1")
    path = folder / name
    subprocess.run(["ffmpeg", "-nostdin", "-y", "-loglevel", "error", *still, *options, path], check=True)
    return path


def cut_mp4(folder: Path, spoken: Path) -> Path:
    whole = convert(spoken, folder / "whole.mp4").read_bytes()
    assert whole.index(b"moov") > len(whole) // 2  # the table of contents, at the end
    return bare(folder, "cut.mp4", whole[: len(whole) // 2])


REFUSED: dict[str, Callable[[Path, Path], Path]] = {
    "text named mp3": lambda folder, _: bare(folder, "text.mp3", b"I am not a song. " * 999),
    "nothing": lambda folder, _: bare(folder, "nothing.wav", b""),
    "a head alone": lambda folder, spoken: bare(folder, "head.wav", spoken.read_bytes()[:30]),
    "zero seconds": lambda folder, _: silence(folder / "zero.wav", 0),
    "zeros": lambda folder, _: bare(folder, "zeros.wav", bytes(100_000)),
    "noise": lambda folder, _: bare(folder, "noise.mp3", np.random.default_rng(1).bytes(100_000)),
    "a cut mp4": cut_mp4,
    "video without sound": lambda folder, _: film(folder, "mute.mp4"),
    "a picture": lambda folder, _: film(folder, "picture.png", "-frames:v", "1"),
    "a moving picture": lambda folder, _: film(folder, "picture.gif"),
    "a folder": lambda folder, _: folder,
    "no such file": lambda folder, _: folder / "missing.wav",
    "a name with NUL": lambda folder, _: folder / "a\0b.wav",
    "a link to nowhere": lambda folder, _: linked(folder / "nowhere.wav", folder / "missing.wav"),
    "a device": lambda folder, _: Path("/dev/zero"),
    "a process": lambda folder, _: Path("/proc/self/environ"),
    "a pipe": lambda folder, _: pipe(folder / "pipe.wav"),
    "a list for concat": lambda folder, spoken: bare(
        folder, "list.txt", f"ffconcat version 1.0\nfile '{spoken}'\n".encode()
    ),
    "a playlist": lambda folder, spoken: playlist(folder, spoken),
    "a protocol": lambda folder, spoken: Path(f"concat:{spoken}|{spoken}"),
    "an address": lambda folder, spoken: Path(f"file:{spoken}"),
}


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def playlist(folder: Path, spoken: Path) -> Path:
    convert(spoken, folder / "part.ts")
    lines = [
        "#EXTM3U",
        "#EXT-X-TARGETDURATION:20",
        "#EXTINF:12,",
        str(folder / "part.ts"),
        "#EXT-X-ENDLIST",
        "",
    ]
    return bare(folder, "list.m3u8", "\n".join(lines).encode())


@pytest.mark.parametrize("what", REFUSED)
def test_whatever_holds_no_sound_is_refused(
    transcriber: Transcriber, folder: Path, spoken: Path, what: str
) -> None:
    path = REFUSED[what](folder, spoken)
    wanted = Wanted(Decoding(language="en"))
    with pytest.raises(Refusal) as refused:
        list(transcriber.transcribe(path, wanted, threading.Event()))
    assert (refused.value.status, refused.value.param) == (400, "file")
    assert "\n" not in refused.value.message
    assert str(folder) not in refused.value.message
    assert next(transcriber.transcribe(spoken, wanted, threading.Event())).segments


def test_a_link_to_a_recording_is_that_recording(folder: Path, spoken: Path) -> None:
    assert np.array_equal(samples(linked(folder / "link.wav", spoken)), samples(spoken))


def test_nothing_in_a_file_makes_it_open_a_connection(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.3)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/a.ts"
        lines = [
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile '{address}'\n",
            '<?xml version="1.0"?><MPD><Period><AdaptationSet>'
            f"<BaseURL>{address}</BaseURL></AdaptationSet></Period></MPD>",
            f"[Reference]\nRef1={address}\n",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=audio {listening.getsockname()[1]} RTP/AVP 0\n",
            f"rtsptextRTSPRTSP {address}",
        ]
        for number, text in enumerate(lines):
            with pytest.raises(Refusal), Sound(bare(folder, f"list{number}", text.encode())):
                pass
        with pytest.raises(TimeoutError):
            listening.accept()
