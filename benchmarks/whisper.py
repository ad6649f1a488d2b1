"""P10: audio seconds a second: eight clips at once against speaches, one long file against BatchedInferencePipeline.

All have the same model, device, threads, parallel batches and beam, look for speech before they transcribe, and take
turns; the two servers are asked over HTTP. The words that were spoken are known, so each line has its word error rate.
The defaults are for the tiny model that ships with the launcher, which knows two or three words at a time. Speaches is
somebody else's program: give the address of a running one (started with the same threads, in `WHISPER__CPU_THREADS`,
`WHISPER__NUM_WORKERS` and `WHISPER__COMPUTE_TYPE`), or leave it out.

    make bench NAME=whisper [ARGS='--speaches http://127.0.0.1:8000 --speaches-model local/tiny --rounds 5']
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from launcher.models.resolve import SHIPPED
from tests.speech import duration_s, speech

WORDS = (
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "yes",
    "no",
    "stop",
    "go",
)
OURS, THEIRS, ALONE = "launcher", "speaches", "BatchedInferencePipeline"


@dataclass(frozen=True, slots=True)
class Sound:
    """A wav file, what is said in it, and how long it is."""

    path: Path
    words: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class Figures:
    """What one program reached: audio seconds a second in each round, and its mistakes in words."""

    speeds: list[float] = field(default_factory=list)
    mistakes: int = 0
    words: int = 0

    def add(self, sounds: list[Sound], texts: list[str], took_s: float) -> None:
        """One round."""
        self.speeds.append(sum(sound.seconds for sound in sounds) / took_s)
        for sound, text in zip(sounds, texts, strict=True):
            self.mistakes += distance(sound.words, tuple(text.lower().split()))
            self.words += len(sound.words)


def main() -> None:
    """Print the table and, as the last line, the result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHIPPED / "tiny-whisper", help="a CTranslate2 folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--compute-type", default="default")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--clip-s", type=float, default=2.4, help="length of the longest clip")
    parser.add_argument("--minutes", type=float, default=10, help="length of the long file")
    parser.add_argument("--stretch-s", type=float, default=3, help="longest stretch; 30 for a real model")
    parser.add_argument("--gap-s", type=float, default=0.4, help="silence between words")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--speaches", help="the address of a running speaches")
    parser.add_argument("--speaches-model", default="local/tiny-whisper", help="what it calls the same model")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ours(wanted, Path(name)) as connect:
        folder = Path(name)
        short = clips(folder, wanted.clips, wanted.clip_s, wanted.gap_s)
        long = [spoken(folder / "long.wav", wanted.minutes * 60, wanted.gap_s, 0)]
        batch_ways: dict[str, Callable[[list[Sound]], list[str]]] = {
            OURS: lambda sounds: asked(connect, sounds, "bench")
        }
        long_ways = dict(batch_ways)
        if wanted.speaches:
            far = urlsplit(wanted.speaches)
            batch_ways[THEIRS] = lambda sounds: asked(
                lambda: http.client.HTTPConnection(str(far.hostname), far.port, timeout=600),
                sounds,
                wanted.speaches_model,
            )
        long_ways[ALONE] = alone(wanted)
        at_once = compare(f"{wanted.clips} clips at once", batch_ways, short, wanted.rounds)
        one = compare(f"one file of {wanted.minutes:g} min", long_ways, long, wanted.rounds)
    show(at_once, one)


def compare(
    title: str, ways: dict[str, Callable[[list[Sound]], list[str]]], sounds: list[Sound], rounds: int
) -> dict[str, Figures]:
    """Every way once for warmth, then in turn; prints its table."""
    found = {name: Figures() for name in ways}
    for way in ways.values():
        way(sounds)
    for turn in range(rounds):
        names = list(ways) if turn % 2 == 0 else list(reversed(ways))
        for name in names:
            started = time.monotonic()
            texts = ways[name](sounds)
            found[name].add(sounds, texts, time.monotonic() - started)
    print(f"\n{title:<28}{'audio s/s':>12}{'least':>9}{'most':>9}{'word errors':>13}")
    for name, figures in found.items():
        speeds, rate = figures.speeds, figures.mistakes / figures.words
        middle = statistics.median(speeds)
        print(f"{name:<28}{middle:>12.1f}{min(speeds):>9.1f}{max(speeds):>9.1f}{rate:>12.1%}", flush=True)
    return found


