"""Whoever has no key cannot use up what the session needs: connections, log lines."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.gateway.front import SessionFront
from launcher.gateway.keys import Keys
from launcher.gateway.routes import Routes
from launcher.gateway.server import Gateway

LIMIT = 400


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def status(port: int, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    line = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    return line


async def test_half_open_connections_leave_room_for_the_owner(few_files: None) -> None:
    gateway = Gateway(keys=Keys("sk-right"), front=SessionFront(Routes(), dict), name="s")
    port = await gateway.start("127.0.0.1")
    half = []
    for _ in range(130):  # more than this gateway takes with so few files
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        half.append(writer)
    await asyncio.sleep(11)  # the time that an unfinished head may take
    assert b"503" in await status(port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    for writer in half:
        writer.close()
    await gateway.stop(0.1)


async def test_refusals_do_not_fill_the_log(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    handler = logging.FileHandler(log)
    logger = logging.getLogger("launcher.gateway")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    gateway = Gateway(keys=Keys("sk-right"), front=SessionFront(Routes(), dict), name="s")
    port = await gateway.start("127.0.0.1")
    long = b"/" + b"A" * 15000
    for _ in range(150):
        assert b"401" in await status(port, b"GET " + long + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    await gateway.stop(0.1)
    logger.removeHandler(handler)
    handler.close()
    assert log.stat().st_size < 30_000
