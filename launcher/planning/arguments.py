"""Which arguments the engine gets: the catalog's, then the user's, each looked at."""

from __future__ import annotations

import dataclasses

from launcher.engines import engine as engine_called
from launcher.errors import RequestError
from launcher.models.fit.options import check_options, given
from launcher.models.resolve import ResolvedModel
from launcher.planning.request import Request
from launcher.settings.schema import Settings

_CONTEXT_MAX = 1_000_000_000


def arguments_of(
    request: Request, model: ResolvedModel, engine_name: str, settings: Settings
) -> tuple[str, ...]:
    """The engine's arguments, the catalog's before the user's; raises RequestError for one that is not allowed."""
    if request.engine_args and not settings.allow.engine_args:
        raise RequestError("This site does not allow further engine arguments.", "Leave them out.")
    for argument in request.engine_args:
        if not argument.isprintable() or len(argument) > 10_000:
            raise RequestError(
                f"The engine argument {argument[:40]!r} holds a character that cannot be shown, or is too long.",
                "Write each argument on one line.",
            )
    preset = model.entry.engine_args if model.entry else ()
    if model.entry and settings.from_user(f"catalog.{model.entry.name}.engine_args"):
        request = dataclasses.replace(request, engine_args=(*preset, *request.engine_args))
        preset = ()  # the user's own entry: what is in it is asked for like the rest
        if not settings.allow.engine_args:
            raise RequestError("This site does not allow further engine arguments.", "Leave them out.")
    length = _context(request, engine_name)
    own = ("--trust-remote-code",) if request.trust_remote_code and engine_name == "vllm" else ()
    if own and not settings.allow.trust_remote_code:
        raise RequestError("This site does not run code that comes with a model.", "Choose another model.")
    engine = engine_called(engine_name)
    engine.check_args(request.engine_args, allow_remote_code=settings.allow.trust_remote_code)
    found = (*preset, *own, *request.engine_args, *length)
    if engine_name == "vllm":
        check_options(found)
    return found


def _context(request: Request, engine_name: str) -> tuple[str, ...]:
    if request.max_model_len is None:
        return ()
    if request.max_model_len >= _CONTEXT_MAX:
        raise RequestError("The context that was asked for is too large.", "Ask for fewer tokens.")
    if request.max_model_len < 1:
        raise RequestError(
            f"The context must be at least 1 token, not {max(request.max_model_len, -_CONTEXT_MAX)}.",
            "Ask for 4096 or more.",
        )
    if engine_name == "whisper":
        raise RequestError(
            "A Whisper session has no context length: recordings may be of any length.", "Leave it out."
        )
    if engine_name == "vllm" and given(request.engine_args, "--max-model-len"):
        raise RequestError(
            f"The context is given twice: {request.max_model_len} tokens, and once more as an engine argument.",
            "Leave one of them out.",
        )
    return ("--max-model-len", str(request.max_model_len)) if engine_name == "vllm" else ()
