"""reports/statistics/<run>-<seed>.parquet: what each image of a split adds to the sums behind the primary metrics.

A row an image, with its id; columns <task>/<statistic>, numbers or lists of them (a class or a threshold each). The
schema's metadata says by which formula of `pipeline/metrics/resampling.py` a task's score follows from their sums.
NumPy and pyarrow only, since `compare` reads them.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import paths
from pipeline.core.errors import REPAIR, DataError
from pipeline.core.integrity import read_recorded
from pipeline.metrics.resampling import FORMULAS, Statistics, score
from pipeline.results.run_metrics import RunMetrics

_ID, _FORMULAS = "id", b"formulas"
_EQUAL = 1e-9  # relative: how far a score may lie from the one that its statistics give


@dataclass(frozen=True)
class SplitStatistics:
    """Of all images of a split, in its order: ids; by task the statistics, (N,) or (N, D), and their formula."""

    ids: list[str]
    tasks: Mapping[str, Statistics]
    formulas: Mapping[str, str]

    def check_scores(self, scores: Mapping[str, float | None]) -> None:
        """Raise ValueError where a primary score, by task, is not the one that follows from the statistics."""
        for task, expected in scores.items():
            found = score(self.tasks[task], self.formulas[task])
            same = not math.isfinite(found) if expected is None else math.isclose(found, expected, rel_tol=_EQUAL)
            if not same and (found or expected):  # 0 has no relative error
                raise ValueError(f"{task} is {expected}, and {found} by what each image adds to it")

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises OSError."""
        columns: dict[str, pa.Array] = {_ID: pa.array(self.ids, pa.string())}
        for task, statistics in self.tasks.items():
            assert {len(values) for values in statistics.values()} == {len(self.ids)}, task
            columns |= {f"{task}/{name}": _column(values) for name, values in statistics.items()}
        table = pa.table(columns).replace_schema_metadata({_FORMULAS: json.dumps(dict(self.formulas)).encode()})
        with paths.atomic(path, "wb") as file:
            pq.write_table(table, file, compression="zstd")


def read_statistics(result: RunMetrics) -> SplitStatistics:
    """What `evaluate` kept of the run and seed of a metrics file.

    Raises DataError for a file that is missing or another, or whose sums give other scores than the metrics file has.
    """
    path, record = paths.statistics_file(result.run, result.seed), paths.metrics_file(result.run, result.seed)
    content = read_recorded(path, result.statistics_sha256, record)
    try:
        kept = _read(content)
        kept.check_scores({task: of[result.primary_metric[task].metric] for task, of in result.tasks.items()})
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} does not fit {record} ({error}); {REPAIR}") from None
    return kept


def _read(content: bytes) -> SplitStatistics:
    table = pq.read_table(io.BytesIO(content))
    formulas = json.loads(table.schema.metadata[_FORMULAS])
    if unknown := set(formulas.values()) - set(FORMULAS):
        raise ValueError(f"no formula is called {', '.join(sorted(unknown))}")
    tasks: dict[str, dict[str, np.ndarray]] = {task: {} for task in formulas}
    for name in table.column_names[1:]:
        task, _, statistic = name.partition("/")
        tasks[task][statistic] = _array(table.column(name).combine_chunks())
    return SplitStatistics(table.column(_ID).to_pylist(), tasks, formulas)


def _column(values: np.ndarray) -> Any:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _array(column: Any) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return column.to_numpy(zero_copy_only=False)
