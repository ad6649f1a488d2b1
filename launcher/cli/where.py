"""`launcher profiles` and `launcher clusters`: what hardware there is, what is free, when a job would start.

Also `launcher clusters setup`, which makes another one known; how is in launcher.api.remote.setup.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from launcher.cli.tables import one_line, table
from launcher.errors import LauncherError, RequestError, SchedulerError

if TYPE_CHECKING:
    from launcher.api.remote.far import Far
    from launcher.planning.soonest import Start
    from launcher.schedulers.supply import Supply
    from launcher.settings.schema import Cluster, Profile

_PROFILES = """\
examples:
  launcher profiles                  each profile, what is idle, and when a job would start
  launcher profiles --hours 1        the same for a session of one hour
"""
_CLUSTERS = """\
examples:
  launcher clusters --json
  launcher clusters setup della --host me@della.example.edu

The jobs counted as waiting are those that wait for hardware, as far as Slurm shows you the jobs of others.
"""

_SETUP = """\
examples:
  launcher clusters setup della --host me@della.example.edu
  launcher clusters setup della --launcher /apps/inference/venv/bin/launcher

It logs in with your ssh (keys, agent, configuration; a code is asked for once), uses the launcher that is there or
installs this one into your home, and writes the cluster into your settings. Run it again to upgrade.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the one of both commands that `parser` is for."""
    if parser.prog.endswith("clusters"):
        parser.epilog = _CLUSTERS
        _setup_options(parser)
        return
    parser.epilog = _PROFILES
    parser.add_argument("--hours", metavar="H", help="how long a session; else what each profile gives")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    if arguments.command == "clusters":
        return _setup(arguments) if arguments.clusters_command == "setup" else _clusters(arguments)
    return _profiles(arguments)


def _setup_options(parser: argparse.ArgumentParser) -> None:
    from launcher.cli.parser import add_command

    commands = parser.add_subparsers(dest="clusters_command", metavar="COMMAND", required=False)
    setup = add_command(commands, "setup", "make a cluster usable over ssh, from this machine", _SETUP)
    setup.add_argument("name", metavar="NAME", help="what the cluster is called here")
    for option, metavar, text in (
        ("host", "HOST", "where ssh goes: HOST, USER@HOST or a name of ~/.ssh/config (default: NAME)"),
        ("launcher", "PATH", "use the launcher that is there, and install none"),
        ("path", "FOLDER", "where to install it there (default: ~/.local/share/inference-ondemand)"),
        ("python", "PATH", "the Python there, 3.11 to 3.13, to install it with"),
        ("extras", "WORDS", "what to install beside the core: ui,whisper (default), or none"),
    ):
        setup.add_argument(f"--{option}", metavar=metavar, help=text)


def _setup(arguments: argparse.Namespace) -> int:
    from launcher.api.remote.setup import EXTRAS, setup
    from launcher.settings.layers import load

    asked = arguments.extras
    extras = EXTRAS if asked is None else tuple(word for word in asked.split(",") if word not in ("", "none"))
    made = setup(
        arguments.name, load(), host=arguments.host, path=arguments.path, program=arguments.launcher,
        python=arguments.python, extras=extras, tell=lambda text: print(one_line(text), file=sys.stderr, flush=True),
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(dataclasses.asdict(made)))
        return 0
    if not made.slurm:
        print(f"launcher: no sbatch is found on {made.host}; does its launcher know Slurm?", file=sys.stderr)
    for folder in made.former:
        print(
            f"A former install, for when no session uses it any more: rm -r {shlex.quote(one_line(folder))}"
        )
    print(table([[name, description] for name, description in made.profiles], head=["Profile there", ""]))
    print(f"\nTry it:  launcher --cluster {made.cluster} launch simulated --wait")
    return 0


def _profiles(arguments: argparse.Namespace) -> int:
    from launcher.planning.limits import within
    from launcher.planning.soonest import soonest
    from launcher.settings.layers import load

    settings = load()
    # One that the site's limits rule out is shown too: its start says so.
    profiles = [within(profile, settings) or profile for profile in settings.profiles.values()]
    starts = soonest(settings, profiles, _hours(arguments.hours))
    both = list(zip(profiles, starts, strict=True))
    if arguments.json:
        print(json.dumps({"profiles": [_described(profile, start) for profile, start in both]}))
        return 0
    head = ["Profile", "Partition", "Each node", "Up to", "Idle now", "Would start"]
    here = settings.planned_here
    rows = [
        _row(profile, start) if profile.name in here else [profile.name, f"({profile.cluster})", *"????"]
        for profile, start in both
    ]
    print(table(rows, head=head))
    for profile, start in both:
        for sentence in filter(None, (start.trouble, start.advice)):
            print(f"{profile.name}: {one_line(sentence)}")
    return 0


def _hours(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = -1
    if not 0 < hours < 1e5:
        raise RequestError(f'--hours must be a number above 0, not "{text[:80]}".', "Try --hours 4.")
    return hours


def _row(profile: Profile, start: Start) -> list[str]:
    from launcher.planning.soonest import idle_words, span, when

    where = f"{profile.partition or 'default'} ({profile.cluster})"
    nodes = f"{profile.nodes} nodes: " if profile.nodes > 1 else ""
    starts = "?" if start.starts_at is None else when(start.starts_at)
    found, idle = start.supply, "?"
    if found is not None:
        idle = idle_words(profile, found)
        idle += f", {found.pending} waiting" if found.pending and found.available else ""
    return [profile.name, where, nodes + _hardware(profile), span(profile.hours_max), idle, starts]


def _hardware(profile: Profile) -> str:
    most = max(profile.gpus_max or 0, profile.gpus)
    gpus = f"{profile.gpus} to {most}" if most > profile.gpus else str(profile.gpus)
    memory = f" {profile.gpu_memory_gb:g} GB" if profile.gpu_memory_gb else ""
    return ", ".join(
        words
        for words, there in (
            (f"{gpus} × {profile.gpu_type or 'GPU'}{memory}", profile.gpus or profile.gpus_max),
            (f"{profile.cpus} core{'s' * (profile.cpus != 1)}", profile.cpus),
            (f"{profile.memory_gb or 0:g} GB", profile.memory_gb),
        )
        if there
    )


def _described(profile: Profile, start: Start) -> dict[str, Any]:
    return {**dataclasses.asdict(profile), "start": start.to_dict()}


def _clusters(arguments: argparse.Namespace) -> int:
    from launcher.settings.layers import load

    clusters = list(load().clusters.values())
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(_asked, clusters))
    if arguments.json:
        described = [
            {
                **dataclasses.asdict(cluster),
                "supply": [dataclasses.asdict(part) for part in parts],
                "trouble": trouble,
            }
            for cluster, (parts, trouble) in zip(clusters, answers, strict=True)
        ]
        print(json.dumps({"clusters": described}))
    else:
        rows = [
            [cluster.name, *_shown(part)]
            for cluster, (parts, _) in zip(clusters, answers, strict=True)
            for part in parts
        ]
        head = ["Cluster", "Partition", "GPU", "GPUs idle", "Nodes idle", "Cores idle", "Waiting", "Up to"]
        if rows:
            print(table(rows, head=head))
        for cluster, (_, trouble) in zip(clusters, answers, strict=True):
            if trouble:
                print(f"{cluster.name}: {one_line(trouble)}", file=sys.stderr)
    return SchedulerError.exit_code if all(trouble for _, trouble in answers) else 0


def _asked(cluster: Cluster) -> tuple[list[Supply], str | None]:
    from launcher.api.remote.far import far_to
    from launcher.schedulers.supply import supply

    try:
        return supply(cluster) if (far := far_to(cluster)) is None else _asked_there(far), None
    except LauncherError as error:
        return [], str(error)


def _asked_there(far: Far) -> list[Supply]:
    from launcher.api.remote.everywhere import said_there
    from launcher.schedulers.supply import Supply
    from launcher.sessions.stored import made

    said = said_there(far, "clusters", "--json", ask=False)
    try:
        return [made(Supply, part) for one in said["clusters"] for part in one["supply"]]
    except (KeyError, TypeError, AttributeError):
        raise far.strange() from None


def _shown(part: Supply) -> list[str]:
    from launcher.planning.soonest import span

    spread = (
        f" (at most {part.gpus_idle_node} on one)"
        if part.gpus_idle > part.gpus_idle_node and part.gpus
        else ""
    )
    gpus = f"{part.gpus_idle} of {part.gpus}{spread}" if part.gpus else ""
    kind = part.gpu_type or ("GPU" if part.gpus else "")
    waiting = ", ".join(f"{count} {reason}" for reason, count in sorted(part.reasons.items()))
    return [
        part.partition + ("" if part.available else " (closed)"),
        kind,
        gpus,
        f"{part.nodes_idle} of {part.nodes}",
        f"{part.cpus_idle} of {part.cpus}",
        waiting,
        "any time" if part.hours_max is None else span(part.hours_max),
    ]
