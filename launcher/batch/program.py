"""The program that carries one batch of a gateway: `python -m launcher.batch.program FOLDER`, started by `runner`.

Its input says where to and with which key, in one line of JSON, and stays open as long as the gateway lives: its end
means that nobody is there any more. Its only output is how it ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from launcher.batch.batches import COMPLETED, EXPIRED, FAILED, Place
from launcher.batch.report import COMPLETED as ALL_DONE
from launcher.batch.report import RUNNING
from launcher.batch.run import Run
from launcher.batch.work import Work
from launcher.errors import LauncherError, RequestError

_DRAIN_S = 540.0  # what is in flight when a batch is cancelled may end
_ALONE_S = 1.0  # but not where the gateway is gone
_FAULTS_SHOWN = 100
_LATE = "This request could not be executed before the completion window expired."


def main(argv: list[str]) -> int:
    """Run the batch in the folder named first; how it ended goes to the standard output."""
    place = Place(Path(argv[0]))
    said = json.loads(sys.stdin.buffer.readline())
    try:
        ended = asyncio.run(_carried(place, said))
    except RequestError as error:
        ended = {
            "status": FAILED,
            "code": error.kind,
            "message": f"{error.message} {error.hint or ''}".strip(),
        }
    except asyncio.CancelledError:  # there is nobody to tell
        return 1
    except LauncherError as error:  # a full disk, or another run that is just ending: later it may go on
        ended = {"status": "", "code": error.kind, "message": error.message}
    print(json.dumps(ended), flush=True)
    return 0


async def _carried(place: Place, said: dict[str, Any]) -> dict[str, Any]:
    loop, stop, alone = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    os.set_blocking(0, False)

    def heard() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop.set()
            alone.set()

    loop.add_reader(0, heard)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    work = await asyncio.to_thread(Work, Run(place.run), fresh=False)
    with work:
        if said["expire"]:
            await asyncio.to_thread(work.give_up, "batch_expired", _LATE)
            work.keep(ALL_DONE)
            return {"status": EXPIRED}
        if work.spec.strict and work.faults:
            return {"status": FAILED, "errors": _faults(Path(work.spec.errors))}
        if not work.pace.total:
            return {"status": FAILED, "code": "empty_file", "message": "The input has no lines."}
        work.keep(RUNNING)
        sending = asyncio.create_task(
            work.send(said["url"], said["key"], stop=stop, drain_s=_DRAIN_S, gone=lambda: None)
        )
        deserted = asyncio.create_task(_deserted(alone, sending))
        try:
            status = await sending
        finally:
            deserted.cancel()
        if status.state == ALL_DONE:
            return {"status": COMPLETED}
        if status.code == "engine-lost":
            return {"status": FAILED, "code": "engine_lost", "message": status.message}
        return {"status": "", "code": status.code, "message": status.message}


async def _deserted(alone: asyncio.Event, sending: asyncio.Task[Any]) -> None:
    await alone.wait()
    await asyncio.sleep(_ALONE_S)
    sending.cancel()


def _faults(path: Path) -> list[dict[str, Any]]:
    """What was wrong with lines before anything was sent, in OpenAI's words."""
    found = []
    with path.open("rb") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry.get("response") is None:
                error = entry.get("error") or {}
                found.append(
                    {
                        "code": error.get("code"),
                        "message": error.get("message"),
                        "line": entry.get("line"),
                        "param": None,
                    }
                )
                if len(found) >= _FAULTS_SHOWN:
                    break
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
