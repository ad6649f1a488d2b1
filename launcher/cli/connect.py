"""`launcher connect`: a local address for a session, from a login node or a laptop."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from launcher.api import Launcher, Session
from launcher.cli.ending import ended_tidily
from launcher.cli.parser import SESSION, number, whole
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import EngineError, RequestError, SessionError
from launcher.sessions.status import FAILED, Status

if TYPE_CHECKING:
    from launcher.api.tunnel.background import Kept
    from launcher.api.tunnel.tunnel import Tunnel

EXAMPLES = """\
examples:
  launcher connect tiny-chat-3f9a                    until Ctrl-C; prints what to paste
  launcher connect tiny-chat-3f9a -- python ask.py   while a program runs, which finds address and key
  eval "$(launcher connect tiny-chat-3f9a --export)" in the background, for this shell
  launcher connect --close tiny-chat-3f9a            end that one
  launcher connect tiny-chat-3f9a --via login2       through a host that you name

The address here stays the same while ssh is interrupted or the job moves to another node. The key is this
connection's own: it ends with it, within an hour where it was killed.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.epilog = EXAMPLES
    parser.usage = "%(prog)s [OPTION ...] ID [-- PROGRAM ...]"
    parser.add_argument("session", nargs="?", metavar="ID", help=SESSION)
    parser.add_argument("--via", metavar="HOST", help="the host to go through, as ssh knows it")
    parser.add_argument(
        "--port", type=whole, default=0, metavar="N", help="the port here; without it a free one is chosen"
    )
    parser.add_argument(
        "--timeout", type=number, metavar="S", help="seconds to wait once the job runs; the queue is free"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--export", action="store_true", help="print only lines for a shell, and stay in the background"
    )
    what.add_argument("--close", action="store_true", help="end the connection in the background, or all")
    what.add_argument("--list", action="store_true", help="show the connections in the background")
    parser.add_argument(
        "--publish", metavar="HOST", help="offer it on a host outside too; only where the site allows it"
    )
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)  # what --export starts


def run(arguments: argparse.Namespace) -> int:
    """Connect, or look after the connections in the background."""
    program = list(arguments.engine_args)
    if arguments.close or arguments.list:
        return _look_after(arguments)
    if arguments.session is None:
        raise RequestError("Which session?", "Give its id; `launcher status` lists them.")
    if arguments.export and (program or arguments.publish):
        raise RequestError(
            "--export goes with neither a program nor --publish.", "Run them one after the other."
        )
    if program and arguments.json:
        raise RequestError("--json does not go with a program.", "What it prints is its own.")
    if arguments.export:
        return _export(arguments)
    with ended_tidily(), contextlib.ExitStack() as kept:
        session = _session(arguments.session, kept)
        # Nobody sees a question of ssh between the words of a program.
        asks_later = not program and not arguments.keep
        tunnel = connected(
            session, kept, via=arguments.via, port=arguments.port, timeout_s=arguments.timeout,
            quiet=arguments.json, ask_later=asks_later,
        )  # fmt: skip
        if arguments.publish:
            _publish(tunnel, arguments.publish)
        if arguments.keep:
            return _stay(tunnel)
        return (
            _beside(tunnel, program) if program else hold(tunnel, session.plan.engine, as_json=arguments.json)
        )


def _session(wanted: str, kept: contextlib.ExitStack) -> Session:
    launcher = Launcher(cluster=_cluster())
    if (far := getattr(launcher, "far", None)) is not None:
        from launcher.schedulers.ssh import can_ask, control, open_master

        # The first to need the connection: it is ours to end, unless somebody else had it open.
        if open_master(far.host, ask=can_ask()):
            kept.callback(control, far.host, "stop")
    return launcher.session(wanted)


def _cluster() -> str | None:
    return os.environ.get("LAUNCHER_CLUSTER") or None


