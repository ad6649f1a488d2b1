"""Where the processes of one engine on several nodes meet: addresses, network interface, port.

An address is the one from which this node reaches the other, as its routes say; names of hosts often lead elsewhere
(Debian's own name to 127.0.1.1). No packet is sent to find it.
"""

from __future__ import annotations

import fcntl
import socket
import struct

from launcher.engines import Place
from launcher.errors import EngineError

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_ANY_PORT = 9


def first_place(nodes: int, other: str) -> Place:
    """The place of the process on the session's first node, which reaches the next node at `other`.

    The port is free now and taken a moment later by the engine, not by us: somebody may come between. Raises
    EngineError where `other` leads nowhere.
    """
    own = own_address(other)
    return Place(0, nodes, own, _free_port(), own, interface_of(own))


def place_of(rank: int, nodes: int, address: str, port: int) -> Place:
    """The place of the process `rank` on this node; the first one is met at `address` and `port`."""
    own = own_address(address)
    return Place(rank, nodes, address, port, own, interface_of(own))


def own_address(other: str) -> str:
    """This node's address on the way to `other`; raises EngineError where there is no way."""
    try:
        found = socket.getaddrinfo(other, _ANY_PORT, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
        with socket.socket(family, kind, protocol) as way:
            way.connect(where)
            return str(way.getsockname()[0])
    except OSError as error:
        raise EngineError(
            f"This node finds no way to {other}: {error.strerror}.",
            "Ask the site whether its nodes reach each other.",
            "network",
        ) from error


def interface_of(address: str) -> str | None:
    """The network interface that has the IPv4 `address`; None where none has, or it is another kind of address."""
    try:
        wanted = socket.inet_aton(address)
    except OSError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                said = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            if said[20:24] == wanted:
                return name
    return None


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
