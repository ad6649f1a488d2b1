"""`launcher gateway`: the one address over many sessions: run it, see it, end it, or let it be a small job."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launcher.api import Launcher
from launcher.cli.parser import add_command, number, whole
from launcher.cli.status import print_json
from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError, RequestError

if TYPE_CHECKING:
    from launcher.fleet.endpoint import Endpoint
    from launcher.fleet.store import Replica, Running, Store
    from launcher.sessions.job import Job

EXAMPLES = """\
examples:
  launcher gateway                              run it here until Ctrl-C
  launcher gateway submit --profile cpu --hours 168     as a small job
  launcher gateway status                       where it is, and its sessions
  launcher gateway stop --sessions              end it and all that it started

The settings say which models it may start: see offers and endpoint in docs/site.md. A key for it is made by
`launcher keys get-access-token`.
"""
_STOP_S = 60.0
_STATES = {"CLAIMED": "being submitted", "PLANNED": "submitted", "LEAVING": "leaving"}


def options(parser: argparse.ArgumentParser) -> None:
    """Add its commands; without one it runs."""
    parser.epilog = EXAMPLES
    _run_options(parser, suppress=False)
    commands = parser.add_subparsers(dest="gateway_command", metavar="COMMAND")
    run_here = add_command(commands, "run", "run the gateway here until Ctrl-C", EXAMPLES)
    _run_options(run_here, suppress=True)
    add_command(
        commands,
        "status",
        "show the gateways and their sessions",
        "example:\n  launcher gateway status --json",
    )
    stop = add_command(
        commands, "stop", "end the gateway; sessions go on", "example:\n  launcher gateway stop --sessions"
    )
    stop.add_argument("--sessions", action="store_true", help="end the sessions that it started, too")
    submit = add_command(
        commands,
        "submit",
        "run the gateway as a small job",
        "example:\n  launcher gateway submit --profile cpu --hours 168",
    )
    submit.add_argument("--profile", metavar="NAME", help="the hardware; it needs one core and no GPU")
    submit.add_argument("--hours", type=number, metavar="H", help="the job submits the next one before that")
    submit.add_argument("--cpus", type=whole, metavar="N", default=1, help="cores (default: 1)")
    submit.add_argument("--memory-gb", type=number, metavar="GB", default=2.0, help="memory (default: 2)")
    submit.add_argument("--account", metavar="NAME", help="Slurm's account")
    submit.add_argument("--again", action="store_true", help=argparse.SUPPRESS)  # what the job itself calls


def _run_options(parser: argparse.ArgumentParser, *, suppress: bool) -> None:
    default = argparse.SUPPRESS if suppress else None
    parser.add_argument("--host", metavar="HOST", default=default, help="the address to listen on")
    parser.add_argument(
        "--port", type=whole, metavar="N", default=default, help="the port; else the one that was chosen once"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for; its exit code."""
    match arguments.gateway_command:
        case "status":
            return _status(arguments.json)
        case "stop":
            return _stop(arguments.json, sessions=arguments.sessions)
        case "submit":
            return _submit(arguments)
        case _:
            return _run(arguments)


# -- run


def _run(arguments: argparse.Namespace) -> int:
    import asyncio
    import logging

    from launcher.fleet.endpoint import Endpoint

    settings = Launcher().settings
    if arguments.port is not None and not 0 <= arguments.port < 65536:
        raise RequestError(f"--port must be from 0 to 65535, not {arguments.port}.", "0 chooses a free one.")
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("launcher.fleet").setLevel(logging.INFO)
    _log_in(settings)
    endpoint = Endpoint(settings, host=arguments.host, port=arguments.port)
    told: list[int] = []

    def end(signum: int) -> None:
        # Ctrl-C once more: at once. TERM may come twice without a wish: from Slurm, and from the script of our job.
        if told and signum == signal.SIGINT:
            os._exit(128 + signum)
        if told:
            return
        told.append(signum)
        print("The gateway ends; its sessions go on.", file=sys.stderr, flush=True)
        endpoint.stop()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(one) is not signal.SIG_IGN:  # nohup has its reason
                loop.add_signal_handler(one, end, one)
        await endpoint.run(lambda at: _started(at, as_json=arguments.json))

    asyncio.run(serve())
    return 130 if signal.SIGINT in told else 0


