"""Scoring: every prediction at its label's original resolution, against the untouched label, pooled over the split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compute import distributed
from pipeline.compute.device import NORMALIZATIONS, Device
from pipeline.core.errors import TrainingError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import DatasetInfo, Store
from pipeline.loading.loader import scoring_batches, value_tensor
from pipeline.metrics.base import COUNTS
from pipeline.params.schema import Training
from pipeline.tasks import get_task
from pipeline.tasks.spec import Task, TaskContext

Scores = dict[str, dict[str, float]]
Size = tuple[int, int]
Value = TypeVar("Value")
Observer = Callable[[list[Sample], dict[str, list[Tensor]]], None]


def task_context(info: DatasetInfo, task: str, edge_nms: bool = False) -> TaskContext:
    """What a task's metric and decoding need to know of a dataset."""
    return TaskContext(classes=info.classes.get(task), edge_max_dist=info.edge_max_dist, edge_nms=edge_nms)


def predict(
    network: nn.Module,
    store: Store,
    tasks: tuple[str, ...],
    recipe: Training,
    batch_size: int,
    device: Device,
    rank: int = 0,
    count: int = 1,
) -> Iterator[tuple[list[Sample], dict[str, list[Tensor]]]]:
    """Batches of samples of `store`, in order, with the decoded predictions of each; one in `count`, from `rank` on.

    A prediction is (1, C, H, W) at the size of its label: class maps resized by nearest pixel, others bilinearly in
    float32, with no rounding on the way (the protocol of the field, without its uint8 detour).
    """
    network.eval()
    for image, samples in scoring_batches(store, recipe.input_size, batch_size, rank, count):
        sizes = {name: [sample.labels[name].valid.shape for sample in samples] for name in tasks}
        yield samples, predict_batch(network, image, sizes, recipe, device)


@torch.inference_mode()
def predict_batch(
    network: nn.Module, image: Tensor, sizes: Mapping[str, Sequence[Size]], recipe: Training, device: Device
) -> dict[str, list[Tensor]]:
    """Decoded predictions for images (B, 3, h, w) in 0..255 at the input size, by a network in evaluation mode.

    sizes[task]: of each image, the size (H, W) that its prediction, (1, C, H, W), is to have. Raises TrainingError for
    one that is not finite.
    """
    with device.autocast():
        final = network(device.image(image, NORMALIZATIONS[recipe.normalization])).final
    predictions = {}
    for name, wanted in sizes.items():
        task = get_task(name)
        if not final[name].isfinite().all():  # decoding would hide it: an argmax or a sigmoid is always finite
            raise TrainingError(f"predictions of {name} are not finite: the network diverged, train it again")
        decoded = task.decode(final[name].float()).split(1)
        predictions[name] = [resize_prediction(task, each, size) for each, size in zip(decoded, wanted, strict=True)]
    return predictions


def resize_prediction(task: Task, decoded: Tensor, size: Size) -> Tensor:
    """(1, C, h, w) -> (1, C, H, W)."""
    if decoded.shape[-2:] == size:
        return decoded
    if task.resize_prediction == "nearest":
        return F.interpolate(decoded.float(), size=size, mode="nearest-exact").to(decoded.dtype)
    return F.interpolate(decoded, size=size, mode="bilinear", align_corners=False)


def as_map(prediction: Tensor) -> np.ndarray:
    """(1, C, H, W) decoded -> a label's layout: (H, W), or (H, W, C) where C > 1."""
    array = prediction[0].cpu().numpy()
    return array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)


