"""Cards without a cluster: the views in real Ruby over the session's own code, with a small `sbatch` and `squeue`.

cards = Cards(tmp_path, "4.2")
session = cards.launch(model="simulated")        # form → `launcher plan` → staged, as the Launch button does
session.queued()
session.runs(status)                             # what `launcher serve` writes for this status
session.answers(status, Connection(...))         # … and OOD's job makes connection.yml of it
session.over(status)
session.card()                                   # → Card
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.ondemand.card import keeper
from launcher.sessions.connection import Connection
from launcher.sessions.paths import SessionPaths
from launcher.sessions.plan import Plan
from launcher.sessions.status import Status
from tests.app.ondemand import Card, OnDemand, Version
from tests.site import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "manifest.yml",
    "form.yml.erb",
    "form.js",
    "submit.yml.erb",
    "view.html.erb",
    "info.html.erb",
    "completed.html.erb",
    "template",
)
_SQUEUE = """\
#!/bin/bash
# What squeue says of the one job of this folder: the header, then the fields between unit separators.
state=$(cat "$(dirname "$0")/state")
[ "$state" = none ] && exit 0
printf 'HEADER\\n'
printf '%s\\x1f' 4711 "$state" gpu07 launcher alice '(null)' 2 cpu 1:07 1:00:00
printf '\\n'
"""
_PROGRAMS = {
    "squeue": _SQUEUE,
    "sbatch": "#!/bin/bash\ncat >/dev/null\necho 4711\n",
    "scontrol": '#!/bin/bash\necho "${@: -1}"\n',
    "sacct": "#!/bin/bash\nexit 1\n",
}
# The end of OOD's own job script: after.sh is sourced, then create_yml writes its words with an unquoted echo.
_CREATE_YML = """
cd "$1"; clean_up () { exit "$1"; }; SCRIPT_PID=$$
source ./after.sh
words="session_id: $session_id\\nmodel: $model\\nends_at: $ends_at\\nlogin_host: $login_host\\nengine: $engine"
echo -e "$words\\nhost: $host\\nport: $port\\npassword: $password" >connection.yml
"""


def copy_app(target: Path) -> Path:
    """The app's own files, as a site has them in one folder."""
    target.mkdir()
    for name in FILES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)
    return target


@dataclass(frozen=True)
class CardSession:
    """One launched session: its staged folder, and what happens to it."""

    ood: OnDemand
    env: dict[str, str]
    id: str
    root: Path
    programs: Path

    @property
    def plan(self) -> Plan:
        return Plan.read(SessionPaths(self.root).plan)

    def queued(self) -> None:
        """The job waits."""
        self._job("PD")

    def runs(self, status: Status) -> None:
        """The job runs and `launcher serve` says this."""
        self._job("R")
        keeper(self.root, self.plan)(status)

    def answers(self, status: Status, connection: Connection) -> None:
        """It is ready, and OOD's job has seen it."""
        connection.write(SessionPaths(self.root).connection)
        self.runs(status)
        subprocess.run(["bash", "-c", _CREATE_YML, "bash", str(self.root)], check=True)

    def over(self, status: Status) -> None:
        """The session has said why it ended, and squeue has forgotten the job."""
        self.runs(status)
        self._job("none")

    def card(self) -> Card:
        shown: dict[str, Any] = self.ood.ask("card", env=self.env, id=self.id)
        return Card(
            shown["state"],
            shown["job_id"],
            shown["connection"],
            shown["view"],
            shown["info"],
            shown["completed"],
        )

    def _job(self, state: str) -> None:
        (self.programs / "state").write_text(state)


class Cards:
    """A dashboard of one version with the app, on a cluster that is a file. Each session needs its own."""

    def __init__(self, folder: Path, version: Version, settings: dict[str, Any] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._programs = folder / "bin"
        self._programs.mkdir()
        for name, text in _PROGRAMS.items():
            (self._programs / name).write_text(text)
            (self._programs / name).chmod(0o755)
        site = folder / "site.yml"
        site.write_text(yaml.safe_dump(settings or SETTINGS))
        env = {
            "LAUNCHER": str(Path(sys.executable).parent / "launcher"),
            "LAUNCHER_SITE": str(site),
            "LAUNCHER_PLACES__SESSIONS": str(folder / "sessions"),
            "HOME": str(folder),
            "PATH": f"{self._programs}:/usr/bin:/bin",
            "TZ": "Europe/Berlin",
        }
        self.ood = OnDemand(copy_app(folder / "app"), version, env=env)
        self._env = {"OOD_DATAROOT": str(folder / "data")}

    def launch(self, **values: str) -> CardSession:
        """The Launch button."""
        (self._programs / "state").write_text("PD")
        posted = self.ood.posted() | values
        shown = self.ood.ask("launch", env=self._env, values=posted, submit=True)
        root = Path(shown["staged_root"])
        assert json.loads((root / "session.json").read_text())["door"] == "ondemand"
        return CardSession(self.ood, self._env, shown["id"], root, self._programs)
