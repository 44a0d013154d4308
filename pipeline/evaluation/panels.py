"""Panels: samples of a split that are shown to people, each with its labels and a network's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import cv2
import numpy as np
from torch import Tensor, nn

from pipeline.compute import distributed
from pipeline.compute.device import Device
from pipeline.data.sample import Sample
from pipeline.data.store import DatasetInfo, Store
from pipeline.evaluation.scoring import as_map, predict_batch, task_context
from pipeline.loading.loader import image_tensor, resize_image
from pipeline.params.schema import Training
from pipeline.tasks.spec import TaskContext
from pipeline.visual.paint import MEASURED, paint, with_middle


class Panels:
    """So many samples of a split, evenly spread, with the predictions that `score_with` last let it see.

    ids: of the split's samples. count: how many are shown. tasks: those that are painted.
    """

    def __init__(self, ids: Sequence[str], count: int, tasks: Sequence[str], info: DatasetInfo):
        self.ids = [ids[i] for i in panel_indices(len(ids), count)]
        self._tasks, self._info = tasks, info
        self._kept: dict[str, tuple[Sample, dict[str, np.ndarray]]] = {}

    def clear(self) -> None:
        """Forget what was kept, after each pass: `gather` could take it for what another process sees next."""
        self._kept = {}

    def keep(self, samples: list[Sample], predictions: dict[str, list[Tensor]]) -> None:
        """Keep those of a batch that are shown."""
        for i, sample in enumerate(samples):
            if sample.id in self.ids:
                self._kept[sample.id] = sample, {task: as_map(of[i]) for task, of in predictions.items()}

    def predict(self, network: nn.Module, store: Store, recipe: Training, device: Device) -> None:
        """Keep what a network says of them now, one at a time; no random number is drawn."""
        network.eval()
        for sample in (store[i] for i, id_ in enumerate(store.ids) if id_ in self.ids):
            image = image_tensor(resize_image(sample.image, recipe.input_size))[None]
            sizes = {task: [sample.labels[task].valid.shape] for task in self._tasks}
            self.keep([sample], predict_batch(network, image, sizes, recipe, device))

    def gather(self) -> None:
        """Have what all processes kept since `clear`, which took turns at the batches."""
        if distributed.world_size() > 1:
            self._kept = dict(chain.from_iterable(own.items() for own in distributed.all_gather(self._kept)))

    @property
    def kept(self) -> list[tuple[Sample, dict[str, np.ndarray]]]:
        """Each sample with its predictions by task, in the order of the split."""
        return [self._kept[id_] for id_ in self.ids]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """{"<sample id>/<task>": prediction}."""
        return {f"{sample.id}/{task}": array for sample, arrays in self.kept for task, array in arrays.items()}

    def painted(self, tasks: Sequence[str] | None = None) -> np.ndarray | None:
        """A picture, (H, W, 3) uint8: a row a sample, image, then label and prediction of each task; None without any.

        tasks: of these alone.
        """
        if not self.ids:
            return None
        contexts = painting_contexts(self._info, tasks or self._tasks, [sample for sample, _ in self.kept])
        rows = [np.concatenate(list(_row(sample, predictions, contexts)), axis=1) for sample, predictions in self.kept]
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
        return np.concatenate(rows)


def panel_indices(count: int, panels: int) -> list[int]:
    """Samples shown to people: evenly spread over the split, the same for every run."""
    return sorted({int((i + 0.5) * count / panels) for i in range(panels)}) if panels and count else []


def painting_contexts(info: DatasetInfo, tasks: Iterable[str], shown: Sequence[Sample]) -> dict[str, TaskContext]:
    """{task: context} for the pictures of these samples: what is measured has one scale in all of them."""
    contexts = {task: task_context(info, task) for task in tasks}
    for task in contexts:
        if task in MEASURED:
            labels = [sample.labels[task] for sample in shown]
            contexts[task] = with_middle(contexts[task], [label.value[label.valid] for label in labels])
    return contexts


def _row(sample: Sample, predictions: dict[str, np.ndarray], contexts: dict[str, TaskContext]) -> Iterator[np.ndarray]:
    """Image, then label and prediction of each task, painted at the image's size."""
    height, width = sample.image.shape[:2]
    yield sample.image
    for task, context in contexts.items():
        label = sample.labels[task]
        everywhere = np.ones_like(label.valid)
        for painted in (
            paint(task, label.value, label.valid, context),
            paint(task, predictions[task], everywhere, context),
        ):
            yield cv2.resize(painted, (width, height), interpolation=cv2.INTER_NEAREST)
