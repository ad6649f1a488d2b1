"""What the tests of `launcher connect` share: a session, hosts to reach it through, a terminal to type on."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import urllib.error
import urllib.request
from pathlib import Path

from launcher.api.tunnel.tunnel import Tunnel

LAUNCHER = [sys.executable, "-m", "launcher"]
ASK = """
import json, os, sys, urllib.request
body = json.dumps({"model": sys.argv[1], "messages": [{"role": "user", "content": "Hello"}]}).encode()
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
print(json.load(urllib.request.urlopen(urllib.request.Request(url, body, headers)))["choices"][0]["message"]["content"])
sys.exit(7)
"""
PATIENT = """
import time
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(9)
"""


def run(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCHER, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def status_of(url: str, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(f"{url}/models", headers=headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def asks(tunnel: Tunnel) -> str:
    with tunnel.openai() as client:
        answer = client.chat.completions.create(
            model=tunnel.model, messages=[{"role": "user", "content": "Hello"}]
        )
    return answer.choices[0].message.content or ""


def on_a_terminal(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # where ssh asks, and where Ctrl-C comes from
        signal.signal(signal.SIGINT, signal.default_int_handler)

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*LAUNCHER, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=own_terminal,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(descriptor: int, words: str) -> str:
    text = ""
    while words not in text:
        try:
            piece = os.read(descriptor, 1 << 16)
        except OSError:  # the terminal's other end is closed
            piece = b""
        assert piece, text
        text += piece.decode()
    return text


def keys_in_environments(pid: int) -> list[bytes]:
    """The keys that programs below `pid` were given."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            environment = Path(f"/proc/{child}/environ").read_bytes()
        except OSError:
            continue
        found += [
            line.partition(b"=")[2]
            for line in environment.split(b"\0")
            if line.startswith(b"OPENAI_API_KEY=")
        ]
    return found


def settings() -> list[str]:
    """What a login on the cluster has in its environment, in words for `env`."""
    return [f"{name}={value}" for name, value in os.environ.items() if name.startswith("LAUNCHER_")]
