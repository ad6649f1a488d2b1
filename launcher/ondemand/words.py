"""What an error advises, in the words of the form: its reader has fields, not options of a command."""

from __future__ import annotations

import re

_FIELDS = (
    (re.compile(r"--max-model-len (\d+)"), r'"Context length" \1'),
    (re.compile(r"--gpus (\d+)"), r'"GPUs" \1'),
    (re.compile(r" \((?:--memory-gb [\d.]+|as MODEL)\)"), ""),
    (re.compile(r"Choose another profile, or launch with --nodes 1\."), "Choose other hardware."),
    (
        re.compile(r"switch the fit check off \(--no-fit-check\)"),
        'tick "Start it even if it does not seem to fit"',
    ),
    (re.compile(r"Name it: --account NAME"), 'Name it under "Account"'),
    # The last: what is left in parentheses is the engine's.
    (re.compile(r"\((?:-- )?(--[^)]+)\)"), r'("Engine arguments" \1)'),
)


def in_the_forms_words(hint: str | None) -> str | None:
    """The advice of an error with the form's fields in place of the command's options."""
    for option, field in _FIELDS:
        hint = option.sub(field, hint) if hint else hint
    return hint
