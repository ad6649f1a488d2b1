"""Which files are meant by the paths, folders and patterns that a user names, and what their transcripts are called.

Looks at names only; what is in a file is the session's business. Nothing is opened and nothing is written here.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.errors import RequestError
from launcher.transcripts.asked import FORMATS

# What is taken from a folder. Not `ts`, which is TypeScript far more often than a transport stream.
_AUDIO = "aac ac3 aif aifc aiff amr ape au caf dts flac m4a m4b mka mp2 mp3 oga ogg opus ra spx tta voc w64 wav wma wv"
_VIDEO = "3g2 3gp asf avi f4v flv m2ts m4v mkv mov mp4 mpeg mpg mpga mts mxf ogv rm vob weba webm wmv"
ENDINGS = frozenset(f"{_AUDIO} {_VIDEO}".split())
# `launcher transcribe talks/*` the second time also names what the first time made.
_MADE = frozenset((*FORMATS, "jsonl"))
_NAME_MAX_BYTES = 255  # of every file system that a cluster has
_LONGEST_ENDING = len(".json")
FOREIGN = "It is another user's link to what is not theirs, and was not followed. Name the file itself."


@dataclass(frozen=True, slots=True)
class Recording:
    """One file to transcribe: `source` (absolute); its transcripts are `folder` / `stem` and an ending.

    `shown` is the path as the user would write it. `stem` is the name without its ending, or the whole name where
    another recording beside it differs in the ending only.
    """

    source: Path
    folder: Path
    stem: str
    shown: str

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def journal(self) -> Path:
        return self.folder / _hidden(self.name, ".launcher.jsonl")

    @property
    def part(self) -> Path:
        """What a transcript is called until it is whole."""
        return self.folder / _hidden(self.name, ".launcher.part")

    def output(self, ending: str) -> Path:
        return self.folder / f"{self.stem}.{ending}"


@dataclass(frozen=True, slots=True)
class Found:
    """The recordings, in the order named; `troubles` are paths that cannot be one, each with a sentence.

    `passed_over` counts the files that were named one by one, but are transcripts by their ending.
    """

    recordings: tuple[Recording, ...]
    troubles: tuple[tuple[str, str], ...]
    passed_over: int


def find(paths: Sequence[str], output_dir: Path | None = None) -> Found:
    """The recordings that `paths` mean: files, folders with what is below them, and patterns such as `talks/**/*.mp3`.

    Below `output_dir` the tree is as below each folder named; without it transcripts lie beside their recordings.
    Raises RequestError for a path that is not there and where two recordings would have the same transcripts.
    """
    top = None if output_dir is None else Path(os.path.abspath(output_dir))
    recordings: dict[Path, Recording] = {}
    troubles: dict[str, str] = {}
    made: set[str] = set()
    for path in paths:
        for file, base in _named(path, troubles):
            source = Path(os.path.abspath(file))
            if base is None and _ending(source.name) in _MADE:
                made.add(file)
                continue
            folder = source.parent
            if top is not None:
                folder = top / os.path.dirname(os.path.relpath(file, base)) if base is not None else top
                if any(is_foreign_link(step) for step in _steps(str(folder), str(top))):
                    troubles[file] = (
                        "Below --output-dir its folder is another user's link, and was not followed."
                    )
                    continue
            found = Recording(source, folder, _short(_stem(source.name)), file)
            recordings.setdefault(source, found)
    return Found(tuple(_told_apart(recordings.values())), tuple(troubles.items()), len(made))


def _named(path: str, troubles: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    """The files that one `path` means, each with the folder that its place in the tree is counted from."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        yield from _matching(path, troubles)
        return
    except OSError as error:
        raise RequestError(f"{_cut(path)} cannot be read: {error.strerror}.", "Check the path.") from None
    except ValueError:
        raise RequestError(f"{_cut(path)!r} is not a path.", "Give a file, a folder or a pattern.") from None
    if stat.S_ISDIR(mode):
        yield from ((file, path) for file in _below(path, troubles))
    elif is_foreign_link(path):
        troubles[path] = FOREIGN
    elif stat.S_ISREG(mode):
        yield path, None
    else:
        troubles[path] = "It is neither a file nor a folder."


