"""Which process runs which files when several run the suite (`pytest -n 3 --dist loadfile`).

The files lie in one row. The first process takes its next one from the beginning, the second from the end, any other
from the first file of `integration`: so what computes (engines, browsers, Ruby) runs beside what mostly waits (Slurm,
sessions), and only one starts the costly parts that a folder shares. They meet among the many files of `integration`.
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


class FromThreeSides(LoadFileScheduling):  # type: ignore[misc]  # xdist publishes no types
    """As `--dist loadfile`, but only the first process begins at the beginning."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        number, files = self.nodes.index(node), list(self.workqueue)
        if number == 1:
            self.workqueue.move_to_end(files[-1], last=False)
        elif number > 1:
            middle = next((file for file in files if file.startswith("tests/integration/")), files[0])
            self.workqueue.move_to_end(middle, last=False)
        super()._assign_work_unit(node)
