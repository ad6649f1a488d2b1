"""What is known of a model becomes engine arguments, where neither user nor catalog gave their own."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.engines import engine as engine_called
from launcher.errors import RequestError
from launcher.models.fit.options import given
from launcher.models.known import engine_args, known

# One answers for the other: who names a parser, or none, has decided about tools.
_TOGETHER = (("--enable-auto-tool-choice", "--tool-call-parser"),)


def advised(model: str, arguments: Sequence[str], *, allow_remote_code: bool) -> tuple[str, ...]:
    """The known model's parsers and what its files need, less what `arguments` already say."""
    about = known(model)
    if about is None:
        return ()
    found: list[str] = []
    for option in _options(engine_args(about)):
        names = next((pair for pair in _TOGETHER if option[0] in pair), (option[0],))
        if any(given(arguments, name) for name in names):
            continue
        try:
            engine_called("vllm").check_args(tuple(option), allow_remote_code=allow_remote_code)
        except RequestError:  # code of the model's own, which this site does not run
            continue
        found += option
    return tuple(found)


def _options(arguments: Sequence[str]) -> list[list[str]]:
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not options:
            options.append([argument])
        else:
            options[-1].append(argument)
    return options