def connected(
    session: Session,
    kept: contextlib.ExitStack,
    *,
    via: str | None = None,
    port: int = 0,
    timeout_s: float | None = None,
    quiet: bool = False,
    ask_later: bool = True,
) -> Tunnel:
    """The connection, once the session is ready; each step is told on standard error, and `kept` ends it."""
    from launcher.api.tunnel.tunnel import connect

    started = time.monotonic()

    def progress(status: Status) -> None:
        if not quiet:
            _tell(f"{time.monotonic() - started:6.1f} s  {status.state:<10} {status.message}")

    with _saying_that_it_goes_on(session.id, quiet=quiet):
        tunnel = connect(
            session,
            via=via,
            port=port,
            timeout_s=timeout_s,
            ask_later=ask_later,
            progress=progress,
            tell=_tell,
        )
    kept.callback(tunnel.close)
    return tunnel


def hold(tunnel: Tunnel, engine: str, *, as_json: bool = False) -> int:
    """Print what to paste and stay until Ctrl-C or until the session is over; the exit code."""
    with _saying_that_it_goes_on(tunnel.id, quiet=as_json):
        if as_json:
            # The key is left out on purpose: JSON ends in logs and tickets.
            shown = {name: value for name, value in _facts(tunnel).items() if name != "key"}
            print_json({**shown, "published": tunnel.published})
            sys.stdout.flush()
        else:
            print(_words(tunnel, engine), flush=True)
        # In steps: a wait without an end would not hear Ctrl-C on every system.
        while not tunnel.wait(1):
            pass
    return _over(tunnel)


@contextlib.contextmanager
def _saying_that_it_goes_on(session_id: str, *, quiet: bool) -> Iterator[None]:
    """Ctrl-C ends the connection, or the waiting for it, and not the session."""
    try:
        yield
    except KeyboardInterrupt:
        if not quiet:
            _tell(f"\nThe session goes on. Stop it with: launcher stop {session_id}")
        raise


def _over(tunnel: Tunnel) -> int:
    if tunnel.over is not None and tunnel.over.state == FAILED:
        over = tunnel.over
        raise EngineError(over.message, over.hint, over.reason, quote=over.quote, log=over.log)
    return 0


def _words(tunnel: Tunnel, engine: str) -> str:
    from launcher.ui.snippets import audio_snippets, snippets

    lines = [f"Session {tunnel.id} answers here ({tunnel.way}).", ""]
    lines += [
        f"export {name}={shlex.quote(value)}" for name, value in _exported(tunnel.base_url, None).items()
    ]
    if sys.stdout.isatty():
        lines.append(f"export OPENAI_API_KEY={shlex.quote(tunnel.key)}")
    else:
        lines.append("The key is shown on a terminal only; --export prints it, a program after -- finds it.")
    lines += [f"Page: {tunnel.page_url}"] if tunnel.page_url else []
    shown = (audio_snippets if engine == "whisper" else snippets)(tunnel.base_url, tunnel.model)
    for snippet in (shown[1], shown[0]):
        lines += ["", f"# {snippet.label}", "", snippet.code.rstrip()]
    return "\n".join([*lines, "", "Ctrl-C ends the connection; the session goes on."])


def _facts(tunnel: Tunnel) -> dict[str, object]:
    from launcher.api.tunnel.background import Kept

    return Kept.of(tunnel, _cluster()).facts()


def _publish(tunnel: Tunnel, host: str) -> None:
    from launcher.schedulers.ssh import can_ask

    port = tunnel.publish(host, ask=can_ask())
    _tell(f"On {host}: http://127.0.0.1:{port}/v1, for everybody there who has the key.")


def _beside(tunnel: Tunnel, program: list[str]) -> int:
    """Run the program with the address and the key in its environment; its exit code."""
    environment = {**os.environ, **_exported(tunnel.base_url, tunnel.key)}
    # What the program makes of Ctrl-C is its own business, and we wait for it.
    started: list[subprocess.Popen[bytes]] = []

    def interrupt(signum: int, _: FrameType | None) -> None:
        if started and not _from_the_terminal():
            started[0].send_signal(signum)

    interrupted = signal.signal(signal.SIGINT, interrupt)
    try:
        with subprocess.Popen(program, env=environment) as process:
            started.append(process)
            try:
                code = process.wait()
            except BaseException:  # a hangup or TERM: it is for both
                process.terminate()
                raise
    except OSError as error:
        raise RequestError(f"{program[0]} cannot be run: {error.strerror}.", "Check its name.") from error
    finally:
        signal.signal(signal.SIGINT, interrupted)
    return code if code >= 0 else 128 - code


