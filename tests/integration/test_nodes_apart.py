"""Two nodes with networks of their own, a cable between them and another to elsewhere: where an engine's parts meet."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.engines import Place, simulated
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from tests.conftest import needs, skip_loudly
from tests.engines.plans import vllm_plan
from tests.programs.front import ask_socket, wait_until

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_is_left")]

LAUNCHER = str(Path(sys.executable).with_name("launcher"))
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
MEET = """
import dataclasses, json, sys
from launcher.serve.meeting import first_place, place_of
address, port = sys.argv[1], int(sys.argv[2])
place = place_of(1, 2, address, port) if port else first_place(2, address)
print(json.dumps(dataclasses.asdict(place)))
"""


@dataclasses.dataclass(frozen=True)
class Node:
    """A network of its own; it ends with the process that holds it."""

    pid: int

    def apart(self) -> bool:
        return os.readlink(f"/proc/{self.pid}/ns/net") != os.readlink("/proc/self/ns/net")

    def argv(self, *words: str) -> list[str]:
        """The command that runs `words` there."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *words]

    def ip(self, words: str) -> None:
        subprocess.run(self.argv("ip", *words.split()), check=True)

    def place(self, address: str, port: int = 0) -> Place:
        """Where an engine's process there stands; the first one's where no `port` is known yet."""
        argv = self.argv(sys.executable, "-c", MEET, address, str(port))
        said: dict[str, Any] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
        return Place(**said)


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    needs("ip", "iproute2")
    needs("unshare", "util-linux")
    if os.geteuid() != 0:
        skip_loudly("two networks: only root can make them")
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(2):
            # Its input is a pipe of ours: it ends with us, whatever happens.
            held = stack.enter_context(subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE))
            assert held.stdin is not None
            stack.callback(held.stdin.close)
            made.append(Node(held.pid))
            wait_until(made[-1].apart)
        first, second = made
        for name, other, net in (("login0", "login1", "192.0.2"), ("fabric0", "fabric1", "10.77.0")):
            first.ip(f"link add {name} type veth peer name {other} netns {second.pid}")
            for node, device, number in ((first, name, 1), (second, other, 2)):
                node.ip(f"addr add {net}.{number}/24 dev {device}")
                node.ip(f"link set {device} up")
        for node, number in ((first, 1), (second, 2)):
            node.ip("link set lo up")
            node.ip(f"route add default via 192.0.2.{3 - number}")
        yield first, second


def test_each_node_takes_the_address_and_the_interface_that_lead_to_the_other(
    nodes: tuple[Node, Node],
) -> None:
    """vec-inf 14: by the cable between them, whatever the default route says; each its own."""
    first = nodes[0].place(SECOND)
    assert (first.own, first.address, first.interface) == (FIRST, FIRST, "fabric0")
    second = nodes[1].place(first.address, first.port)
    assert (second.own, second.address, second.interface) == (SECOND, FIRST, "fabric1")
    assert second.port == first.port
    assert nodes[0].place("198.51.100.7").interface == "login0"


def is_up(socket: Path) -> bool:
    try:
        return ask_socket(socket, "/health").status == 200
    except OSError:
        return False


def test_the_processes_meet_across_the_network_and_notice_each_other(
    nodes: tuple[Node, Node], tmp_path: Path, sockets: Path
) -> None:
    root = tmp_path / "session"
    root.mkdir(mode=0o700)
    base = vllm_plan(nodes=2)
    model = dataclasses.replace(base.model, snapshot=None)
    places = dataclasses.replace(base.places, runtime=str(sockets), cache=str(tmp_path / "cache"))
    plan: Plan = dataclasses.replace(base, engine="simulated", model=model, places=places, launcher=LAUNCHER)
    SessionPaths(root).plan.write_text(plan.to_json())
    place = nodes[0].place(SECOND)
    socket = sockets / "engine.sock"
    argv = nodes[0].argv(*simulated.command(plan, socket, tmp_path / "cache", place).argv)
    rank = [LAUNCHER, "rank", str(root), f"--address={place.address}", f"--port={place.port}"]
    env = {**os.environ, "SLURM_PROCID": "0"}
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first,
        subprocess.Popen(nodes[1].argv(*rank), stdout=subprocess.PIPE, text=True, env=env) as second,
    ):
        try:
            wait_until(lambda: is_up(socket))
            assert "rank 1 of 2" in SessionPaths(root).rank_log(1).read_text()
            assert list(sockets.glob("launcher-*"))  # the other's private folder
        finally:
            second.terminate()
        assert second.wait(60) == 0
        assert first.wait(60) == 1
        assert "Connection closed by peer: rank 1" in first.communicate()[0]
        assert second.communicate()[0] == ""  # what was told to end says no end of its own
    assert not list(sockets.glob("launcher-*"))
