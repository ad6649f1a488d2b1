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

CLUSTERS = Path("/etc/ood/config/clusters.d")
_BROWSER_S = 120.0
# What a proxy says of the host behind it; it may say nothing for long.
_SILENT = 0
_BEYOND = (_SILENT, 502, 503, 504)


def cluster_ids(folder: Path) -> list[str]:
    """What OOD calls the clusters described in `folder`; raises OSError."""
    # OOD's own rule: a name that begins with a dot, or no .yml at its end, is none of its clusters.
    return sorted(p.stem for p in folder.iterdir() if p.suffix in (".yml", ".yaml") and p.stem[:1] != ".")


def check_cluster_ids(settings: Settings, folder: Path = CLUSTERS) -> list[Check]:
    """Whether OOD knows each Slurm cluster under the name that the form will give it."""
    at = "clusters"
    if not folder.is_dir():
        return [
            warn(
                at, f"There is no {folder}: is this the portal's host?", "Run launcher doctor there as well."
            )
        ]
    try:
        known = cluster_ids(folder)
    except OSError as error:
        return [warn(at, f"{folder}: {error.strerror}.", "Run launcher doctor as somebody who may read it.")]
    checks = []
    for cluster in settings.clusters.values():
        if not cluster.in_form:
            continue
        missing = [name for name in cluster.ondemand or (cluster.name,) if name not in known]
        at = f"clusters.{cluster.name}.ondemand"
        if missing:
            says = f"{folder} has no cluster {', '.join(missing)}."
            checks.append(fail(at, says, f"Write ondemand: [one of {', '.join(known) or 'none'}]."))
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
    try:
        tls = ssl.create_default_context(cafile=certificate)
    except (OSError, ValueError) as error:  # no file, not readable, no certificate
        why = getattr(error, "strerror", None) or error
        return [
            fail("portal", f"--certificate {str(certificate)[:200]}: {why}.", "Name a file in PEM format.")
        ]
    with _Server(settings.network.bind) as server:
        checks = []
        for route in ("node", "rnode"):
            prefix = f"/{route}/{host}/{server.port}"
            address = f"{url}{prefix}/{server.word}"
            arrived = f"{prefix}/{server.word}" if route == "node" else f"/{server.word}"
            answer = _fetch(address, tls)
            if isinstance(answer, Check):
                return [answer]  # there is no portal to ask for the other one
            if answer is None and not server.seen and say is not None:
                say(f"Open this address in a browser that is logged in to the portal: {address}")
                server.wait(_BROWSER_S)
            checks.append(_judge(route, url, host, answer, server.take(), arrived))
        return checks


def _judge(route: str, url: str, host: str, code: int | None, seen: set[str], arrived: str) -> Check:
    about = f"portal {route}"
    if arrived in seen:
        says = "kept" if route == "node" else "taken off"
        return ok(about, f"{url} reaches this machine, the prefix is {says}.")
    if seen:
        wrong = f"The request arrived as {sorted(seen)[0]}, not {arrived}."
    elif code is None:
        wrong = f"{url} wants a login, so it could not be tried from here."
        return warn(about, wrong, "Run it in a terminal.")
    else:
        what = "no answer within 10 s" if code == _SILENT else f"HTTP {code}"
        wrong = f"{url} does not reach this machine: {what}."
    if route == "rnode":
        return warn(about, wrong, "It is not needed: sessions use node_uri.")
    if code in _BEYOND and not seen:  # the route is there
        return fail(
            about, wrong, f"From the portal, is there a way to {host}? See network.host and firewalls."
        )
    advice = f"In /etc/ood/config/ood_portal.yml, node_uri must be /node, and host_regex must match {host}."
    return fail(about, wrong, advice)


def _fetch(address: str, tls: ssl.SSLContext) -> int | Check | None:
    """The HTTP code that speaks of trouble, None for an answer, be it a page for the login; a Check: no portal."""
    opener = urllib.request.build_opener(
        urllib.request.HTTPCookieProcessor(CookieJar()),
        urllib.request.HTTPSHandler(context=tls),
        urllib.request.ProxyHandler({}),
    )
    try:
        with opener.open(address, timeout=10) as answer:
            answer.read(1 << 16)
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403) else error.code
    except TimeoutError:
        return _SILENT
    except (OSError, ValueError) as error:
        return _nobody("/".join(address.split("/", 3)[:3]), getattr(error, "reason", error))
    return None


def _nobody(url: str, why: object) -> Check:
    about = "portal"
    if isinstance(why, ConnectionRefusedError):
        return fail(about, f"Nothing listens at {url}.", "Is the address right?")
    if isinstance(why, socket.gaierror):
        return fail(about, f"There is no host of the name in {url}.", "Is the address right?")
    if isinstance(why, ssl.SSLCertVerificationError):
        says = f"The certificate of {url} is not trusted: {why.verify_message}."
        return fail(about, says, "Name its authority's file with --certificate.")
    return fail(about, f"{url} does not answer: {str(why).removesuffix('.')}.", "Is the address right?")


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
