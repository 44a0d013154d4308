"""reports/delta.json: the comparison of all runs with their single-task baselines, as `compare` wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.core.result_file import ResultFile, beside

DELTA_M = "delta_m"
"""Stands in the task column for a whole run's Δm."""


@dataclass(frozen=True)
class Interval:
    """95 % interval, low to high, of a mean over seeds (pipeline/comparison/estimate.py).

    standard_error: of the mean. image_share, seed_share: of its square, 0 to 1, what is owed to the choice of images
    and to that of seeds; with one seed the latter is unknown, and None. resamples: of the images.
    """

    low: float
    high: float
    standard_error: float
    image_share: float
    seed_share: float | None
    seeds: int
    images: int
    resamples: int


@dataclass(frozen=True)
class Gain:
    """Δm of a run over its seeds, in percent, positive is better: mean, sample deviation (None for one seed), count.

    verdict: `better`, `worse` or `not distinguishable`, by the interval. images_needed, seeds_needed: of what is not
    distinguishable, how many images with these seeds, or seeds with these images, would tell; None where none would.
    """

    mean: float
    std: float | None
    n: int
    interval: Interval | None = None
    verdict: Literal["better", "worse", "not distinguishable"] | None = None
    images_needed: int | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Score:
    """Primary metric of a task over a run's seeds; without a mean where it is not defined for all of them.

    baseline, delta: means over seeds of the baseline's score and of the relative gain, in percent, where there are.
    interval: of the mean.
    """

    metric: str
    higher_is_better: bool
    mean: float | None = None
    std: float | None = beside("mean")
    n: int | None = None
    baseline_run: str | None = None
    baseline: float | None = None
    delta: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Tuning:
    """How the values of a run were found: by so many trials of so many epochs each, over these keys of the run."""

    trials: int
    epochs: int
    keys: list[str]

    def __str__(self) -> str:
        trials, epochs = (
            f"{number} {word}{'' if number == 1 else 's'}"
            for number, word in ((self.trials, "trial"), (self.epochs, "epoch"))
        )
        return f"{trials} of {epochs} over {', '.join(self.keys)}"


@dataclass(frozen=True)
class RunFacts:
    """What a run is, and what one image costs it (pipeline/evaluation/cost.py). tuning: None: of a run not tuned."""

    architecture: str
    backbone: str
    parameters: int
    macs: int
    activation_bytes: int
    tuning: Tuning | None = None


@dataclass(frozen=True)
class Row:
    """One task of one run and seed, or, with the task `delta_m`, its Δm: a line of delta.csv.

    score, baseline: None where the metric is not defined there. delta: relative gain, or Δm, in percent. low, high: 95
    % interval over images of the score, or of Δm, with this seed.
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
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison(ResultFile):
    """All of reports/delta.json.

    delta_m: {run: Δm}, of runs that have baselines for all tasks. scores: {run: {task: score}}. per_seed: as in
    delta.csv. conclusions: a sentence for each Δm, by its interval. caveats: what a reader must know.
    """

    version: ClassVar[int] = 3
    stage: ClassVar[str | None] = "compare"

    delta_m: dict[str, Gain]
    scores: dict[str, dict[str, Score]]
    runs: dict[str, RunFacts]
    per_seed: list[Row]
    conclusions: list[str]
    caveats: list[str]

    def __post_init__(self) -> None:
        if self.scores.keys() != self.runs.keys() or not self.delta_m.keys() <= self.runs.keys():
            raise ValueError("delta_m, scores and runs are not of the same runs")
