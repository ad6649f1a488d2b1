"""Which process runs which files when several run the suite (`pytest -n 2 --dist loadfile`).

The files lie in one row. Every other process takes its next one from the end of the row, so that those who compute
(engines, browsers, Ruby) run beside those who mostly wait (Slurm, sessions), and each of the costly parts that a folder
shares is started by one process alone. They meet among the many short files in the middle.
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


class FromBothEnds(LoadFileScheduling):  # type: ignore[misc]
    """As `--dist loadfile`, but every other process begins at the end."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.nodes.index(node) % 2:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
