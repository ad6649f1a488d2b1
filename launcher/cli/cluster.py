"""`launcher --cluster NAME COMMAND`: the command runs on that cluster, as if one had logged in there.

Owns the way of a command over ssh: its terminal, its input, its exit code, Ctrl-C, and what goes on by itself when the
connection breaks. What is asked is the launcher there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

from launcher.api.remote.far import Far, LostError, far_of
from launcher.cli.ending import ended_tidily
from launcher.cli.parser import ALIASES, INTERNAL, JSON_OPTIONS, MODULES, parser
from launcher.cli.tables import one_line
from launcher.errors import RequestError, SchedulerError
from launcher.schedulers.ssh import SSH_FAILED

VARIABLE = "LAUNCHER_CLUSTER"
# What is done here with a cluster's name: it opens ports here, moves files, or is about the clusters.
_HERE = {"connect", "files", "completion"}
# What reads its input; the others must not take it away from a script's `while read` loop.
_READ = {"cleanup", "models", "transcribe", "launch", "run", "batch-launch", "rerun"}
_LAUNCHES = {"launch", "run", "rerun"}
_SAID_MAX = 4000

Here = Callable[[list[str]], int]


def elsewhere(words: list[str], here: Here) -> int:
    """Run the command on the cluster that it names; `here` runs one that is done on this machine."""
    if words[0].partition("=")[0] == "--cluster":
        name, words = _name(words)
    else:
        name = os.environ[VARIABLE]
    words[:1] = [ALIASES.get(word, word) for word in words[:1]]
    command = words[0] if words else ""
    before = words[: words.index("--")] if "--" in words else words
    about_clusters = before[:2] == ["clusters", "setup"] or (command == "status" and "--everywhere" in before)
    if command not in MODULES or command in INTERNAL or about_clusters or {"-h", "--help"} & set(before):
        os.environ.pop(VARIABLE, None)
        return here(words)
    from launcher.settings.layers import load

    settings = load()
    cluster = settings.clusters.get(name)
    if command in _HERE or (cluster is not None and not cluster.remote):
        if cluster is None:
            far_of(name, settings)
        # `Launcher` reads it: the same command, with the sessions of that cluster.
        os.environ[VARIABLE] = name
        return here(words)
    return forwarded(far_of(name, settings), words, here)


def _name(words: list[str]) -> tuple[str, list[str]]:
    _, given, name = words[0].partition("=")
    rest = words[1:]
    if not given:
        name, rest = (rest[0], rest[1:]) if rest else ("", [])
    if not name or name.startswith("-"):
        raise RequestError(
            "--cluster needs the name of a cluster.", "Example: launcher --cluster della status"
        )
    return name, rest


def for_profile(arguments: argparse.Namespace, words: list[str], here: Here) -> int | None:
    """Forward a launch whose profile is on a cluster with a launcher of its own; None where it is not."""
    from launcher.api.clusters import elsewhere as on_another
    from launcher.cli.launch_options import profile_named
    from launcher.settings.layers import load

    settings = load()
    asked = profile_named(arguments)
    if (there := on_another(settings, asked)) is None:
        return None
    cluster, profile = there
    given = words if asked else [words[0], "--profile", profile, *words[1:]]
    print(f"launcher: profile {profile} is on cluster {cluster}", file=sys.stderr)
    return forwarded(far_of(cluster, settings), given, here)


def forwarded(far: Far, words: list[str], here: Here) -> int:
    """Run `launcher WORDS` on that cluster; its exit code."""
    cut = words.index("--") if "--" in words else len(words)
    before = words[:cut]
    if words[0] in _LAUNCHES and {"--wait", "--connect"} & set(before) and "--dry-run" not in before:
        return _launched(far, before, words[cut:], here)
    if words[0] == "wait":
        return _again(far, words)
    if words[0] == "logs" and {"-f", "--follow"} & set(before):
        return _log(far, words)
    return run_there(far, words)


def _launched(far: Far, before: list[str], after: list[str], here: Here) -> int:
    """A launch that waits: first the launch, whose answer is short, so that a connection that breaks loses nothing."""
    from launcher.api.remote.everywhere import said_there

    as_json = any(option in before for option in JSON_OPTIONS)
    kept = [word for word in before if word not in ("--wait", "--connect", *JSON_OPTIONS)]
    said = said_there(far, *kept, "--json", *after)
    session = said.get("id")
    # It becomes a word of our own commands.
    if not isinstance(session, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", session):
        raise SchedulerError(
            f"The launcher on {far.cluster} told no id of the session.", "Look: launcher status."
        )
    if not as_json:
        print(f"Session {session} is job {one_line(str(said.get('job_id')))} on {far.cluster}", flush=True)
    if "--connect" in before:
        os.environ[VARIABLE] = far.cluster
        return here(["connect", session, *(["--json"] if as_json else [])])
    return _again(far, ["wait", session, *(["--json"] if as_json else [])])


def _again(far: Far, words: list[str]) -> int:
    """Run a command that may be run twice, again when the connection breaks."""
    return far.insist(lambda: run_there(far, words, lasting=True))


def _log(far: Far, words: list[str]) -> int:
    asked = parser("logs").parse_args(words)
    from launcher.api.remote import RemoteLauncher
    from launcher.cli.logs import shown

    session = RemoteLauncher(cluster=far.cluster).session(asked.session)
    for text in session.log(asked.of, asked.lines, follow=True):
        sys.stdout.write(shown(text))
        sys.stdout.flush()
    return 0


def run_there(far: Far, words: Sequence[str], *, lasting: bool = False) -> int:
    """Run `launcher WORDS` there with this terminal; its exit code. Raises LauncherError where it cannot be run.

    With `lasting` it has no terminal there, so that it can be run again without what was typed meanwhile.
    """
    far.connect()
    tty = not lasting and sys.stdin.isatty() and sys.stdout.isatty()
    argv = far.command(*words, tty=tty)
    given = None if tty or (words[0] in _READ and not lasting) else subprocess.DEVNULL
    said: list[bytes] = []
    with subprocess.Popen(argv, stdin=given, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=_passed_on, args=(process.stderr, said), daemon=True)
        reader.start()
        with ended_tidily():
            try:
                code = process.wait()
            finally:
                # Without ssh, the launcher there ends as well.
                process.terminate()
        reader.join(5)
    text = b"".join(said).decode("utf-8", "replace")
    old = code == RequestError.exit_code and 'ommand "over-ssh"' in text
    if code in (SSH_FAILED, 126, 127) or old or code < 0:
        trouble = far.trouble(code, text, begun=True)
        if isinstance(trouble, LostError) and not lasting and words[0] in _LAUNCHES:
            trouble.hint = f"It may have been started: launcher --cluster {far.cluster} status"
        raise trouble
    return code


def _passed_on(errors: IO[bytes], said: list[bytes]) -> None:
    # ssh's own words come the same way, and tell what went wrong.
    while data := os.read(errors.fileno(), 1 << 16):
        said.append(data)
        while sum(map(len, said)) > _SAID_MAX and len(said) > 1:
            del said[0]
        with contextlib.suppress(OSError):
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
