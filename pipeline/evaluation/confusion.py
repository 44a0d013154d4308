"""reports/panels/<run>-<seed>/confusion.json: which class was taken for which, of the tasks that have classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.core import paths
from pipeline.core.errors import REPAIR, DataError
from pipeline.evaluation.statistics import SplitStatistics

_KEY = "confusion"


def confusion_file(run: str, seed: int) -> Path:
    """Confusion matrices of a network, {task: rows}: pixels of the split, a row a label, a column a prediction."""
    return paths.panel_dir(run, seed) / "confusion.json"


def write_confusion(run: str, seed: int, matrices: Mapping[str, np.ndarray]) -> None:
    """matrices: by task, (K, K) whole numbers. Raises OSError."""
    paths.write_json(confusion_file(run, seed), {_KEY: {task: matrix.tolist() for task, matrix in matrices.items()}})


def read_confusion(run: str, seed: int, statistics: SplitStatistics) -> dict[str, np.ndarray]:
    """By task that has classes, the matrix (K, K) int64. statistics: of the same run and seed.

    Raises DataError for a file that is missing or damaged, or whose hits and margins are not those of the statistics.
    """
    path = confusion_file(run, seed)
    matrices = {task: np.array(rows, np.int64) for task, rows in paths.read_json(path, _KEY)[_KEY].items()}
    for task, of in statistics.tasks.items():
        if "hit" not in of:  # no classes
            continue
        matrix = matrices.get(task, np.zeros((0, 0), np.int64))
        found = {"hit": matrix.diagonal(), "labelled": matrix.sum(1), "predicted": matrix.sum(0)}
        if not all(np.array_equal(found[name], of[name].sum(0)) for name in found):
            raise DataError(
                f"{path} does not fit {paths.statistics_file(run, seed)}: {task} has other pixels; {REPAIR}"
            )
    return matrices
