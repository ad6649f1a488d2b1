"""The main job on this machine: launch the shipped model on real vLLM, show how to reach it, stop it again.

Owns only what is printed. `make demo` starts it; with `--check` it asks one question, checks the answer and ends.
Everything it writes is below `.demo/`, and nothing listens on another address than 127.0.0.1.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from launcher import Connection, Launcher, LauncherError, Session
from launcher.errors import EngineError
from launcher.sessions.status import Status
from launcher.settings.layers import load

ROOT = Path(__file__).resolve().parents[1]
MODEL = "tiny-chat"
QUESTION = "What is the capital of France?"
ANSWER = "Paris"
LOOK_EVERY_S = 2.0

_COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def main() -> int:
    """Exit code 0 unless the demo failed; Ctrl-C is the ordinary end."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--check", action="store_true", help="ask one question, check the answer, stop")
    check = parser.parse_args().check
    # A closed terminal or a kill ends the demo like Ctrl-C: with nothing left behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    take_terminal()
    started = time.monotonic()
    try:
        return run(check, started)
    except KeyboardInterrupt:
        print()
        say(started, "Stopped; nothing is left running.")
        return 130 if check else 0
    except LauncherError as error:
        print(f"{bold('The demo failed.')} {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        return error.exit_code


def run(check: bool, started: float) -> int:
    """Launch, wait, then check or stay until Ctrl-C; the session is over when this returns or raises."""
    need_library("libnuma.so.1", "libnuma1")
    launcher = Launcher(load(demo_settings()))
    say(started, f"Launching {MODEL} with vLLM on this machine's CPU; the first start takes a minute or two.")
    session = launcher.launch(MODEL)
    try:
        connection = session.wait(progress=lambda status: show(status, started))
        good = ask(session, started) if check else stay(session, connection)
    except LauncherError:
        print(f"Logs: {session.paths.root}", file=sys.stderr)
        raise
    finally:
        # A second Ctrl-C must not leave an engine behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        session.stop()
    say(started, "Stopped; nothing is left running.")
    return 0 if good else 1


def take_terminal() -> None:
    """Let Ctrl-C reach this program alone: make would report it as an error however well the demo ends."""
    if not sys.stdin.isatty() or os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # for the next two lines
    os.setpgid(0, 0)
    os.tcsetpgrp(sys.stdin.fileno(), os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    # Ctrl-Z would stop a demo that nobody could continue, since make waits for it.
    signal.signal(signal.SIGTSTP, lambda *_: None)


def need_library(name: str, package: str) -> None:
    """Raise EngineError unless the shared library is there: vLLM would say so after minutes, and not as plainly."""
    try:
        ctypes.CDLL(name)
    except OSError:
        raise EngineError(
            f"vLLM on CPU needs the library {name}, which is not on this machine.",
            f"Install it; on Debian: apt-get install {package}",
        ) from None


def demo_settings() -> dict[str, str]:
    """In place of the environment: neither the machine's site file nor the user's own settings count here."""
    return {
        "LAUNCHER_SITE": os.devnull,
        "LAUNCHER_CONFIG": os.devnull,
        "LAUNCHER_NETWORK__BIND": "127.0.0.1",
        "LAUNCHER_NETWORK__HOST": "127.0.0.1",
        "LAUNCHER_PLACES__SESSIONS": str(ROOT / ".demo" / "sessions"),
        "LAUNCHER_PLACES__CACHE": str(ROOT / ".demo" / "cache"),
    }


def ask(session: Session, started: float) -> bool:
    """Ask the question through the gateway with the openai client and print the answer."""
    say(started, f"Asking: {QUESTION}")
    answer = session.openai().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    text = answer.choices[0].message.content or ""
    say(started, f"Answer: {bold(text)}")
    if ANSWER not in text:
        print(f'The demo failed. The answer does not contain "{ANSWER}".', file=sys.stderr)
    return ANSWER in text


def stay(session: Session, connection: Connection) -> bool:
    """Show how to reach the session and stay until Ctrl-C or until it ends by itself."""
    key_file = session.paths.key
    print(f"""
{bold("Base URL")}   {connection.base_url}
{bold("Chat page")}  {connection.page_url}
{bold("Key")}        cat {key_file}

{bold("Python")}
from openai import OpenAI
client = OpenAI(base_url="{connection.base_url}", api_key=open("{key_file}").read().strip())
print(client.responses.create(model="{connection.model}", input="{QUESTION}").output_text)

Ctrl-C stops the session.""")
    sys.stdout.flush()
    while not (status := session.status()).ended:
        time.sleep(LOOK_EVERY_S)
    print(f"\n{status.message} {status.hint or ''}".rstrip())
    return status.state == "SHUTDOWN"


def show(status: Status, started: float) -> None:
    """One line for each thing that changes while the session starts."""
    if not status.ended:
        say(started, status.message)


def say(started: float, text: str) -> None:
    """One line with the seconds since the start."""
    print(f"{dim(f'{time.monotonic() - started:6.1f} s')}  {text}", flush=True)


def bold(text: str) -> str:
    """Stressed, on a terminal."""
    return f"\033[1m{text}\033[0m" if _COLOUR else text


def dim(text: str) -> str:
    """Set back, on a terminal."""
    return f"\033[2m{text}\033[0m" if _COLOUR else text


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
