"""Files in, transcripts out: which files, with which session, how far each one is.

`transcribe` is the door for Python and for `launcher transcribe`; `prepare` is the same without beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.transcripts.asked import FORMATS, USUAL, Asked
from launcher.transcripts.report import Interrupted, Progress, Report, Result

if TYPE_CHECKING:
    from launcher.api import Launcher
    from launcher.sessions.status import Status
    from launcher.transcripts.work import Work

__all__ = [
    "FORMATS",
    "USUAL",
    "Asked",
    "Interrupted",
    "Progress",
    "Report",
    "Result",
    "prepare",
    "transcribe",
]


def transcribe(*paths: str | Path, **wanted: Any) -> Report:
    """Transcribe files, folders and patterns; takes what `prepare` takes and returns when all is done.

    Raises LauncherError for what is wrong before anything begins, and Interrupted after Ctrl-C. What goes wrong later
    is in the report; the same call goes on from there.
    """
    return prepare(*paths, **wanted).run()


def prepare(
    *paths: str | Path,
    output_dir: str | Path | None = None,
    formats: str | Sequence[str] = USUAL,
    model: str | None = None,
    session: str | None = None,
    language: str | None = None,
    translate: bool = False,
    words: bool = False,
    prompt: str | None = None,
    hotwords: str | None = None,
    overwrite: bool = False,
    keep: bool = False,
    launcher: Launcher | None = None,
    tell: Callable[[str], None] | None = None,
    show: Callable[[Progress], None] | None = None,
    starting: Callable[[Status], None] | None = None,
    **launch: Any,
) -> Work:
    """What there is to do for these paths; `run` does it.

    The transcripts lie beside the recordings, or in `output_dir` in the same tree. `session` (an id) is used, else one
    of mine that runs with `model`, else one is started (`launch` are options of Launcher.launch) and stopped at the
    end unless `keep`. `tell` gets a sentence now and then, `show` how far it is five times a second, `starting` each
    status of a session that starts. Raises RequestError for what cannot be; nothing is written yet.
    """
    from launcher.api import Launcher
    from launcher.errors import RequestError
    from launcher.transcripts.asked import formats as checked_formats
    from launcher.transcripts.asked import language as checked_language
    from launcher.transcripts.carrier import Carrier
    from launcher.transcripts.recordings import find
    from launcher.transcripts.standing import standings
    from launcher.transcripts.work import Work

    asked = Asked(checked_language(language), translate, words, prompt or None, hotwords or None)
    endings = checked_formats(formats if isinstance(formats, str) else tuple(formats))
    if session is not None and (given := sorted(name for name, value in launch.items() if value is not None)):
        raise RequestError(
            f"A session that runs already takes no --{given[0].replace('_', '-')}.",
            "Leave out that, or --session.",
        )
    found = find([str(path) for path in paths], None if output_dir is None else Path(output_dir))
    here = launcher or Launcher()
    model_id = _model_id(model, here)
    said = tell or (lambda sentence: None)
    return Work(
        found,
        standings(found.recordings, asked, model_id, endings, overwrite=overwrite),
        asked,
        model=model_id,
        overwrite=overwrite,
        carrier=lambda: Carrier(
            here, model=model, session=session, wanted=launch, keep=keep, tell=said, starting=starting
        ),
        tell=said,
        show=show,
    )


def _model_id(model: str | None, launcher: Launcher) -> str | None:
    """What the model is called in a plan, without making one; None for any."""
    if model is None:
        return None
    from launcher.errors import LauncherError
    from launcher.models.resolve import resolve

    try:
        return resolve(model, launcher.settings).id
    except LauncherError:
        return model  # what is finished is finished, though the model is gone