def _log_in(settings: Any) -> None:
    """Open the ssh connections that need a password now, while somebody is there to type it."""
    from launcher.api.remote.far import fars
    from launcher.schedulers.ssh import can_ask, open_master

    hosts = [far.host for far in fars(settings)]
    hosts += [c.ssh for c in settings.clusters.values() if c.ssh is not None and not c.remote]
    for host in dict.fromkeys(hosts):
        try:
            open_master(host, ask=can_ask())
        except LauncherError as error:  # its sessions are looked for again and again
            print(f"launcher: {one_line(str(error))}", file=sys.stderr)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)


def _started(endpoint: Endpoint, *, as_json: bool) -> None:
    assert endpoint.life is not None
    offers = list(endpoint.life.offers)
    if as_json:
        print_json(
            {
                "base_url": endpoint.url,
                "offers": offers,
                "pid": os.getpid(),
                "gateway": endpoint.life.peers.name,
            }
        )
        sys.stdout.flush()
        return
    named = ", ".join(map(one_line, offers)) or "none; name some under offers in the settings"
    print(f"The endpoint answers at {endpoint.url}\nModels that it may start: {named}")
    print("A key for it: launcher keys get-access-token")
    print("Ctrl-C ends the gateway; sessions go on until nobody uses them.", flush=True)


# -- status, stop, submit


def _status(as_json: bool) -> int:
    from launcher.fleet.job import GatewayJob
    from launcher.fleet.peers import living
    from launcher.fleet.places import store_url
    from launcher.fleet.store import Store

    launcher = Launcher()
    store = Store(store_url(launcher.settings))
    try:
        gateways, replicas = living(store), store.replicas()
    finally:
        store.close()
    try:
        job = GatewayJob(launcher).job()
    except LauncherError as error:
        print(f"launcher: {one_line(str(error))}", file=sys.stderr)
        job = None
    states = _states(launcher, replicas)
    if as_json:
        return print_json(_told(gateways, replicas, states, job))
    if job is not None and not gateways:
        print(f"Job {job.id} will carry the gateway; it is {job.state}.")
    elif not gateways:
        print("No gateway runs. Start one: launcher gateway")
    else:
        rows = [[one.url, one.host, str(one.pid), _since(one.started_at)] for one in gateways]
        print(table(rows, head=["Base URL", "Host", "PID", "Since"]))
    if replicas:
        print()
        seen = zip(replicas, states, strict=True)
        rows = [[r.model, r.session or "", r.cluster, r.profile, state] for r, state in seen]
        print(table(rows, head=["Model", "Session", "Cluster", "Profile", "State"]))
    return 0


def _states(launcher: Launcher, replicas: Sequence[Replica]) -> list[str]:
    """How far each session is, where that is seen from here; others are known to the launcher of their cluster."""
    found = []
    for row in replicas:
        if row.state == "PLANNED" and row.session is not None:
            with contextlib.suppress(LauncherError, OSError):
                found.append(launcher.session(row.session))
    statuses = zip(found, launcher.statuses(found), strict=True)
    seen = {session.id: status.state.lower() for session, status in statuses}
    return [seen.get(row.session or "", _STATES.get(row.state, row.state)) for row in replicas]


