"""reports/delta.json: the comparison of all runs with their single-task baselines, as `compare` wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.result_file import ResultFile, beside


@dataclass(frozen=True)
class Gain:
    """Δm of a run over its seeds, in percent, positive is better: mean, sample deviation (None for one seed), count."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Score:
    """Primary metric of a task over a run's seeds; without a mean where it is not defined for all of them.

    baseline, delta: means over seeds of the baseline's score and of the relative gain, in percent, where there are.
    """

    metric: str
    higher_is_better: bool
    mean: float | None = None
    std: float | None = beside("mean")
    n: int | None = None
    baseline_run: str | None = None
    baseline: float | None = None
    delta: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """What a run is, and what one image costs it (pipeline/evaluation/cost.py)."""

    architecture: str
    backbone: str
    parameters: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Row:
    """One task of one run and seed, or, with the task `delta_m`, its Δm: a line of delta.csv.

    score, baseline: None where the metric is not defined there. delta: relative gain, or Δm, in percent.
    """

    run: str
    seed: int
    task: str
    metric: str | None = None
    higher_is_better: bool | None = None
    score: int | float | None = beside("metric")
    baseline_run: str | None = None
    baseline: int | float | None = beside("baseline_run")
    delta: float | None = None


@dataclass(frozen=True)
class Comparison(ResultFile):
    """All of reports/delta.json; `dvc metrics` shows what is in mappings and skips lists.

    delta_m: {run: Δm}, of runs that have baselines for all tasks. scores: {run: {task: score}}. per_seed: as in
    delta.csv. caveats: what a reader must know.
    """

    version: ClassVar[int] = 1
    stage: ClassVar[str] = "compare"

    delta_m: dict[str, Gain]
    scores: dict[str, dict[str, Score]]
    runs: dict[str, RunFacts]
    per_seed: list[Row]
    caveats: list[str]

    def __post_init__(self) -> None:
        if self.scores.keys() != self.runs.keys() or not self.delta_m.keys() <= self.runs.keys():
            raise ValueError("delta_m, scores and runs are not of the same runs")
