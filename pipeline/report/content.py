"""What a report is made from, read once: params, data, metrics files, the comparison and the trivial predictor."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.compute.device import use_cpu_threads
from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.core.integrity import read_recorded
from pipeline.core.names import SINGLE_TASK
from pipeline.data.store import DatasetInfo, Store, read_info
from pipeline.evaluation.confusion import read_confusion
from pipeline.evaluation.predictions import load_predictions
from pipeline.evaluation.scoring import Scores
from pipeline.evaluation.statistics import SplitStatistics, read_statistics
from pipeline.evaluation.trivial import score_trivial
from pipeline.params.schema import Params
from pipeline.results.comparison import Comparison
from pipeline.results.run_metrics import RunMetrics

Results = dict[str, list[RunMetrics]]
"""Metrics files by run, a file for each seed."""


@dataclass(frozen=True)
class Content:
    """All that both writers, of Markdown and of HTML, say something of.

    tasks: scored ones, in the order of the runs. histories, statistics, confusions: by run, one a seed. predictions: by
    run, of the first seed, what `load_predictions` gives. train, scored: the splits. trivial: scores of the best
    constants, by task, and the constants.
    """

    params: Params
    info: DatasetInfo
    tasks: tuple[str, ...]
    delta: Comparison
    results: Results
    histories: dict[str, list[pd.DataFrame]]
    statistics: dict[str, list[SplitStatistics]]
    confusions: dict[str, list[dict[str, np.ndarray]]]
    predictions: dict[str, dict[str, np.ndarray]]
    train: Store
    scored: Store
    trivial: Scores
    constants: dict[str, np.ndarray]

    @classmethod
    def read(cls, params: Params) -> Content:
        """For the runs and seeds of `params`. Raises DataError for what is missing, damaged or of other runs."""
        info = read_info()
        tasks = tuple(dict.fromkeys(task for run in params.all_runs.values() for task in run.tasks))
        delta = Comparison.read(paths.DELTA_JSON)
        if lacks := [name for name in params.all_runs if name not in delta.runs]:
            raise DataError(f"{paths.DELTA_JSON} lacks the runs {', '.join(lacks)}; run `dvc repro compare`")
        results = {
            name: [
                RunMetrics.read(paths.metrics_file(name, seed), run.stage("evaluate", seed)) for seed in params.seeds
            ]
            for name, run in ((name, params.run(name)) for name in params.all_runs)
        }
        use_cpu_threads(params.training.cpu_threads)  # the trivial predictor's sums round as those of networks' scores
        split = params.evaluation.split
        info.check_scored(split)
        train, scored = (Store(paths.PREPARED / name, tasks) for name in ("train", split))
        trivial, constants = score_trivial(train, scored, tasks, info)
        statistics = {name: [read_statistics(each) for each in seeds] for name, seeds in results.items()}
        return cls(
            params=params,
            info=info,
            tasks=tasks,
            delta=delta,
            results=results,
            histories={name: [_history(each) for each in seeds] for name, seeds in results.items()},
            statistics=statistics,
            confusions={
                name: [read_confusion(name, seed, each) for seed, each in zip(params.seeds, of, strict=True)]
                for name, of in statistics.items()
            },
            predictions={
                name: load_predictions(name, params.seeds[0], seeds[0].predictions_sha256)
                for name, seeds in results.items()
            },
            train=train,
            scored=scored,
            trivial=trivial,
            constants=constants,
        )

    @property
    def single_task_runs(self) -> list[str]:
        """Runs of one task, trained or adopted."""
        return [name for name, run in self.params.all_runs.items() if run.architecture == SINGLE_TASK]

    @property
    def trained_baselines(self) -> list[str]:
        """Runs of one task that share a row or a column; adopted ones stand by themselves."""
        return [name for name in self.single_task_runs if not self.params.all_runs[name].adopted]

    @property
    def runs(self) -> list[str]:
        """All runs: those of one task first, else in the order of params."""
        single = self.single_task_runs
        return sorted(self.params.all_runs, key=lambda name: name not in single)

    @property
    def flagship(self) -> str:
        """The run with the highest Δm; of several alike, or where none has one, the first that is of several tasks."""
        gains = {name: gain.mean for name, gain in self.delta.delta_m.items() if name in self.params.all_runs}
        if gains:
            return max(gains, key=lambda name: gains[name])
        several = [name for name in self.params.all_runs if name not in self.single_task_runs]
        return (several or list(self.params.all_runs))[0]

    def conclusion(self, run: str) -> str | None:
        """The sentence on Δm of a run; None where it has no Δm."""
        return dict(zip(self.delta.delta_m, self.delta.conclusions, strict=False)).get(run)

    def baselines(self, run: str) -> dict[str, str]:
        """{task: single-task run} that a run is compared with, of those of its tasks that have one."""
        found = {task: score.baseline_run for task, score in self.delta.scores[run].items()}
        return {task: name for task, name in found.items() if name is not None and name in self.results}

    def predictions_of(self, runs: Iterable[str], sample_id: str) -> dict[str, np.ndarray]:
        """{task: prediction} of one sample by these runs, each of which has its own tasks; first seed."""
        found = ((task, self.predictions[name].get(f"{sample_id}/{task}")) for name in runs for task in self.tasks)
        return {task: prediction for task, prediction in found if prediction is not None}


def _history(result: RunMetrics) -> pd.DataFrame:
    """The history of the training that a metrics file is of. Raises DataError for a file that is another or missing."""
    run, seed = result.run, result.seed
    content = read_recorded(paths.history_file(run, seed), result.history_sha256, paths.metrics_file(run, seed))
    return pd.read_csv(io.BytesIO(content))