def _told(
    gateways: Sequence[Running], replicas: Sequence[Replica], states: Sequence[str], job: Job | None
) -> dict[str, Any]:
    """The status for programs."""
    return {
        "gateways": [
            {"base_url": one.url, "host": one.host, "pid": one.pid, "started_at": one.started_at}
            for one in gateways
        ],
        "sessions": [
            {
                "model": one.model,
                "session": one.session,
                "cluster": one.cluster,
                "profile": one.profile,
                "state": state,
            }
            for one, state in zip(replicas, states, strict=True)
        ],
        "job": {"id": job.id, "state": job.state, "reason": job.reason} if job is not None else None,
    }


def _since(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def _stop(as_json: bool, *, sessions: bool) -> int:
    from launcher.fleet.job import GatewayJob
    from launcher.fleet.peers import living
    from launcher.fleet.places import store_url
    from launcher.fleet.store import Store

    launcher = Launcher()
    store = Store(store_url(launcher.settings))
    try:
        job, found = GatewayJob(launcher).stop(), living(store)
        awaited = [one for one in found if _ended_here(one) or job is not None]
        until = time.monotonic() + _STOP_S
        while _going_on(store, awaited) and time.monotonic() < until:
            time.sleep(0.2)
        left = _going_on(store, found)
        stopped = _stop_sessions(launcher, store) if sessions else []
    finally:
        store.close()
    if as_json:
        still = [{"host": one.host, "pid": one.pid} for one in left]
        print_json({"job": job, "still_running": still, "sessions": stopped})
        return 1 if left else 0
    for one in left:
        advice = f"End it: kill -9 {one.pid}" if one in awaited and _is_here(one) else "Stop it there."
        print(f"launcher: a gateway on {one.host} (PID {one.pid}) goes on. {advice}", file=sys.stderr)
    if job is None and not found:
        print("No gateway runs.")
    elif not left:
        print("The gateway has ended." + ("" if sessions else " Its sessions go on until nobody uses them."))
    for name in stopped:
        print(f"Stopped: {name}")
    return 1 if left else 0


def _is_here(gateway: Running) -> bool:
    from launcher.schedulers.local import own_job_id

    return gateway.id.rpartition(":")[0] == own_job_id().rpartition(":")[0]


def _going_on(store: Store, gateways: Sequence[Running]) -> list[Running]:
    """Those of them that have not ended; a process that hangs is there although the state has missed it by then."""
    from launcher.schedulers.local import pid_of

    listed = {one.id for one in store.gateways()}
    return [one for one in gateways if (pid_of(one.id) is not None if _is_here(one) else one.id in listed)]


def _ended_here(gateway: Running) -> bool:
    """Ask a gateway of this machine to end; False for one of another."""
    from launcher.schedulers.local import pid_of

    if not _is_here(gateway):
        return False
    # Not the number in its row: the name tells that it is still that process.
    if (pid := pid_of(gateway.id)) is not None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:  # it has ended just now
            return True
        except PermissionError:
            return False
    return True


def _stop_sessions(launcher: Launcher, store: Any) -> list[str]:
    stopped = []
    for row in store.replicas():
        if row.session is None:
            continue
        try:
            cluster = launcher.settings.clusters.get(row.cluster)
            far = cluster is not None and cluster.remote
            there = Launcher(launcher.settings, cluster=row.cluster) if far else launcher
            session = there.session(row.session)
            session.stop(wait=False)
            stopped.append(session.id)
        except (LauncherError, OSError) as error:
            print(f"launcher: {one_line(str(error))}", file=sys.stderr)
        else:
            store.release(row.model, row.slot, row.session)
    return stopped


def _submit(arguments: argparse.Namespace) -> int:
    from launcher.fleet.job import GatewayJob

    gateway = GatewayJob(Launcher())
    if arguments.again:
        job = gateway.again()
    else:
        names = ("profile", "hours", "cpus", "memory_gb", "account")
        job = gateway.submit({name: getattr(arguments, name) for name in names})
    if arguments.json:
        return print_json({"job": job, "script": str(gateway.script)})
    print(f"Job {job} will carry the gateway. Where it is then: launcher gateway status")
    return 0
