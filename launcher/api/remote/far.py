"""The launcher of another cluster: one call of it is one program over ssh, through the connection that is shared.

Owns the conversation (a request as one line of JSON, answers as lines of JSON, bytes after a line that announces them)
and the sentence for everything that can go wrong with it. What may be asked is in `launcher.api.remote.answers`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar

import launcher
from launcher.errors import LauncherError, RequestError, SchedulerError, SettingsError, did_you_mean
from launcher.schedulers import ssh

if TYPE_CHECKING:
    from launcher.settings.schema import Cluster, Settings

PROTOCOL = 1
ANSWERS = "over-ssh"  # the command there that answers
_NOISE_MAX = 200  # lines that a shell's start-up file may print before the launcher begins
_NOT_KNOWN = ("unknown command", "invalid choice")  # what a launcher says of a command of a later one
# More than any answer, and less than would be felt here: a cluster may be broken, or somebody else's by now.
_LINE_MAX_BYTES, _BYTES_MAX = 64 << 20, 16 << 20
_END_S = 5.0
_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 20.0)
_LOST_S = 300.0  # a network that is away so long is not waited for
_LONG_S = 30.0  # a connection that held so long counts as good
_TRIES_MAX = 8  # so many bad ones in a row are enough

T = TypeVar("T")


class LostError(SchedulerError):
    """The connection broke in the middle; what was asked for may have been done."""


@dataclass(frozen=True, slots=True)
class Far:
    """The launcher `program` on `host`, which the settings here call `cluster`."""

    cluster: str
    host: str
    program: str

    def words(self, *arguments: str) -> list[str]:
        """The words that run it there, for ssh; its own home is meant by a ~."""
        # A LAUNCHER_CLUSTER there would send the command on.
        if self.program.startswith("~/"):
            start = 'exec env LAUNCHER_CLUSTER= "$HOME/$0" "$@"'
            return ["sh", "-c", start, self.program.removeprefix("~/"), *arguments]
        return ["env", "LAUNCHER_CLUSTER=", self.program, *arguments]

    def command(self, *arguments: str, tty: bool = False) -> list[str]:
        """The words that run `launcher ARGUMENTS` there from here; it ends when this end of it does."""
        there = self.words(
            ANSWERS, "--version-here", launcher.__version__, "--cluster-here", self.cluster, "--", *arguments
        )
        return ssh.ssh_argv(self.host, there, tty=tty, ask=False)

    def connect(self) -> None:
        """Open the shared connection unless it stands; asks on a terminal only."""
        ssh.open_master(self.host, ask=sys.stdin is not None and sys.stdin.isatty())

    def ask(self, do: str, **given: Any) -> Any:
        """The answer to one request, as JSON has it; raises what was raised there, or LostError."""
        with self.talk(do, **given) as talk:
            return talk.result()

    @contextlib.contextmanager
    def talk(self, do: str, **given: Any) -> Iterator[Talk]:
        """A request whose answer comes in parts, or which goes on to send bytes; leaving the block ends it there."""
        self.connect()
        with tempfile.TemporaryFile() as errors:
            argv = ssh.ssh_argv(self.host, self.words(ANSWERS), ask=False)
            with subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            ) as process:
                talk = Talk(self, process, errors)
                try:
                    talk.send({"protocol": PROTOCOL, "do": do, "with": given})
                    talk.greeted()
                    yield talk
                finally:
                    talk.end()

    def insist(self, step: Callable[[], T]) -> T:
        """The result of `step`, taken again where the connection breaks meanwhile."""
        tries = 0
        while True:
            begun = time.monotonic()
            try:
                return step()
            except LostError as error:
                tries = 0 if time.monotonic() - begun > _LONG_S else tries + 1
                self.come_back(error, tries)

    def come_back(self, error: LostError, tries: int) -> None:
        """After a connection that broke, wait until the host can be reached again; raises when that takes too long."""
        if tries >= _TRIES_MAX:
            raise error
        print(f"launcher: {error.message} Trying again.", file=sys.stderr)
        lost_at = time.monotonic()
        while True:
            time.sleep(_AGAIN_S[min(tries, len(_AGAIN_S) - 1)])
            tries += 1
            try:
                return self.connect()
            except SchedulerError:
                if time.monotonic() - lost_at > _LOST_S:
                    raise

    def trouble(self, code: int, said: str, *, begun: bool) -> LauncherError:
        """Why the launcher there gave no answer: `code` is that of our ssh, `said` the end of what it wrote."""
        there, again = f"on {self.cluster} ({self.host})", self._again
        if code == ssh.SSH_FAILED or code < 0:  # or somebody ended our ssh
            if not begun:
                return ssh.trouble(self.host, said)
            return LostError(
                f"The connection to {self.cluster} was lost.", f"Try again; check: ssh {self.host}"
            )
        if code in (126, 127):
            return SettingsError(f"There is no launcher {self.program} {there}.", again)
        if ANSWERS in said and any(words in said.lower() for words in _NOT_KNOWN):
            return SettingsError(f"The launcher {there} is too old to be asked over ssh.", again)
        last = next(
            (line.strip() for line in reversed(said.splitlines()) if line.strip()), f"exit code {code}"
        )
        return SchedulerError(
            f"The launcher {there} ended without an answer: {last[:300].removesuffix('.')}.", again
        )

    def strange(self) -> SchedulerError:
        """The error for an answer that cannot be one."""
        return SchedulerError(
            f"The launcher on {self.cluster} ({self.host}) gave an answer that is not understood.",
            self._again,
        )

    def value(self, answer: Any, name: str, kind: type[T]) -> T:
        """What the answer has under `name`; raises SchedulerError where that is not of this kind."""
        value = answer.get(name) if isinstance(answer, dict) else None
        if type(value) is not kind:
            raise self.strange()
        return value

    @property
    def _again(self) -> str:
        return f"Run: launcher clusters setup {self.cluster}"


class Talk:
    """One conversation with a launcher far away."""

    def __init__(self, far: Far, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._far, self._process, self._errors = far, process, errors
        self._begun = False

    def greeted(self) -> None:
        """Read until the launcher there says what it is; raises SettingsError for one that cannot be talked to."""
        for _ in range(_NOISE_MAX):
            line = self._line()
            if line.startswith(b'{"launcher":'):
                hello = self._json(line)
                if hello.get("protocol") != PROTOCOL:
                    raise skew(self._far, str(hello.get("launcher")))
                self._begun = True
                return
        raise SettingsError(
            f"The start-up files of your shell on {self._far.host} print too much.",
            "Let them print nothing where there is no terminal.",
        )

    def send(self, data: dict[str, Any]) -> None:
        """One line of JSON."""
        self.send_bytes(json.dumps(data).encode() + b"\n")

    def send_bytes(self, data: bytes) -> bool:
        """Bytes as they are; False when nobody reads them any more: the answer, or its absence, says why."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def close(self) -> None:
        """Nothing more will be sent."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def told(self) -> Generator[Any, None, Any]:
        """The parts of the answer as they come; the generator's value is its end."""
        while True:
            answer = self._json(self._line())
            if "told" in answer:
                yield answer["told"]
            elif "bytes" in answer:
                yield self._bytes(answer["bytes"])
            elif isinstance(answer.get("error"), dict):
                from launcher.api.remote.values import unpacked_error

                raise unpacked_error(answer["error"])
            elif "result" in answer:
                return answer["result"]
            else:
                raise self._far.strange()

    def result(self, parts: Generator[Any, None, Any] | None = None) -> Any:
        """The end of the answer, the rest of its parts (`parts`, where some were taken) passed over."""
        parts = self.told() if parts is None else parts
        while True:
            try:
                next(parts)
            except StopIteration as end:
                return end.value

    def end(self) -> None:
        """End it; what runs there notices that its input has ended."""
        self.close()
        if self._process.stdout is not None:
            self._process.stdout.close()  # ssh would wait for somebody to read what is left
        try:
            self._process.wait(_END_S if self._begun else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(_LINE_MAX_BYTES)
        if not line.endswith(b"\n"):
            if len(line) == _LINE_MAX_BYTES:
                raise self._far.strange()
            self._over()
        return line

    def _json(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._far.strange()
        return answer

    def _bytes(self, count: Any) -> bytes:
        assert self._process.stdout is not None
        if type(count) is not int or not 0 <= count <= _BYTES_MAX:
            raise self._far.strange()
        data = self._process.stdout.read(count)
        if len(data) < count:
            self._over()
        return data

    def _over(self) -> None:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace")[-4000:]
        raise self._far.trouble(code, said, begun=self._begun)


def skew(far: Far, there: str) -> SettingsError:
    """The error for a launcher of a version that this one cannot talk to."""
    return SettingsError(
        f"The launcher on {far.cluster}, version {there[:40]}, and this one, {launcher.__version__}, do not understand"
        " each other.",
        f"Run: launcher clusters setup {far.cluster}",
    )


def far_of(name: str, settings: Settings) -> Far:
    """The launcher of the cluster `name`; raises RequestError for one that has none far away."""
    cluster = settings.clusters.get(name)
    if cluster is None:
        known = [other.name for other in settings.clusters.values() if other.remote]
        listed = (
            f"Known: {', '.join(known)}." if known else f"Make it known: launcher clusters setup {name[:60]}"
        )
        raise RequestError(
            f'There is no cluster "{name[:80]}".', did_you_mean(name, settings.clusters) or listed
        )
    far = far_to(cluster)
    if far is None:
        if cluster.ssh is None:
            raise RequestError(
                f'Cluster "{name}" is this one: its sessions are started here.', "Leave --cluster out."
            )
        raise RequestError(
            f'Cluster "{name}" has no launcher of its own in the settings.',
            f"Run: launcher clusters setup {name}, or leave --cluster out where the folders are shared.",
        )
    return far


def far_to(cluster: Cluster) -> Far | None:
    """The launcher of `cluster`; None for one that has none far away."""
    if cluster.ssh is None or cluster.launcher is None:
        return None
    return Far(cluster.name, cluster.ssh, cluster.launcher)


def fars(settings: Settings) -> Sequence[Far]:
    """The launchers of all clusters that have one far away, in the order of the settings."""
    return [far for cluster in settings.clusters.values() if (far := far_to(cluster)) is not None]
