"""Open OnDemand: are the clusters of site.yml its own, and does its proxy reach a node under the path we count on?"""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.cookiejar import CookieJar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from launcher.doctor.checks import Check, fail, ok, warn
from launcher.settings.schema import Settings

_CLUSTERS = Path("/etc/ood/config/clusters.d")
_BROWSER_S = 120.0


def check_cluster_ids(settings: Settings, folder: Path = _CLUSTERS) -> list[Check]:
    """Whether OOD knows each Slurm cluster under the name that the form will give it."""
    at = "clusters"
    if not folder.is_dir():
        return [
            warn(
                at, f"There is no {folder}: is this the portal's host?", "Run launcher doctor there as well."
            )
        ]
    try:
        # OOD's own rule: a name that begins with a dot, or no .yml at its end, is none of its clusters.
        known = {
            path.stem
            for path in folder.iterdir()
            if path.suffix in (".yml", ".yaml") and path.stem[:1] != "."
        }
    except OSError as error:
        return [warn(at, f"{folder}: {error.strerror}.", "Run launcher doctor as somebody who may read it.")]
    checks = []
    for cluster in settings.clusters.values():
        if cluster.scheduler != "slurm":
            continue
        missing = [name for name in cluster.ondemand or (cluster.name,) if name not in known]
        at = f"clusters.{cluster.name}.ondemand"
        if missing:
            says = f"{folder} has no cluster {', '.join(missing)}."
            checks.append(fail(at, says, f"Write ondemand: [one of {', '.join(sorted(known)) or 'none'}]."))
        else:
            checks.append(ok(at, f"Open OnDemand knows {', '.join(cluster.ondemand or (cluster.name,))}."))
    return checks


def check_portal(
    url: str, settings: Settings, say: Callable[[str], None] | None = None, *, certificate: str | None = None
) -> list[Check]:
    """Whether `URL/node/HOST/PORT/…` and `/rnode/…` reach a small server that is started here for it.

    A portal that wants a login is asked through a person's browser: `say` is given the address to open, and the
    server waits two minutes. Without `say` that is a warning. `certificate`: a file with the portal's own authority.
    """
    url, host = url.rstrip("/"), settings.network.host or socket.gethostname()
    host = host.replace("{node}", socket.gethostname().partition(".")[0])
    with _Server(settings.network.bind) as server:
        checks = []
        for route, says in (("node", "kept"), ("rnode", "taken off")):
            prefix = f"/{route}/{host}/{server.port}"
            address = f"{url}{prefix}/{server.word}"
            arrived = f"{prefix}/{server.word}" if route == "node" else f"/{server.word}"
            answer = _fetch(address, server, certificate)
            if answer is None and not server.seen and say is not None:
                say(f"Open this address in a browser that is logged in to the portal: {address}")
                server.wait(_BROWSER_S)
            checks.append(_judge(f"portal {route}", url, answer, server.take(), arrived, says))
        return checks


def _judge(about: str, url: str, trouble: str | None, seen: set[str], arrived: str, says: str) -> Check:
    if arrived in seen:
        return ok(about, f"{url} reaches this machine, the prefix is {says}.")
    if seen:
        return fail(
            about, f"The request arrived as {sorted(seen)[0]}, not {arrived}.", "See node_uri and rnode_uri."
        )
    if trouble is None:
        return warn(
            about, f"{url} wants a login, so it could not be tried from here.", "Run it in a terminal."
        )
    settings = "Set node_uri and rnode_uri in /etc/ood/config/ood_portal.yml, and look at host_regex there."
    return fail(about, f"{url} does not reach this machine: {trouble}.", settings)


def _fetch(address: str, server: _Server, certificate: str | None) -> str | None:
    """What went wrong, None when an answer came, be it a page for the login."""
    tls = ssl.create_default_context(cafile=certificate)
    opener = urllib.request.build_opener(
        urllib.request.HTTPCookieProcessor(CookieJar()),
        urllib.request.HTTPSHandler(context=tls),
        urllib.request.ProxyHandler({}),
    )
    try:
        with opener.open(address, timeout=10) as answer:
            answer.read(1 << 16)
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403) else f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)).removesuffix(".")
    return None


class _Server(ThreadingHTTPServer):
    """A server for one guest: it only answers to a path that ends in `word`, which nobody can guess."""

    def __init__(self, bind: str) -> None:
        self.word = secrets.token_urlsafe(16)
        self.seen: set[str] = set()
        self._arrived = threading.Event()
        super().__init__((bind, 0), _Guest)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def arrived(self, path: str) -> None:
        self.seen.add(path)
        self._arrived.set()

    def wait(self, timeout_s: float) -> None:
        self._arrived.wait(timeout_s)

    def take(self) -> set[str]:
        seen, self.seen = self.seen, set()
        self._arrived.clear()
        return seen

    def __enter__(self) -> _Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *rest: object) -> None:
        self.shutdown()
        self.server_close()


class _Guest(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        known = self.path.rpartition("/")[2] == server.word
        if known:
            server.arrived(self.path)
        body = b"The launcher's doctor has seen you: the proxy works.\n" if known else b""
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing: the doctor says what came."""