def _exported(base_url: str, key: str | None) -> dict[str, str]:
    """What a program or a shell is given."""
    return {"OPENAI_BASE_URL": base_url, **({"OPENAI_API_KEY": key} if key else {}), **_no_proxy()}


def _no_proxy() -> dict[str, str]:
    """What keeps a cluster's proxy, which is for the world outside, from being given our requests and the key."""
    known = {name.lower() for name, value in os.environ.items() if value}
    if not known & {"http_proxy", "all_proxy"}:
        return {}
    return {
        name: ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))) for name in ("no_proxy", "NO_PROXY")
    }


def _from_the_terminal() -> bool:
    """Whether a Ctrl-C of now came from the terminal, which sends it to our program as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# -- in the background


def _export(arguments: argparse.Namespace) -> int:
    """Start a connection in the background, or find the one that is there; print the lines for a shell."""
    # The beginning of an id may be another session's by now; only the whole one is sure.
    same = [one for one in _find(arguments.session) if arguments.session == one.id]
    facts = same[0] if same else _started(arguments)
    if facts is None:
        return SessionError.exit_code  # it has said why
    if arguments.json:
        return print_json(
            {"base_url": facts.base_url, "key": facts.key, "model": facts.model, "id": facts.id}
        )
    for name, value in _exported(facts.base_url, facts.key).items():
        print(f"export {name}={shlex.quote(value)}")
    _tell(f"Connected to {facts.id} ({facts.way}). End it with: launcher connect --close {facts.id}")
    return 0


def _started(arguments: argparse.Namespace) -> Kept | None:
    """Another process that connects, asks on this terminal if it must, and stays; None where it failed."""
    from launcher.api.tunnel.background import Kept

    argv = [sys.executable, "-m", "launcher", "connect", "--keep", f"--port={arguments.port}"]
    argv += [f"--via={arguments.via}"] if arguments.via is not None else []
    argv += [f"--timeout={arguments.timeout}"] if arguments.timeout is not None else []
    # Its own process group: what this shell does to its jobs is not for it.
    with subprocess.Popen(
        [*argv, arguments.session], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.read()
        except BaseException:
            process.terminate()
            raise
        if said:
            process.returncode = 0  # it goes on without us
            return Kept.told(said.decode())
    return None


def _stay(tunnel: Tunnel) -> int:
    """Tell who started us, leave the terminal, and stay until we are told to end or the session is over."""
    from launcher.api.tunnel.background import Keeper

    keeper = Keeper(tunnel, _cluster())
    try:
        print_json(_facts(tunnel))
        sys.stdout.flush()
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        while not keeper.closing.wait(1) and not tunnel.wait(0):
            pass
        tunnel.close()
        return 0
    finally:
        keeper.close()


def _find(wanted: str | None) -> list[Kept]:
    from launcher.api.tunnel.background import kept

    return [one for one in kept() if wanted is None or one.id.startswith(wanted)]


def _look_after(arguments: argparse.Namespace) -> int:
    found = _find(arguments.session)
    if arguments.close:
        if not found:
            whose = f" to {arguments.session}" if arguments.session else ""
            _tell(f"There is no connection{whose} in the background.")
        for one in found:
            one.close()
        if arguments.json:
            return print_json({"closed": [one.id for one in found]})
        for one in found:
            print(f"Closed: {one.id}")
        return 0
    if arguments.json:
        return print_json(
            {"connections": [{"id": o.id, "base_url": o.base_url, "model": o.model} for o in found]}
        )
    if not found:
        print("No connection is open in the background.")
        return 0
    print(table([[o.id, o.model, o.base_url, o.way] for o in found], head=["ID", "Model", "Base URL", "Way"]))
    return 0


def _tell(sentence: str) -> None:
    print("\n".join(map(one_line, sentence.split("\n"))), file=sys.stderr, flush=True)