def show(at_once: dict[str, Figures], one: dict[str, Figures]) -> None:
    """The JSON line."""
    value: dict[str, float | None] = {"clips": None, "long": ratio(one, ALONE)}
    met = (value["long"] or 0) >= 0.95
    if THEIRS in at_once:
        value["clips"] = ratio(at_once, THEIRS)
        met = met and (value["clips"] or 0) >= 1.3
    goal = {"clips": 1.3, "long": 0.95}
    print(
        f"\n{json.dumps({'P10': {'value': value, 'goal': goal, 'met': met if THEIRS in at_once else None}})}"
    )


def ratio(found: dict[str, Figures], other: str) -> float:
    """The median of the rounds' ratios of our speed to the `other`'s."""
    pairs = zip(found[OURS].speeds, found[other].speeds, strict=True)
    return round(statistics.median(mine / theirs for mine, theirs in pairs), 2)


# -- sounds


def clips(folder: Path, count: int, longest_s: float, gap_s: float) -> list[Sound]:
    """`count` clips of a third of `longest_s` up to it."""
    lengths = [longest_s * (1 + 2 * n / max(1, count - 1)) / 3 for n in range(count)]
    return [spoken(folder / f"{n}.wav", length, gap_s, n) for n, length in enumerate(lengths)]


def spoken(path: Path, seconds: float, gap_s: float, first: int) -> Sound:
    """A file of spoken words of about `seconds`."""
    turn = WORDS[first:] + WORDS[:first]
    words: list[str] = list(turn)
    length = duration_s(speech(words, path, gap_s=gap_s))
    count = max(1, round(len(turn) * seconds / length))
    words = [turn[n % len(turn)] for n in range(count)]
    speech(words, path, gap_s=gap_s)
    return Sound(path, tuple(words), duration_s(path))


def distance(said: tuple[str, ...], heard: tuple[str, ...]) -> int:
    """The least number of words to change, add or leave out."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            above, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, above + (word.strip(".,") != other.strip(".,"))),
            )
    return row[-1]


# -- the programs


@contextlib.contextmanager
def ours(wanted: argparse.Namespace, folder: Path) -> Iterator[Callable[[], http.client.HTTPConnection]]:
    """Our server on a Unix socket; gives what opens a connection to it."""
    path, log = folder / "engine.sock", folder / "engine.log"
    options = {
        "--uds": path,
        "--model": wanted.model,
        "--served-name": "bench",
        "--cache": folder / "cache",
        "--scratch": folder,
        "--device": wanted.device,
        "--compute-type": wanted.compute_type,
        "--beam-size": wanted.beam_size,
        "--stretch-s": wanted.stretch_s,
    }
    if wanted.device == "cpu":
        options |= {"--threads": wanted.threads, "--parallel": wanted.parallel}
    words = [str(word) for option in options.items() for word in option]
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "launcher.whisper", *words], stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + 300
        while not answers(path):
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"our server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield lambda: Unix(path)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=600)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def answers(path: Path) -> bool:
    """Whether the server on the socket is up."""
    connection = Unix(path)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def asked(connect: Callable[[], http.client.HTTPConnection], sounds: list[Sound], model: str) -> list[str]:
    """The texts of `sounds`, all asked for at once."""
    with ThreadPoolExecutor(len(sounds)) as pool:
        return list(pool.map(lambda sound: post(connect(), sound, model), sounds))


def post(connection: http.client.HTTPConnection, sound: Sound, model: str) -> str:
    """One request, as the openai client sends it."""
    boundary = uuid.uuid4().hex
    fields = {"model": model, "language": "en", "response_format": "json", "temperature": "0"}
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="sound.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    body = head.encode() + sound.path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    with contextlib.closing(connection):
        connection.request(
            "POST",
            "/v1/audio/transcriptions",
            body,
            {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        answer = connection.getresponse()
        text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{model}: HTTP {answer.status}: {text[:300]!r}")
    return str(json.loads(text)["text"])


def alone(wanted: argparse.Namespace) -> Callable[[list[Sound]], list[str]]:
    """faster-whisper's own pipeline in this process, one file after the other."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(
        str(wanted.model),
        device=wanted.device,
        compute_type=wanted.compute_type,
        cpu_threads=wanted.threads,
        num_workers=wanted.parallel,
    )
    pipeline = BatchedInferencePipeline(model)

    def transcribe(sounds: list[Sound]) -> list[str]:
        texts = []
        for sound in sounds:
            segments, _ = pipeline.transcribe(
                str(sound.path), language="en", beam_size=wanted.beam_size, vad_filter=True,
                chunk_length=round(wanted.stretch_s),
            )  # fmt: skip
            texts.append("".join(segment.text for segment in segments))
        return texts

    return transcribe


if __name__ == "__main__":
    main()
