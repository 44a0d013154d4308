"""All that a report is made from, without a training: labels, predictions that are labels with errors, real scores.

Files lie in the working folder as the stages leave them, so `Content.read` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.comparison.baselines import compare
from pipeline.comparison.intervals import add_intervals
from pipeline.core import paths
from pipeline.core.integrity import file_sha256
from pipeline.data.sample import Label, Sample
from pipeline.data.store import DatasetInfo, Store, write_info, write_split
from pipeline.evaluation.attention import Gathered, TaskAttention, with_sample
from pipeline.evaluation.confusion import write_confusion
from pipeline.evaluation.examples import chosen_of
from pipeline.evaluation.panels import panel_indices
from pipeline.evaluation.predictions import predictions_file, write_predictions
from pipeline.evaluation.scoring import Scorer, finite_or_none
from pipeline.evaluation.statistics import SplitStatistics
from pipeline.params.load import parse_params
from pipeline.params.schema import Params
from pipeline.report.content import Content
from pipeline.results.run_metrics import PrimaryMetric, RunMetrics
from pipeline.tasks import get_task
from tests.support.result_files import run_metrics

TASKS = ("semseg", "depth")
CLASSES = ("wall", "floor", "<script>alert('class')</script>", '"><img src=x onerror=alert(1)>', "never seen")
IDS = ("plain", "<b>bold", "a&b", "quote\"'", "blank and )(", "`code`", "ünïcödé", "{{ 7 * 7 }}")
SIZE = (24, 36)
ERRORS = {"semseg": 0.30, "depth": 0.20, "both": 0.25, "worse": 0.6}
"""Of each run: the part of the pixels that is another class, and the relative deviation of its depths."""


def raw_params(seeds: Sequence[int] = (0, 1)) -> dict:
    recipe = {"backbone": "net", "input_size": [64, 64], "batch_size": 4, "epochs": 4, "lr": 1e-3}
    runs = {name: {"architecture": "single_task", "tasks": [name]} for name in TASKS}
    runs["both"] = {"architecture": "sequential_attention", "tasks": list(TASKS)}
    runs["worse"] = {"architecture": "multi_task", "tasks": list(TASKS)}
    return {
        "experiment": "paper & <i>ink</i>",
        "data": {"dataset": "rooms", "tasks": list(TASKS)},
        "training": recipe,
        "evaluation": {"panels": 2},
        "seeds": list(seeds),
        "runs": runs,
    }


@contextmanager
def content_in(folder: Path, params: Params) -> Iterator[Content]:
    """Of files in a folder, which is the working folder meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        write_all(params)
        yield Content.read(params)


def write_all(params: Params) -> None:
    """Prepared data, and of every run and seed what train and evaluate leave; then the comparison."""
    info = DatasetInfo("rooms", TASKS, {"semseg": CLASSES}, 0.01, {"train": 4, "val": len(IDS)}, "d" * 64)
    rng = np.random.default_rng(0)
    for split, ids in (("train", IDS[:4]), ("val", IDS)):
        write_split(paths.PREPARED / split, [_sample(rng, id_) for id_ in ids], TASKS)
    write_info(paths.PREPARED, info)
    store = Store(paths.PREPARED / "val", TASKS)
    results = [_evaluated(params, store, info, run, seed) for run in params.runs for seed in params.seeds]
    add_intervals(compare(results), results).write(paths.DELTA_JSON)


def _sample(rng: np.random.Generator, id_: str) -> Sample:
    valid = rng.random(SIZE) < 0.9
    semseg = rng.integers(0, 4, SIZE, dtype=np.uint8)  # the fifth class occurs nowhere
    depth = rng.uniform(1, 5, SIZE).astype(np.float32)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Sample(id_, image, {"semseg": Label(semseg, valid), "depth": Label(depth, valid)})


