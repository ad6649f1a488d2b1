"""A cluster's lines in the user's settings file: written or changed in place, everything else left as it stands.

Owns the edit of the text: what a person wrote, comments and order, is kept; a file that would be wrong afterwards is
put back.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from launcher.errors import SettingsError, StorageError
from launcher.settings.layers import mistakes
from launcher.settings.sources import user_file, usual_user_file

_PLAIN = re.compile(r"[A-Za-z~/][A-Za-z0-9_./@~-]*")
_NO_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"}


def write_entry(name: str, values: Mapping[str, str]) -> Path:
    """Set `clusters.NAME` to have these values, in the user's own file; the file.

    Raises SettingsError where the site keeps clusters to itself or the file has a form that cannot be edited, and
    StorageError where it cannot be written; the file is then as it was.
    """
    file = user_file(os.environ) or usual_user_file(os.environ)
    try:
        before = file.read_text("utf-8") if file.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{file} cannot be read: {error}.", "Check its permissions.") from error
    wrong_before = {error.message for error in mistakes()}
    text = with_entry(before or "", name, values, str(file))
    if text == before:
        return file
    _replace(file, text)
    found = [error for error in mistakes() if error.message not in wrong_before]
    if found:
        if before is None:
            file.unlink()
        else:
            _replace(file, before)
        raise SettingsError(
            f"Cluster {name} cannot be written into {file}: {found[0].message.removesuffix('.')}.",
            found[0].hint,
        )
    return file


def with_entry(text: str, name: str, values: Mapping[str, str], source: str) -> str:
    """`text`, the settings in YAML, with `clusters.NAME` having these values."""
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SettingsError(f"{source} is not YAML.", "See: launcher config check") from error
    entry = [f"{name}:", *(f"  {key}: {_scalar(value)}" for key, value in values.items())]
    if top is None:
        return _appended(text, ["clusters:", *(f"  {line}" for line in entry)])
    if not isinstance(top, yaml.MappingNode) or top.flow_style:
        raise _by_hand(source, entry)
    clusters = _value(top, "clusters")
    if clusters is None:
        return _appended(text, ["clusters:", *(f"  {line}" for line in entry)])
    key, block = clusters
    if isinstance(block, yaml.ScalarNode) and block.value in ("", "~", "null"):
        if block.value:
            raise _by_hand(source, entry)
        return _inserted(text.splitlines(), key.start_mark.line + 1, [f"  {line}" for line in entry])
    if not isinstance(block, yaml.MappingNode) or block.flow_style or not block.value:
        raise _by_hand(source, entry)
    indent = " " * block.value[0][0].start_mark.column
    own = _value(block, name)
    if own is None:
        return _inserted(text.splitlines(), key.start_mark.line + 1, [f"{indent}{line}" for line in entry])
    return _changed(text, own, values, source, entry, indent)


def _changed(
    text: str,
    own: tuple[yaml.Node, yaml.Node],
    values: Mapping[str, str],
    source: str,
    entry: list[str],
    indent: str,
) -> str:
    key, block = own
    if isinstance(block, yaml.ScalarNode) and block.value == "":
        return _inserted(
            text.splitlines(), key.start_mark.line + 1, [f"{indent}{line}" for line in entry[1:]]
        )
    if not isinstance(block, yaml.MappingNode) or block.flow_style or not block.value:
        raise _by_hand(source, entry)
    below = " " * block.value[0][0].start_mark.column
    missing = []
    changes = []
    for name, value in values.items():
        found = _value(block, name)
        if found is None:
            missing.append(f"{below}{name}: {_scalar(value)}")
        elif not isinstance(found[1], yaml.ScalarNode):
            raise _by_hand(source, entry)
        elif found[1].value != value:
            changes.append((found[1].start_mark.index, found[1].end_mark.index, _scalar(value), found[0]))
    for start, end, value, named in sorted(changes, key=lambda change: change[0], reverse=True):
        gap = " " if start == named.end_mark.index + 1 else ""  # `ssh:` with nothing behind it
        text = f"{text[:start]}{gap}{value}{text[end:]}"
    if missing:
        return _inserted(text.splitlines(), key.start_mark.line + 1, missing)
    return text


def _value(node: yaml.MappingNode, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((key, value) for key, value in node.value if key.value == name), None)


def _appended(text: str, lines: list[str]) -> str:
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + "\n".join(lines) + "\n"


def _inserted(lines: list[str], at: int, new: list[str]) -> str:
    return "\n".join([*lines[:at], *new, *lines[at:]]) + "\n"


def _scalar(value: str) -> str:
    return value if _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT else json.dumps(value)


def _by_hand(source: str, entry: list[str]) -> SettingsError:
    pasted = "; ".join(line.strip() for line in entry)
    return SettingsError(
        f"{source} is written in a form that is not changed here.", f"Add below clusters: {pasted}"
    )


def _replace(file: Path, text: str) -> None:
    # Through a link to where a user really keeps it.
    target = Path(os.path.realpath(file))
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as made:
            made.write(text)
        beside.replace(target)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror}.", "Check its permissions."
        ) from error
