"""Images that the report shows for how they were scored: of each task the worst, the median and the best of a run.

Chosen by a rule, so that nobody picks them: by the score of each image alone (`resampling.scores_of_each`). `evaluate`
keeps their predictions; whoever reads these finds the same images by the same rule, out of the run's statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import nn

from pipeline.compute.device import Device
from pipeline.data.store import Store
from pipeline.evaluation.scoring import as_map, predict
from pipeline.evaluation.statistics import SplitStatistics
from pipeline.metrics.resampling import scores_of_each
from pipeline.params.schema import Training
from pipeline.tasks import get_task

RANKS = ("worst", "median", "best")


def chosen(scores: np.ndarray, higher_is_better: bool) -> dict[str, int]:
    """{rank: position in the split} by scores (N,) of single images; empty where none is scored.

    NaN: not scored. Of equals the first of the split; of an even number the worse of the two in the middle.
    """
    known = np.flatnonzero(np.isfinite(scores))
    if not known.size:
        return {}
    order = known[np.argsort(scores[known] if higher_is_better else -scores[known], kind="stable")]
    best = known[np.argmax(scores[known] if higher_is_better else -scores[known])]
    return {"worst": int(order[0]), "median": int(order[(len(order) - 1) // 2]), "best": int(best)}


def chosen_of(statistics: SplitStatistics) -> dict[str, dict[str, int]]:
    """{task: {rank: position in the split}} of a run."""
    return {
        task: chosen(scores_of_each(of, statistics.formulas[task]), get_task(task).higher_is_better)
        for task, of in statistics.tasks.items()
    }


def predictions_of_chosen(
    network: nn.Module,
    store: Store,
    examples: Mapping[str, Mapping[str, int]],
    recipe: Training,
    batch_size: int,
    device: Device,
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(sample id, task, prediction in a label's layout) of the images that were chosen for that task."""
    wanted: dict[str, list[str]] = {}
    for task, ranks in examples.items():
        for i in sorted(set(ranks.values())):
            wanted.setdefault(store.ids[i], []).append(task)
    some = store.select([i for i, id_ in enumerate(store.ids) if id_ in wanted])
    for samples, predictions in predict(network, some, tuple(examples), recipe, batch_size, device):
        for i, sample in enumerate(samples):
            for task in wanted[sample.id]:
                yield sample.id, task, as_map(predictions[task][i])
