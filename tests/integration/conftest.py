"""A front door, a quick simulated engine behind it, a place for short socket paths; a launcher without a site."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher
from launcher.settings.layers import load
from tests.programs.front import RunningGateway, SimulatedEngine, Upstream


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A short path: a Unix socket's name has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="iod") as name:
        yield Path(name)


@pytest.fixture
def start_engine(sockets: Path) -> Iterator[Callable[..., SimulatedEngine]]:
    """Start a simulated engine with the given arguments; it ends with the test."""
    engines: list[SimulatedEngine] = []

    def start(*args: str, **options: Any) -> SimulatedEngine:
        engines.append(SimulatedEngine(sockets, *args, **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def start_upstream(sockets: Path) -> Iterator[Callable[..., Upstream]]:
    """Start a raw upstream that answers with the given bytes."""
    upstreams: list[Upstream] = []

    def start(*pieces: bytes | None, name: str = "upstream.sock") -> Upstream:
        upstreams.append(Upstream(sockets, *pieces, name=name))
        return upstreams[-1]

    yield start
    for upstream in upstreams:
        upstream.close()


@pytest.fixture
def start_gateway() -> Iterator[Callable[..., RunningGateway]]:
    """Start a gateway with the given routes; it ends with the test."""
    gateways: list[RunningGateway] = []

    def start(**routes: Any) -> RunningGateway:
        gateways.append(RunningGateway(**routes))
        return gateways[-1]

    yield start
    for gateway in gateways:
        gateway.close()


@pytest.fixture
def front(
    start_engine: Callable[..., SimulatedEngine], start_gateway: Callable[..., RunningGateway]
) -> RunningGateway:
    """A gateway before a quick simulated engine."""
    return start_gateway(engine=start_engine().socket)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """The Python API on this machine, with folders of the test's own and without the page."""
    monkeypatch.setenv("LAUNCHER_SITE", os.devnull)
    monkeypatch.setenv("LAUNCHER_CONFIG", os.devnull)
    monkeypatch.setenv("LAUNCHER_PLACES__SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.setenv("LAUNCHER_PLACES__CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAUNCHER_NETWORK__BIND", "127.0.0.1")
    monkeypatch.setenv("LAUNCHER_SESSION__PAGE", "false")
    return Launcher(load())
