"""A front door, a quick simulated engine behind it; a launcher without a site."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher, Session
from launcher.fleet.store import Store
from launcher.schedulers import ssh
from launcher.settings.layers import load
from tests.conftest import needs
from tests.programs.front import RunningGateway, SimulatedEngine, Upstream, wait_until
from tests.programs.loopback import Host, Loopback
from tests.programs.postgres import Postgres
from tests.settings import without_site


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
    for name, value in without_site(tmp_path).items():
        monkeypatch.setenv(name, value)
    return Launcher(load())


@pytest.fixture(scope="module")
def hosts() -> Iterator[Loopback]:
    """Hosts for ssh on this machine, and `ssh` knows no others."""
    needs("ssh", "openssh-client")
    needs("sshd", "openssh-server")
    with Loopback() as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.env.items():
            patch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def login(hosts: Loopback) -> Host:
    """One of them."""
    return hosts.add("login")


@pytest.fixture(scope="module")
def own_launcher(tmp_path_factory: pytest.TempPathFactory, hosts: Loopback) -> Iterator[Launcher]:
    """As `launcher`, for all tests of a file."""
    settings = without_site(tmp_path_factory.mktemp("connect"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**settings, "LAUNCHER_NETWORK__HOST": "127.0.0.1"}.items():
            patch.setenv(name, value)
        yield Launcher(load())


@pytest.fixture(scope="module")
def running(own_launcher: Launcher) -> Iterator[Session]:
    """A simulated session that is ready, for all tests of a file."""
    with own_launcher.launch("simulated") as session:
        session.wait()
        yield session


@pytest.fixture
def nothing_is_left(hosts: Loopback) -> Iterator[None]:
    """No ssh, and no file of one, is left by a test."""
    ssh._configured.cache_clear()
    yield
    wait_until(lambda: not hosts.programs())
    assert not list((hosts.folder / "run").glob("launcher-ssh/*"))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The empty state of an endpoint, in each of the two databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state folder/endpoint.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """That state, opened."""
    with contextlib.closing(Store(url)) as made:
        yield made
