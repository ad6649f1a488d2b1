"""Open OnDemand's reverse proxy for the tests: Debian's real apache2 on a free loopback port.

Owns the web server's configuration, start and stop; what is behind the proxy is the test's. The directives
are those of OOD's generated portal configuration (mod_proxy, mod_lua, mod_headers), so its quirks are real:

    with Portal() as portal:                             # or the fixtures `portal` (http), `portal_https`
        portal.node_url("127.0.0.1", port, "v1/models")  # .../node/127.0.0.1/PORT/v1/models
        portal.rnode_url("127.0.0.1", port)              # the prefix is stripped before the app sees it
        portal.cookies                                   # what a logged-in client sends

A GET without the cookie goes round by `/oidc/login` and is then user `portal.user`, so a browser logs
in by itself; any other request without it gets 401. `Portal(scheme="https")` has a self-signed certificate,
`portal.certificate`. `Portal(version="3.1")` strips neither `Authorization` nor the portal's own cookie, as
OOD 3.1 did not. `timeout_s` is Apache's `Timeout` (60 s is its default). `portal.log()` is both its logs.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.slurm.processes import free_ports

MODULES = Path("/usr/lib/apache2/modules")
LUA = Path(__file__).parent / "lua"
APACHE = "/usr/sbin/apache2"

_LOADED = ["mpm_event", "authn_core", "authz_core", "authz_user", "env", "headers", "lua", "ssl"]
_LOADED += ["socache_shmcb", "proxy", "proxy_http", "proxy_wstunnel"]

_SERVER = """\
ServerRoot "{folder}"
PidFile "{folder}/apache2.pid"
DefaultRuntimeDir "{folder}"
Mutex file:{folder} default
{modules}
{identity}
ServerName localhost
Listen 127.0.0.1:{port}
Timeout {timeout_s}
KeepAlive On
StartServers 1
ThreadsPerChild 50
MaxRequestWorkers 100
ErrorLog "{folder}/error.log"
LogLevel warn
LogFormat "%h %u \\"%r\\" %>s %b" portal
CustomLog "{folder}/access.log" portal
DocumentRoot "{folder}/htdocs"
<Directory />
  AllowOverride None
  Require all granted
</Directory>
TraceEnable off
Header always set Content-Security-Policy "frame-ancestors {scheme}://localhost:{port};"
{tls}
LuaRoot "{folder}/lua"
SetEnv PORTAL_USER "{user}"
LuaMapHandler "^/oidc/login$" "{folder}/lua/login.lua" login
{routes}
"""

_TLS = """\
Header always set Strict-Transport-Security "max-age=63072000; includeSubDomains; preload"
SSLEngine On
SSLCertificateFile "{folder}/portal.pem"
SSLCertificateKeyFile "{folder}/portal.key"
"""

_STRIP = """\
  RequestHeader edit* Cookie "mod_auth_openidc_session_\\d+=[^;]+;" ""
  RequestHeader edit* Cookie "mod_auth_openidc_session=[^;]+;" ""
  RequestHeader unset Authorization
"""

# Header edits as in OOD's ood-portal.conf.erb: they decide which Location and Set-Cookie the browser gets.
_ROUTE = """\
<LocationMatch "^/{route}/(?<host>{host_regex})/(?<port>\\d+){rest}">
  AuthType openid-connect
  Require valid-user
  LuaHookCheckUserID login.lua check_user
{strip}
  {location}
  Header edit* Set-Cookie ";\\s*(?i)Domain[^;]*" ""
  Header edit* Set-Cookie ";\\s*(?i)Path[^;]*" ""
  Header edit Set-Cookie "^([^;]+)" "$1; Path=/{route}/%{{MATCH_HOST}}e/%{{MATCH_PORT}}e"
  LuaHookFixups node_proxy.lua node_proxy