def predicted(run: str, seed: int, place: int, sample: Sample, task: str) -> np.ndarray:
    """What the run is said to have predicted; the later the image, the worse."""
    rng = np.random.default_rng([seed, place, *run.encode()])
    amount = ERRORS[run] * (0.6 + 0.1 * place)
    value = sample.labels[task].value
    if task == "semseg":
        return np.where(rng.random(SIZE) < amount, rng.integers(0, 4, SIZE), value).astype(np.uint8)
    return (value * (1 + amount * rng.normal(size=SIZE))).astype(np.float32)


def gathered(seed: int) -> dict[str, TaskAttention]:
    """What the run with cross attention is said to have gathered, at two scales: from the other task, and by CSAM."""
    rng = np.random.default_rng(seed)

    def answer(size: tuple[int, int], change: float) -> Gathered:
        weights = rng.random(size).astype(np.float32) ** 4
        return Gathered(weights / weights.sum(), change)

    return {
        task: TaskAttention(
            ({other: answer((6, 9), 0.0123 + i)}, {other: answer((3, 5), 0.00002)}),
            ({1: answer((3, 5), 0.000849)}, {}),
        )
        for i, (task, other) in enumerate(zip(TASKS, reversed(TASKS), strict=True))
    }


def _evaluated(params: Params, store: Store, info: DatasetInfo, run: str, seed: int) -> RunMetrics:
    declared = params.run(run)
    scorer = Scorer(declared.tasks, info, torch.device("cpu"))
    arrays = {}
    for place in range(len(store)):
        sample = store[place]
        for task in declared.tasks:
            arrays[place, task] = prediction = predicted(run, seed, place, sample, task)
            scorer.update(task, [torch.from_numpy(prediction)[None, None]], [sample.labels[task]])
    statistics = SplitStatistics(store.ids, scorer.statistics, scorer.formulas)
    statistics.write(paths.statistics_file(run, seed))
    write_confusion(run, seed, scorer.confusions)
    kept = {(i, task) for task in declared.tasks for i in panel_indices(len(store), params.evaluation.panels)}
    kept |= {(i, task) for task, ranks in chosen_of(statistics).items() for i in ranks.values()}
    shown = {f"{store.ids[i]}/{task}": arrays[i, task] for i, task in sorted(kept)}
    if declared.architecture == "sequential_attention" and params.evaluation.panels:
        shown |= with_sample(gathered(seed), store.ids[panel_indices(len(store), params.evaluation.panels)[0]])
    write_predictions(run, seed, shown)
    _write_history(declared.tasks, run, seed)
    primary = {task: get_task(task) for task in declared.tasks}
    result = run_metrics(
        run=run,
        seed=seed,
        architecture=declared.architecture,
        backbone=declared.training.backbone,
        dataset_digest=info.digest,
        samples=len(store),
        weights_sha256=f"{seed + 1}" * 64,
        training=declared.training.model_dump(mode="json") | {"task_weights": declared.loss_weights},
        primary_metric={task: PrimaryMetric(of.primary_metric, of.higher_is_better) for task, of in primary.items()},
        tasks=finite_or_none(scorer.compute()),
        predictions_sha256=file_sha256(predictions_file(run, seed)),
        statistics_sha256=file_sha256(paths.statistics_file(run, seed)),
        history_sha256=file_sha256(paths.history_file(run, seed)),
    )
    result.write(paths.metrics_file(run, seed))
    return result


def _write_history(tasks: Sequence[str], run: str, seed: int) -> None:
    epochs = np.arange(1, 5)
    columns = {"epoch": epochs, "learning_rate": 1e-3 / epochs}
    for task in tasks:
        columns |= {f"loss/{task}": (2 + ERRORS[run]) / epochs + 0.01 * seed}
        columns |= {f"{task}/{get_task(task).primary_metric}": 10.0 * epochs + len(run) + seed}
    path = paths.history_file(run, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)


def params(seeds: Sequence[int] = (0, 1)) -> Params:
    return parse_params(raw_params(seeds))
