"""The unit of systemd in docs/examples, as systemd reads it: no word of it is unknown, and it runs our command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import needs
from tests.markdown import ROOT

UNIT = ROOT / "docs" / "examples" / "launcher-gateway@.service"
COMMAND = "/apps/inference/venv/bin/launcher"


def verified(unit: Path) -> str:
    """What systemd has to say of it; the program that it runs must exist."""
    analyze = needs("systemd-analyze", "systemd")
    argv = [analyze, "verify", "--recursive-errors=no", str(unit)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}".strip() or (
        "" if done.returncode == 0 else f"exit {done.returncode}"
    )


def test_systemd_knows_every_word_of_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert f"ExecStart={COMMAND} gateway\n" in text, "as docs/site.md installs it"
    unit, text = tmp_path / UNIT.name, text.replace(COMMAND, str(Path(sys.executable).parent / "launcher"))
    unit.write_text(text)
    assert verified(unit) == ""
    for right, wrong in (("KillMode=", "KilMode="), ("Restart=on-failure", "Restart=on-monday")):
        unit.write_text(text.replace(right, wrong))
        assert verified(unit), "else the line above proves nothing"
