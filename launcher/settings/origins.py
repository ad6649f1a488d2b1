"""Where a value came from: the file or variable of a dotted key, and the line in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

DEFAULTS = "defaults"
Lines = Mapping[str, Mapping[str, int]]


def origin(key: str, origins: Mapping[str, str]) -> str:
    """The file or variable that `key` came from; the nearest parent's where the key itself was left out."""
    return next((origins[at] for at in _upward(key) if at in origins), DEFAULTS)


def where(key: str, origins: Mapping[str, str], lines: Lines) -> str:
    """`origin` with the line, as a sentence begins: `/etc/launcher/site.yml, line 12`."""
    file = origin(key, origins)
    found = lines.get(file, {})
    line = next((found[at] for at in _upward(key) if at in found), None)
    return file if line is None else f"{file}, line {line}"


def _upward(key: str) -> Iterator[str]:
    # block.list[2] stands in block.list, and that in block.
    while key:
        yield key
        key = key.rpartition("[" if key.endswith("]") else ".")[0]
