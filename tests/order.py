"""Which process runs which files when several run the suite (`pytest -n 2 --dist loadfile`).

The files lie in one row. One process takes its next one from the beginning, any other from the end, so that what
computes (engines, browsers, Ruby) runs beside what mostly waits (Slurm, sessions), and of two processes only one starts
the costly parts that a folder shares. They meet among the many short files in the middle.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [
    "engines", "browser", "app", "whisper", "parity", "contract", "programs", "unit", "integration", "portal", "slurm",
]  # fmt: skip


def place(item: pytest.Item) -> int:
    """The place of a test's folder in the row."""
    folder = item.path.relative_to(ROOT).parts[1]
    return FOLDERS.index(folder) if folder in FOLDERS else 0


class FromBothEnds(LoadFileScheduling):  # type: ignore[misc]  # xdist publishes no types
    """As `--dist loadfile`, but all processes except one begin at the end."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.nodes.index(node) > 0:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