</LocationMatch>
"""
_NODE_LOCATION = 'Header edit Location "^[^/]+//[^/]+" ""'
_RNODE_LOCATION = (
    'Header edit Location "^([^/]+//[^/]+)|(?=/)|^([\\./]{1,}(?<!/))" "/rnode/%{MATCH_HOST}e/%{MATCH_PORT}e"'
)


class Portal:
    """A running Apache that proxies `/node/HOST/PORT/…` and `/rnode/HOST/PORT/…` as an OOD portal does."""

    def __init__(
        self,
        *,
        scheme: Literal["http", "https"] = "http",
        version: Literal["3.1", "4.2"] = "4.2",
        user: str = "alice",
        host_regex: str = "[^/]+",
        timeout_s: int = 60,
    ) -> None:
        self.scheme = scheme
        self.version = version
        self.user = user
        self.host_regex = host_regex
        self.timeout_s = timeout_s
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="portal-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the portal is, without a slash at the end."""
        return f"{self.scheme}://localhost:{self.port}"

    @property
    def cookies(self) -> dict[str, str]:
        """The cookie of a user who has logged in to the portal."""
        return {"mod_auth_openidc_session": self.user}

    @property
    def certificate(self) -> Path:
        """The portal's own certificate, to be trusted by clients of the https portal."""
        return self._folder / "portal.pem"

    def node_url(self, host: str, port: int, path: str = "") -> str:
        """The address under which the app sees the whole path, prefix included."""
        return f"{self.url}/node/{host}/{port}/{path.lstrip('/')}"

    def rnode_url(self, host: str, port: int, path: str = "") -> str:
        """The address whose prefix is stripped before the app sees it."""
        return f"{self.url}/rnode/{host}/{port}/{path.lstrip('/')}"

    def log(self) -> str:
        """The access log and the error log as they are now."""
        texts = [self._folder / "access.log", self._folder / "error.log"]
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in texts if path.exists())

    def __enter__(self) -> Portal:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Portal:
        """Start Apache; another port is tried when somebody took ours between choosing and binding it."""
        atexit.register(self.stop)
        # Apache's children are not root and must read the scripts, wherever the checkout lies.
        self._folder.chmod(0o755)
        pages = self._folder / "htdocs"
        pages.mkdir()
        (pages / "index.html").write_text("<title>Dashboard</title>the portal's dashboard\n")
        shutil.copytree(LUA, self._folder / "lua")
        if self.scheme == "https":
            self._make_certificate()
        for _ in range(5):
            (self.port,) = free_ports(1)
            configuration = self._folder / "apache2.conf"
            configuration.write_text(self._configuration())
            with (self._folder / "error.log").open("ab") as errors:
                self._process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", APACHE, "-f", str(configuration), "-D", "FOREGROUND"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
            if self._answers(self._process):
                return self
        log = self.log()
        self.stop()
        raise RuntimeError(f"apache2 does not start:\n{log}")

    def stop(self) -> None:
        """Stop Apache and remove its folder; can be called twice."""
        atexit.unregister(self.stop)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _configuration(self) -> str:
        routes = [("node", "", _NODE_LOCATION), ("rnode", "(?<uri>/.*|)", _RNODE_LOCATION)]
        return _SERVER.format(
            folder=self._folder,
            modules="\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in _LOADED),
            # Only root may, and must, name another user for the children.
            identity="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
            port=self.port,
            scheme=self.scheme,
            timeout_s=self.timeout_s,
            tls=_TLS.format(folder=self._folder) if self.scheme == "https" else "",
            user=self.user,
            routes="\n".join(
                _ROUTE.format(
                    route=route,
                    rest=rest,
                    host_regex=self.host_regex,
                    strip=_STRIP if self.version != "3.1" else "",
                    location=location,
                )
                for route, rest, location in routes
            ),
        )

    def _make_certificate(self) -> None:
        key, subject = self._folder / "portal.key", "subjectAltName=DNS:localhost,IP:127.0.0.1"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += [
            "-subj",
            "/CN=localhost",
            "-addext",
            subject,
            "-keyout",
            str(key),
            "-out",
            str(self.certificate),
        ]
        subprocess.run(command, check=True, capture_output=True)

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        for _ in range(200):
            if process.poll() is not None:
                return False
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            except OSError:
                time.sleep(0.05)
        return False
