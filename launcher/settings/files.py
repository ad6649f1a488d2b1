"""YAML as people mean it, with the line of every key, and one plain sentence where it is not YAML.

Differences from PyYAML: 24:00:00 and 2026-01-31 are texts and no numbers or dates; keys are always texts (`no:` is
"no"); no key stands twice in a block; anchors work, but not inside themselves, nor to make a small file a huge one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import SettingsError
from launcher.settings.trouble import Refused, plainly

_BYTES_MAX = 2**20
_VALUES_MAX = 200_000
_DEPTH_MAX = 20
_DIGITS_MAX = 30
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_TAGS = re.compile(r"tag:yaml\.org,2002:(?:str|int|float|bool|null|map|seq)")
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Written:
    """What a file says: its data, the line of each dotted key (`block.key`, `block.list[0]`), keys that stand twice.

    `twice` holds the dotted key, its line and the line where it stood first.
    """

    data: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    twice: list[tuple[str, int, int]] = field(default_factory=list)


class _Loader(_Base):  # type: ignore[misc] # PyYAML chooses at run time which loader it has
    pass


# YAML 1.1 reads 24:00:00 as a number to the base 60 and 2026-01-31 as a date; YAML 1.2 and people do not.
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in found
        if tag.rpartition(":")[2] not in ("int", "float", "timestamp", "value")
    ]
    for first, found in _Base.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?([0-9][0-9_]*)?\.[0-9_]+([eE][-+]?[0-9]+)?$|[-+]?[0-9]+[eE][-+]?[0-9]+$|[-+]?\.(inf|Inf)$|\.(nan|NaN)$"
    ),
    list("-+.0123456789"),
)


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Any]:
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read(path: Path) -> Written:
    """What the file `path` says; raises SettingsError naming it, and the line where there is one."""
    try:
        with path.open("rb") as file:
            raw = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}.", "Check the path and its permissions.") from error
    except ValueError as error:  # NUL in the path
        raise SettingsError("The path of the settings cannot be one.", "Give a plain path.") from error
    if len(raw) > _BYTES_MAX:
        raise SettingsError(
            f"{path} is larger than 1 MiB.", "Settings are a short file; is it the right one?"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}, line {line}: this is not text in UTF-8.", "Write it again as plain text."
        ) from error
    return parse(text, str(path))


def read_checked(path: Path) -> Written:
    """What the file `path` says, as `read`; raises SettingsError also where a key stands twice."""
    written = read(path)
    for key, line, first in written.twice:
        raise SettingsError(f"{path}, line {line}: {key} stands twice, first in line {first}.", "Keep one.")
    return written


def parse(text: str, origin: str) -> Written:
    """What `text` says; raises SettingsError that names `origin` and the line."""
    written = Written()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _Walk(loader, written).take(node, "")
            written.data = loader.construct_document(node)
    except yaml.YAMLError as error:
        line, problem, hint = plainly(error, text)
        raise SettingsError(f"{origin}{f', line {line}' if line else ''}: {problem}.", hint) from error
    except (ValueError, RecursionError) as error:  # half a character in a variable, a thousand brackets
        raise SettingsError(
            f"{origin}: it holds what cannot be read.", "Write it again as plain text."
        ) from error
    return written


class _Walk:
    # Before the data is made: where each key stands, and what must not be made at all.
    def __init__(self, loader: Any, written: Written) -> None:
        self._loader = loader
        self._written = written
        self._values = 0
        self._above: list[yaml.Node] = []

    def take(self, node: yaml.Node, at: str) -> None:
        self._values += 1
        if not _TAGS.fullmatch(node.tag):
            shown = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise Refused(f"the tag {shown} means nothing here", f"Take {shown} away.", node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node)
            return
        if any(node is above for above in self._above):
            raise Refused("an anchor is used inside itself", "Write out what it stands for.", node.start_mark)
        if len(self._above) > _DEPTH_MAX or self._values > _VALUES_MAX:
            raise Refused(
                "blocks stand too deep in each other, or are too many", "Make them fewer.", node.start_mark
            )
        self._above.append(node)
        if isinstance(node, yaml.MappingNode):
            for line, child, value in self._keys(node, at):
                self._written.lines[child] = line
                self.take(value, child)
        else:
            for place, item in enumerate(node.value):
                self._written.lines[f"{at}[{place}]"] = item.start_mark.line + 1
                self.take(item, f"{at}[{place}]")
        self._above.pop()

    def _scalar(self, node: yaml.ScalarNode) -> None:
        if _CONTROL.search(node.value):
            raise Refused("a text holds a control character", "Write the line again.", node.start_mark)
        if len(node.value) > _DIGITS_MAX and node.tag.endswith((":int", ":float")):
            raise Refused(
                "a number has too many digits",
                "Write a smaller one, or put a text in quotes.",
                node.start_mark,
            )

    def _keys(self, node: yaml.MappingNode, at: str) -> Iterator[tuple[int, str, yaml.Node]]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise Refused(
                    "a key must be a plain word",
                    "Put a text that begins with { or [ in quotes.",
                    key.start_mark,
                )
            if key.value in first:
                self._written.twice.append((f"{at}.{key.value}".lstrip("."), line, first[key.value]))
            first.setdefault(key.value, line)
        self._loader.flatten_mapping(node)  # `<<: *anchor` becomes the keys that it stands for
        for key, value in node.value:
            yield key.start_mark.line + 1, f"{at}.{key.value}" if at else key.value, value


def read_yaml(text: str) -> Any:
    """The data in `text`, a file of this project."""
    return parse(text, "the packaged file").data
