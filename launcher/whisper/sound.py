"""Sound out of a file: any audio or video that FFmpeg reads, as 16 kHz mono samples, a little at a time.

Owns which files are taken and how they are decoded. FFmpeg sees bytes only, never a name: a crafted file (a playlist,
a movie with its sound elsewhere) can neither name other files nor open connections.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import av
import numpy as np
from numpy.typing import NDArray

from launcher.whisper.refusal import Refusal

RATE_HZ = 16_000  # Whisper's and Silero's
Samples = NDArray[np.int16]

# FFmpeg's names of the containers that hold sound in themselves. Left out are those that fetch it elsewhere (hls, dash,
# concat, sdp, …), that make it (lavfi), raw samples, and the exotic ones, whose demuxers few have looked at.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,webm,mov,mp3,mp4,mpc,mpc8,mpeg,mpegts,"
    "nut,ogg,oma,rm,tta,voc,w64,wav,wtv,wv,3gp,3g2,m4a,mj2,mxf,gsm,spx,sox,dsf"
)
_BUFFER_BYTES = 1 << 17
# Samples that are resampled at once: for each of an mp3's small frames it would take twice the time.
_GROUP = 1 << 16
# Rates of samples that sound can have. From a rate of 1 Hz, 70 kB would become gigabytes at once.
_LEAST_HZ, _MOST_HZ = 1_000, 3_000_000

log = logging.getLogger(__name__)


class Sound:
    """The samples of a file (a path, or one that is open and can seek), in order, read as they are asked for.

    `duration_s` is what the container says, None where it does not. Raises Refusal 400 for whatever holds no sound.
    A damaged part is left out, and the end of a file that was cut off is where it was cut off. Once `left` is set, the
    file is at its end, too.
    """

    def __init__(self, source: BinaryIO | Path, left: threading.Event | None = None) -> None:
        self.is_left = (left or threading.Event()).is_set
        self._file = _open(source) if isinstance(source, Path) else source
        self._own = self._file if isinstance(source, Path) else None
        self.damaged = False
        self._rest: list[Samples] = []
        self._rest_count = 0
        try:
            self._container, self._stream = _container(self._file)
            self.duration_s = _duration_s(self._container, self._stream)
            self._blocks = self._decoded()
        except BaseException:
            self.close()
            raise

    def read(self, count: int) -> Samples:
        """The next `count` samples (signed 16 bits); fewer only at the end."""
        try:
            while (
                self._rest_count < count
                and not self.is_left()
                and (block := next(self._blocks, None)) is not None
            ):
                self._rest.append(block)
                self._rest_count += len(block)
        except (av.FFmpegError, ValueError, MemoryError):  # hundreds of channels, for one
            raise _unusable("The sound in the file is of a kind that cannot be converted.") from None
        except OSError as error:
            raise _unusable(f"The file cannot be read to its end: {error.strerror}.") from None
        whole = np.concatenate(self._rest) if self._rest else np.empty(0, np.int16)
        taken, rest = whole[:count], whole[count:]
        self._rest, self._rest_count = [rest.copy()], len(rest)
        return taken

    def skip(self, count: int) -> int:
        """Leave out `count` samples; return how many there were.

        They are decoded all the same: not all formats seek exactly.
        """
        skipped = 0
        while skipped < count and len(taken := self.read(min(count - skipped, 10 * RATE_HZ))):
            skipped += len(taken)
        return skipped

    def close(self) -> None:
        with suppress(AttributeError):
            self._container.close()
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decoded(self) -> Iterator[Samples]:
        resampler = fifo = shape = None
        for frame in self._frames():
            if not _LEAST_HZ <= frame.sample_rate <= _MOST_HZ:
                self._damage()
                continue
            if (now := (frame.format.name, frame.layout.name, frame.sample_rate)) != shape:
                yield from _flushed(resampler, fifo)
                resampler, fifo, shape = _resampler(), av.AudioFifo(), now
            assert fifo is not None
            frame.pts = None  # else a gap in the times would be an error
            fifo.write(frame)
            if fifo.samples >= _GROUP:
                yield from _resampled(resampler, fifo.read())
        yield from _flushed(resampler, fifo)

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
            except (av.FFmpegError, ValueError):
                self._damage()
                return
            try:
                yield from packet.decode()
            except (av.FFmpegError, ValueError):
                self._damage()

    def _damage(self) -> None:
        if not self.damaged:
            log.warning("A part of the audio is damaged and is left out")
        self.damaged = True


def _open(path: Path) -> BinaryIO:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unusable(f"The file cannot be read: {getattr(error, 'strerror', error)}.") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _unusable("This is not a regular file.")
    return os.fdopen(number, "rb", buffering=0)


class _Bytes:
    """A file without its name, from which FFmpeg would guess at the format."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _container(file: BinaryIO) -> tuple[Any, Any]:
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    try:
        if file.seek(0, os.SEEK_END) == 0:
            raise _unusable("The file is empty.", "empty_file")
        file.seek(0)
        container = av.open(
            _Bytes(file),
            mode="r",
            container_options=options,
            metadata_errors="ignore",
            buffer_size=_BUFFER_BYTES,
        )
    except (av.FFmpegError, ValueError, MemoryError, OSError):
        raise _unusable("The file is not audio or video that can be read, or it is incomplete.") from None
    if not container.streams.audio:
        container.close()
        raise _unusable("The file has no sound: there is no audio track in it.", "no_audio_track")
    return container, container.streams.audio[0]


def _duration_s(container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return max(0.0, round(float(stream.duration * stream.time_base), 2))
    return None if container.duration is None else max(0.0, round(container.duration / 1_000_000, 2))


def _resampler() -> Any:
    return av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)


def _flushed(resampler: Any, fifo: Any) -> Iterator[Samples]:
    if fifo is not None:
        if fifo.samples:
            yield from _resampled(resampler, fifo.read())
        yield from _resampled(resampler, None)


def _resampled(resampler: Any, frame: Any) -> Iterator[Samples]:
    for made in resampler.resample(frame):
        yield made.to_ndarray().reshape(-1).copy()


def _unusable(message: str, code: str = "invalid_audio") -> Refusal:
    return Refusal(400, message, code, param="file")
