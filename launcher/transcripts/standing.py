"""How each recording stands before anything runs: finished, begun, new, or not to be touched; and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.transcripts import ledger
from launcher.transcripts.asked import Asked
from launcher.transcripts.journal import Source, glance
from launcher.transcripts.recordings import FOREIGN, Recording, is_foreign_link

FINISHED, BEGUN, NEW, BROKEN = "finished", "begun", "new", "broken"


@dataclass(frozen=True, slots=True)
class Standing:
    """`recording` and what is to be written of it (`formats`, none where it is finished or broken).

    `why` is a sentence where there is something to say: it is done again, or left alone. `done_s` of `duration_s` are
    in its journal. `facts` and `outputs` are of what is there already. `whole` is a transcript of ours from which the
    formats that are left can be made.
    """

    recording: Recording
    state: str
    formats: tuple[str, ...] = ()
    why: str = ""
    done_s: float = 0.0
    duration_s: float | None = None
    size: int = 0
    facts: ledger.Facts | None = None
    outputs: tuple[Path, ...] = ()
    whole: ledger.Entry | None = None


def standings(
    recordings: Sequence[Recording],
    asked: Asked,
    model: str | None,
    formats: Sequence[str],
    *,
    overwrite: bool = False,
) -> list[Standing]:
    """How each of `recordings` stands, given what is asked; `model` None: any will do. Writes nothing."""
    folders = {folder: ledger.read(folder) for folder in {recording.folder for recording in recordings}}
    return [
        standing(recording, folders[recording.folder], asked, model, formats, overwrite=overwrite)
        for recording in recordings
    ]


def standing(
    recording: Recording,
    kept: Mapping[str, ledger.Kept],
    asked: Asked,
    model: str | None,
    formats: Sequence[str],
    *,
    overwrite: bool = False,
) -> Standing:
    """How one recording stands, given the ledger of its folder."""
    try:
        source = Source.of(recording.source)
        if not os.access(recording.source, os.R_OK):
            return Standing(recording, BROKEN, why="You may not read it.")
    except FileNotFoundError:
        gone = "It is a link to something that is gone." if recording.source.is_symlink() else "It is gone."
        return Standing(recording, BROKEN, why=gone)
    except OSError as error:
        return Standing(recording, BROKEN, why=f"It cannot be read: {error.strerror}.")
    if is_foreign_link(os.fspath(recording.source)):  # asked again: it may be one since it was found
        return Standing(recording, BROKEN, why=FOREIGN)
    known = kept.get(recording.name, ledger.Kept())
    if (other := _foreign(known, recording)) is not None:
        return Standing(
            recording,
            BROKEN,
            why=f"Its transcripts would replace those of {other}: use another --output-dir.",
        )
    recording = _named_before(recording, known)
    left, why = _left(recording, known, source, asked, model, formats)
    if overwrite:
        left, why = list(formats), ""
    content = glance(recording.journal)
    here = tuple(path for path in (recording.output(ending) for ending in formats) if os.path.lexists(path))
    facts = known.latest.facts if known.latest else None
    if not left:
        return Standing(recording, FINISHED, (), why, size=source.size, facts=facts, outputs=here)
    duration_s = next((p.duration_s for p in content.pieces if p.duration_s is not None), None)
    begun = content.header is not None and content.header.source.same(source)
    whole = None if overwrite or known.again else _whole(recording, known, source, asked, model)
    return Standing(
        recording, BEGUN if begun else NEW, tuple(left), why, content.done_s if begun else 0.0, duration_s,
        source.size, whole=None if "json" in left else whole,
    )  # fmt: skip


def _left(
    recording: Recording,
    known: ledger.Kept,
    source: Source,
    asked: Asked,
    model: str | None,
    formats: Iterable[str],
) -> tuple[list[str], str]:
    """The formats that are to be written, and a sentence where there is something to say."""
    left, protected, reasons = [], [], []
    for ending in formats:
        path, entry = recording.output(ending), known.entries.get(ending)
        if not os.path.lexists(path):
            left.append(ending)
            continue
        ours = entry is not None and entry.outputs[ending].name == path.name
        if known.again:
            left.append(ending)
        elif entry is None or not ours:
            protected.append(f"{path.name} is there and was not made here")
        elif reason := _stale(entry, source, asked, model):
            if entry.outputs[ending].untouched(recording.folder):
                left.append(ending)
                reasons.append(reason)
            else:
                protected.append(f"{reason}, but {path.name} was edited")
    if protected:
        return [
            e for e in left if not recording.output(e).exists()
        ], f"{_sentence(protected[0])} --overwrite replaces it."
    if reasons:
        return left, _sentence(f"{reasons[0]} since its transcript was made: it is done again")
    return left, ""


def _stale(entry: ledger.Entry, source: Source, asked: Asked, model: str | None) -> str | None:
    if not entry.source.same(source):
        return "the file has changed"
    if entry.asked != asked or (model is not None and entry.made_by.get("model") != model):
        return "the options have changed"
    return None


def _whole(
    recording: Recording, known: ledger.Kept, source: Source, asked: Asked, model: str | None
) -> ledger.Entry | None:
    """The entry of a .json of ours that is as good as new, and so can become any other format."""
    entry = known.entries.get("json")
    if entry is None or _stale(entry, source, asked, model):
        return None
    output = entry.outputs["json"]
    same = output.name == recording.output("json").name and output.untouched(recording.folder)
    return entry if same else None


def _named_before(recording: Recording, known: ledger.Kept) -> Recording:
    """`recording` with the names that its transcripts have already, though another lies beside it since then."""
    for ending, entry in known.entries.items():
        stem = entry.outputs[ending].name.removesuffix(f".{ending}")
        if stem in (recording.name, os.path.splitext(recording.name)[0]) and stem != recording.stem:
            before = replace(recording, stem=stem)
            if os.path.lexists(before.output(ending)):
                return before
    return recording


def _foreign(known: ledger.Kept, recording: Recording) -> str | None:
    """Another file of this name that is still there and whose transcripts these are."""
    latest = known.latest
    if latest is None or latest.source.path == str(recording.source):
        return None
    try:
        same = os.path.samefile(latest.source.path, recording.source)
    except OSError:
        return None  # it was moved
    return None if same else latest.source.path


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text.startswith("the ") else f"{text}."
