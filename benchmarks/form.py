"""P12: what the app adds to Open OnDemand's own time for its form, with 0, 100 and 1000 models, and a broken launcher.

Debian's Ruby does with form.yml.erb what the dashboard does once for each of a user's processes: ERB, then YAML. The
same with a form.yml that is plain text is the dashboard's own time; the difference is ours. *first* is the first form
of a user who has never seen one (each model is read and weighed), *later* every other one. Every tenth model is a
Whisper model. Slurm is not asked: its answer is waited for a second at most, and how long it takes is its own.

    make bench NAME=form [ARGS='--rounds 10 --models 0 100 1000']
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.app import sites

ROOT = Path(__file__).resolve().parents[1]
RENDER = ROOT / "benchmarks" / "parts" / "form.rb"
GOAL_S = 0.3
PACKAGED = 3  # of the launcher's own catalog; without Whisper's engine one less
_PROFILE = {"cluster": "test", "gpu_type": "a100", "gpu_memory_gb": 80, "hours_max": 24}
SETTINGS = {
    "clusters": {"test": {}},
    "profiles": {f"gpu-{n}": {**_PROFILE, "gpus": n, "partition": "gpu"} for n in (1, 2, 4)},
    "form": {"live": False},
}
BROKEN = {"broken launcher": "#!/bin/sh\necho broken >&2\nexit 1\n", "no launcher": None}


def main() -> None:
    """Print the table and, as the last line, the result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--models", type=int, nargs="+", default=[0, 100, 1000])
    wanted = parser.parse_args()
    if shutil.which("ruby") is None:
        sys.exit("There is no program ruby here: apt-get install ruby")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        own = dashboards_own(folder, wanted.rounds)
        show("the dashboard's own", own, 0.0)
        later = {}
        for count in wanted.models:
            home = site(folder / str(count), count)
            first = rendered(home, 1, count)
            later[count] = statistics.median(rendered(home, wanted.rounds, count)) - own
            show(f"{count} models, first", first[0] - own, own)
            show(f"{count} models, later", later[count], own)
        broken = {}
        for kind, script in BROKEN.items():
            home = site(folder / kind, 0)
            launcher = home / "launcher"
            if script is not None:
                launcher.write_text(script)
                launcher.chmod(0o755)
            broken[kind] = statistics.median(rendered(home, wanted.rounds, None, launcher)) - own
            show(kind, broken[kind], own)
    most = max(wanted.models)
    value = round(later[most], 3)
    print(
        json.dumps(
            {"P12": {"value": value, "goal": GOAL_S, "met": value <= GOAL_S and len(broken) == len(BROKEN)}}
        )
    )


def dashboards_own(folder: Path, rounds: int) -> float:
    """Seconds for a form of a few fields that is plain YAML."""
    form = {
        "cluster": "test",
        "form": ["model", "bc_num_hours"],
        "attributes": {"model": {"widget": "select", "options": [["A", "a"]]}, "bc_num_hours": {"max": 24}},
    }
    (folder / "form.yml").write_text(yaml.safe_dump(form))
    return statistics.median(ruby(folder / "form.yml", rounds, dict(os.environ))[0])


def site(folder: Path, models: int) -> Path:
    """The home of a user of a site with so many models in its shared folder."""
    for number in range(models):
        model = folder / "models" / f"org{number % 20}" / f"model-{number}"
        if number % 10 == 9:
            sites.write_whisper(model, 3 * sites.GB)
        else:
            sites.write_model(model, sites.LLAMA, 15 * sites.GB)
    app = folder / "app"
    app.mkdir(parents=True)
    shutil.copy(ROOT / "form.yml.erb", app)
    settings = SETTINGS | {"models": {"folders": [str(folder / "models")]}}
    (folder / "site.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    time.sleep(2.5 if models else 0)  # a folder that has just changed is never believed; these are not new
    return folder


def rendered(home: Path, rounds: int, models: int | None, launcher: Path | None = None) -> Sequence[float]:
    """Seconds of each of `rounds` renderings; all of the models must be in the form."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LAUNCHER", "HF_"))},
        "HOME": str(home),
        "LAUNCHER": str(launcher or Path(sys.executable).parent / "launcher"),
        "LAUNCHER_SITE": str(home / "site.yml"),
        "LAUNCHER_CONFIG": os.devnull,
    }
    times, options = ruby(home / "app" / "form.yml.erb", rounds, env)
    if models is not None and not models < options <= models + PACKAGED:
        sys.exit(f"The form has {options} models, not {models} and up to {PACKAGED} more.")
    return times


def ruby(form: Path, rounds: int, env: dict[str, str]) -> tuple[list[float], int]:
    done = subprocess.run(
        ["ruby", str(RENDER), str(form), str(rounds)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    *times, options = done.stdout.split()
    return [float(seconds) for seconds in times], int(options)


def show(what: str, added: float, own: float) -> None:
    """One line of the table."""
    print(f"{what:<24}{'adds ' if own else '     '}{added:8.3f} s", flush=True)


if __name__ == "__main__":
    main()
