"""One running endpoint: its state, keys, front, batches and the life of its sessions, put together and taken apart.

Owns the order of both, and the port that is chosen once. What each part does is in its own module.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from pathlib import Path

from launcher.batch.files import Bounds
from launcher.batch.http import BatchAPI
from launcher.batch.passes import Passes
from launcher.errors import RequestError, StorageError
from launcher.fleet.access import Access
from launcher.fleet.front import EndpointFront
from launcher.fleet.issued import myself
from launcher.fleet.keys import StoredKeys
from launcher.fleet.life import Life
from launcher.fleet.page import StatusPage
from launcher.fleet.paths import same_framework
from launcher.fleet.places import own_folder, store_url
from launcher.fleet.store import Store
from launcher.fleet.usage import Uses
from launcher.gateway.answers import ENDPOINT
from launcher.gateway.keys import Holder
from launcher.gateway.server import Gateway
from launcher.serve.node import named, raise_file_limit
from launcher.settings.schema import Caps, Settings

_LOG = logging.getLogger("launcher.fleet")
_PORT = "port"
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
GRACE_S = 20.0  # of the 30 s that Slurm gives a job by default: the state is told after that


class Endpoint:
    """The endpoint of these settings; `host` and `port` may be said for this one process."""

    def __init__(self, settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
        self.url = ""
        self.life: Life | None = None
        self._settings = settings
        self._host = host or settings.endpoint.host
        self._port = port
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End it: what runs is answered, sessions go on."""
        self._stop.set()

    async def run(self, started: Callable[[Endpoint], object]) -> None:
        """Serve until `stop`; `started` is called once requests are taken. Raises StorageError, RequestError."""
        raise_file_limit()  # else a login node's usual limit would be some hundred clients
        loop = asyncio.get_running_loop()
        folder = own_folder(self._settings)
        store = await loop.run_in_executor(None, Store, store_url(self._settings))
        try:
            whose = await loop.run_in_executor(None, store.keep, "user", myself())
            if whose != myself():  # neither could see or end the other's sessions
                raise StorageError(
                    f"{store.where} is the state of {whose}'s endpoint.",
                    "Set endpoint.state to one of your own; a group runs its endpoint as one user.",
                )
            uses = Uses(store, folder / "uses", self._settings.endpoint.usage_days * 86400.0)
            try:
                await self._serve(store, uses, folder, started)
            finally:
                await loop.run_in_executor(None, uses.close)
        finally:
            store.close()

    async def _serve(
        self, store: Store, uses: Uses, folder: Path, started: Callable[[Endpoint], object]
    ) -> None:
        loop = asyncio.get_running_loop()
        life = self.life = Life(self._settings, store)
        groups = {name: group.owners for name, group in self._settings.groups.items()}
        keys = await loop.run_in_executor(None, StoredKeys, store, groups)
        passes = Passes(keys)
        limits = {o.name: (o.requests_per_minute, o.tokens_per_minute) for o in life.offers.values()}
        front = EndpointFront(
            life, Access(limits, keys.share), hold_max_s=self._settings.endpoint.hold_seconds_max
        )
        gateway = Gateway(keys=passes, front=front, name="endpoint", door=ENDPOINT)
        gateway.on_end = uses.on_end
        life.on_gone = front.forsake
        shown = await loop.run_in_executor(None, self._shown)  # asks the name server
        port = await self._listen(gateway, store)
        self.url = f"http://{shown}:{port}/v1"
        life.peers.url = self.url
        page = StatusPage(store, front.report, self.url)
        front.page = page.answer
        local = f"http://{self._local()}:{port}"
        batches = _batch_api(folder / "batches", passes, front, lambda: local, self._settings.limits)
        front.batches = batches
        page.batches = batches.going_on
        await life.meet()
        living = loop.create_task(life.run())
        try:
            batches.start()
            started(self)
            stopped = loop.create_task(self._stop.wait())
            await asyncio.wait({living, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if living.done():
                living.result()
        finally:
            await batches.stop()
            await gateway.stop(GRACE_S)
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await life.close()
            keys.close()
            page.close()

    async def _listen(self, gateway: Gateway, store: Store) -> int:
        """Listen where clients expect it: on the port that was said, or on the one that was chosen once."""
        loop = asyncio.get_running_loop()
        said = self._settings.endpoint.port if self._port is None else self._port
        kept = None
        if not said and self._port is None:
            kept = await loop.run_in_executor(None, store.note, _PORT)
        wanted = int(kept) if kept is not None and kept.isdecimal() else said
        try:
            port = await gateway.start(self._host, wanted)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise RequestError(
                    f"{self._host}:{wanted} cannot be listened on: {error.strerror}.",
                    "Set endpoint.host to an address of this machine.",
                ) from error
            why = (
                "is in use here, perhaps by your gateway"
                if error.errno == errno.EADDRINUSE
                else "may not be used"
            )
            raise RequestError(
                f"Port {wanted} {why}.", "See: launcher gateway status. Or choose another: --port N."
            ) from error
        if not said and self._port is None and kept is None:
            first = await loop.run_in_executor(None, store.keep, _PORT, str(port))
            if first != str(port):
                _LOG.info("another gateway has chosen port %s", first)
        return port

    def _shown(self) -> str:
        import socket

        host, said = self._host, self._settings.endpoint.shown_host
        if host in _ANY:
            host = socket.getfqdn() if said is None else named(said, socket.gethostname())
        return f"[{host}]" if ":" in host else host

    def _local(self) -> str:
        host = "127.0.0.1" if self._host in _ANY else self._host
        return f"[{host}]" if ":" in host else host


def _batch_api(
    folder: Path, passes: Passes, front: EndpointFront, url: Callable[[], str], caps: Caps
) -> BatchAPI:
    """The files and batches in `folder` of the endpoint at `url`, whose requests go through its own front."""

    def models(holder: Holder) -> set[str]:
        return {name for model in front.models(holder) for name in (model.name, *model.served)}

    def knows(holder: Holder, cluster: str, framework: str) -> bool:
        wanted = same_framework(framework)
        return any(cluster in one.clusters and one.framework == wanted for one in front.models(holder))

    bounds = Bounds.of(caps.batch_file_gb, caps.batch_files_gb)
    touch = front.usage.touch
    return BatchAPI(
        folder, passes, url=url, touch=touch, models=models, knows=knows, bounds=bounds, by_cluster=True
    )
