"""The listening sockets of a gateway: the same port in both families, so that nobody else can have the other half."""

from __future__ import annotations

import contextlib
import errno
import socket

_BACKLOG = 1024
_TRIES = 20
_WILDCARD = "0.0.0.0"  # noqa: S104 - compared with; the gateway denies by default


def listen(host: str, port: int = 0) -> list[socket.socket]:
    """Listening sockets on `host`; for the wildcard also on IPv6 where the machine has it.

    Without that another user could take the same port of the other family, and a client that prefers IPv6 would send
    its key there. Raises OSError when nothing can be bound.
    """
    for _ in range(_TRIES):
        first = _bound(socket.AF_INET, host, port)
        chosen = int(first.getsockname()[1])
        if host != _WILDCARD:
            return [first]
        try:
            return [first, _bound(socket.AF_INET6, "::", chosen)]
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return [first]
            first.close()
            if error.errno != errno.EADDRINUSE or port:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free in both address families")


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    address = (host, port)
    if family == socket.AF_INET:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        address = (str(found[0]), port)
    # asyncio switches Nagle's waiting off only where the protocol is named; with it each stream's events come late.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Connections of a gateway that was killed hold its port for a minute more, if they or we do not say this. Where
        # the kernel chooses the port, it is said only afterwards: so that it chooses one that nobody has.
        if port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        with contextlib.suppress(OSError):
            made.close()
        raise
    return made