def _matching(pattern: str, troubles: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    if not glob.has_magic(pattern):
        link = " It is a link to something that is gone." if os.path.islink(pattern) else ""
        raise RequestError(f"There is no file or folder {_cut(pattern)}.{link}", "Check the path.")
    base = os.path.dirname(pattern)
    while glob.has_magic(base):
        base = os.path.dirname(base)
    found = False
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isdir(path):
            # `talks/**` names every folder below too: what lies in them is matched by itself.
            below = [] if "**" in pattern else _below(path, troubles)
        else:
            below = [path] if _ending(path) in ENDINGS and _is_file(path) else []
        for file in below:
            found = True
            if any(is_foreign_link(step) for step in _steps(file, base)):
                troubles[file] = FOREIGN
            else:
                yield file, base or os.curdir
    if not found:
        raise RequestError(f"{_cut(pattern)} matches no recording.", "Check the pattern.")


def _below(folder: str, troubles: dict[str, str]) -> Iterator[str]:
    """The recordings below `folder`, hidden ones left out; each folder is read once, though links lead in circles."""
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            troubles[str(error.filename)] = f"The folder cannot be read: {error.strerror}."

    for here, folders, files in os.walk(folder, followlinks=True, onerror=note):
        try:
            status = os.stat(here)
        except OSError:
            folders.clear()
            continue
        if (key := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(key)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        sounds = sorted(name for name in files if not name.startswith(".") and _ending(name) in ENDINGS)
        foreign = {name for name in (*folders, *sounds) if is_foreign_link(os.path.join(here, name))}
        troubles |= {os.path.join(here, name): FOREIGN for name in sorted(foreign)}
        folders[:] = [name for name in folders if name not in foreign]
        for path in (os.path.join(here, name) for name in sounds if name not in foreign):
            if _is_file(path):
                yield path


def is_foreign_link(path: str) -> bool:
    """Whether somebody else made `path` a link to what is not theirs: perhaps to what they may not read, but we may.

    Its transcript would lie beside the link, for them to read.
    """
    try:
        link = os.lstat(path)
        return stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), 0, os.stat(path).st_uid)
    except OSError:
        return False


def _steps(path: str, base: str) -> Iterator[str]:
    """`path` and the folders above it, up to `base`."""
    while path and path.rstrip("/") != base.rstrip("/"):
        yield path
        path = os.path.dirname(path) if os.path.dirname(path) != path else ""


def _is_file(path: str) -> bool:
    # A broken link is passed to the user's eye as a trouble later; a FIFO of this name is nobody's recording.
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return os.path.islink(path)


def _told_apart(recordings: Iterable[Recording]) -> Iterator[Recording]:
    """The recordings with stems that no other has; raises RequestError where that cannot be."""
    listed = list(recordings)
    neighbours: dict[Path, Counter[str]] = {}
    for folder in {recording.source.parent for recording in listed}:
        try:
            names = [name for name in os.listdir(folder) if _ending(name) in ENDINGS]
        except OSError:
            names = []
        neighbours[folder] = Counter(_stem(name) for name in names)
    wanted = Counter((recording.folder, recording.stem) for recording in listed)
    taken: dict[tuple[Path, str], Recording] = {}
    for recording in listed:
        # What lies beside it counts although it was not named: else the names would depend on the command.
        alone = neighbours[recording.source.parent][_stem(recording.name)] <= 1
        if not alone or wanted[recording.folder, recording.stem] > 1:
            recording = replace(recording, stem=_short(recording.name))
        other = taken.setdefault((recording.folder, recording.stem), recording)
        if other is not recording:
            raise RequestError(
                f"{_cut(other.shown)} and {_cut(recording.shown)} would both be {_cut(str(recording.output('srt')))}.",
                "Name the folder above both, or run them with different --output-dir.",
            )
        yield recording


def _ending(name: str) -> str:
    return os.path.splitext(name)[1][1:].lower()


def _stem(name: str) -> str:
    stem, ending = os.path.splitext(name)
    # `Prof. Smith` has no ending that says what it is.
    return stem if ending[1:].lower() in ENDINGS else name


def _short(stem: str) -> str:
    """`stem`, cut where a transcript's name would be longer than a file system takes."""
    return _fitting(stem, _NAME_MAX_BYTES - _LONGEST_ENDING)


def _hidden(name: str, ending: str) -> str:
    return f".{_fitting(name, _NAME_MAX_BYTES - 1 - len(ending))}{ending}"


def _fitting(text: str, most: int) -> str:
    raw = os.fsencode(text)
    if len(raw) <= most:
        return text
    kept = raw[: most - 9].decode(errors="ignore")  # never half a character
    return f"{kept}~{hashlib.sha256(raw).hexdigest()[:8]}"


def _cut(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:90]}…{path[-90:]}"