class Scorer:
    """The metrics of several tasks over one split. edge_nms: suppress non-maxima of edge predictions first.

    Processes may each update one with batches of their own, which `pool` then brings together.
    """

    def __init__(self, tasks: tuple[str, ...], info: DatasetInfo, device: torch.device, edge_nms: bool = False):
        contexts = {task: task_context(info, task, edge_nms) for task in tasks}
        self._metrics = {task: get_task(task).metric(context).to(device) for task, context in contexts.items()}
        self._device = device
        self._fractions: list[list[tuple[str, dict[str, Tensor]]]] = []  # by batch: what each image added
        self._batches: list[int] = []  # images of each
        self._pooled: dict[str, dict[str, np.ndarray]] | None = None

    def begin_batch(self, images: int) -> None:
        """Say that what follows is of the next of this process's batches, of so many images."""
        self._fractions.append([])
        self._batches.append(images)

    def pool(self) -> None:
        """Make every sum that of all processes, which took turns at the batches: to the bit that of one process.

        Fractions are added one by one, in the order in which one process would have come to them.
        """
        if distributed.world_size() == 1:
            return
        self._pooled = _in_turns(distributed.all_gather((self._batches, self.statistics)))
        turns = zip_longest(*distributed.all_gather(self._fractions), fillvalue=[])
        for task, fractions in chain.from_iterable(chain.from_iterable(turns)):
            self._metrics[task].add(fractions)
        for metric in self._metrics.values():
            metric.change_counts(distributed.all_reduce_sum)

    def update(self, task: str, predictions: Sequence[Tensor], labels: Sequence[Label]) -> None:
        """Add decoded predictions, each (1, C, H, W) at the size of its label, image by image."""
        for prediction, label in zip(predictions, labels, strict=True):
            value, valid = value_tensor(label.value)[None], torch.from_numpy(np.array(label.valid))[None, None]
            self._metrics[task].update(prediction, value.to(self._device), valid.to(self._device))
            if distributed.world_size() > 1:
                self._fractions[-1].append((task, self._metrics[task].take_fractions()))

    def compute(self) -> Scores:
        """The scores so far, by task."""
        return {task: metric.compute() for task, metric in self._metrics.items()}

    @property
    def statistics(self) -> dict[str, dict[str, np.ndarray]]:
        """By task: what each image, in order, adds to the sums of the primary metric (`Metric.statistics`)."""
        if self._pooled is not None:
            return self._pooled
        return {task: metric.statistics for task, metric in self._metrics.items()}

    @property
    def formulas(self) -> dict[str, str]:
        """By task: how its primary metric follows from these sums, a key of `resampling.FORMULAS`."""
        return {task: metric.formula for task, metric in self._metrics.items()}

    @property
    def confusions(self) -> dict[str, np.ndarray]:
        """By task that has classes: pixels of the split so far, (K, K) int64, label by prediction."""
        states = {task: metric.states.get("confusion") for task, metric in self._metrics.items()}
        return {task: state.cpu().numpy() for task, state in states.items() if state is not None}

    @property
    def protocol(self) -> dict[str, str]:
        """What each task's metric does, in words."""
        return {task: metric.protocol for task, metric in self._metrics.items()}


def score(
    network: nn.Module,
    store: Store,
    tasks: tuple[str, ...],
    info: DatasetInfo,
    recipe: Training,
    batch_size: int,
    device: Device,
    observe: Observer | None = None,
) -> Scores:
    """Score `network` on every sample of `store`, processes taking turns at the batches: {task: {metric: value}}."""
    scorer = Scorer(tasks, info, device.torch_device)
    score_with(scorer, network, store, tasks, recipe, batch_size, device, observe)
    return scorer.compute()


def score_with(
    scorer: Scorer,
    network: nn.Module,
    store: Store,
    tasks: tuple[str, ...],
    recipe: Training,
    batch_size: int,
    device: Device,
    observe: Observer | None = None,
) -> None:
    """Give `scorer` the predictions of every sample of `store`; `observe` sees this process's, batch by batch."""
    turns = distributed.rank(), distributed.world_size()
    for samples, predictions in predict(network, store, tasks, recipe, batch_size, device, *turns):
        scorer.begin_batch(len(samples))
        for task, predicted in predictions.items():
            scorer.update(task, predicted, [sample.labels[task] for sample in samples])
        if observe is not None:
            observe(samples, predictions)
    scorer.pool()


def _in_turns(
    processes: Sequence[tuple[list[int], dict[str, dict[str, np.ndarray]]]],
) -> dict[str, dict[str, np.ndarray]]:
    """Statistics of all images in the order of the split, from those of processes that took turns at its batches.

    processes: of each, how many images its batches have, and its statistics.
    """
    pieces: dict[tuple[str, str], list[Iterable[np.ndarray]]] = {}
    for batches, statistics in processes:
        for task, arrays in statistics.items():
            for name, array in arrays.items():
                pieces.setdefault((task, name), []).append(np.split(array, np.cumsum(batches)[:-1]))
    pooled: dict[str, dict[str, np.ndarray]] = {}
    for (task, name), turns in pieces.items():
        in_order = [part for turn in zip_longest(*turns) for part in turn if part is not None]
        pooled.setdefault(task, {})[name] = np.concatenate(in_order)
    return pooled


def metric_values(scores: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    """{<task>/<metric>: value} for MLflow, without the counts of what was scored: they are no charts."""
    return {f"{task}/{key}": value for task, of in scores.items() for key, value in of.items() if key not in COUNTS}


def finite_or_none(scores: Scores) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN: a metric that is not defined on this split (no valid pixel, say) is null in the files."""
    return {
        task: {name: value if math.isfinite(value) else None for name, value in of.items()}
        for task, of in scores.items()
    }
