"""What one pixel gathered by cross attention: the numbers, and their form in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CTAM, CSAM, _CHANGE = "ctam", "csam", "change"

Place = tuple[float, float]
"""Of a pixel: how far down and how far right in the image, each at least 0 and below 1."""


class Gathered(NamedTuple):
    """One answer: what a map took at one pixel from another map.

    weights: (h, w) float32, where in the source; they add up to 1. change: how much of the raw prediction at the pixel
    depends on it: the norm of the difference that it makes to take the answer's mean over the image instead, over the
    norm of the prediction. 0: none.
    """

    weights: np.ndarray
    change: float


@dataclass(frozen=True)
class TaskAttention:
    """Of one task and one pixel: what each of K scales gathered, by task (CTAM) and by coarser scale (CSAM).

    Scales are numbered from the finest, 0. A module that the network has not leaves its mappings empty, as the coarsest
    scale does for CSAM.
    """

    tasks: tuple[Mapping[str, Gathered], ...]
    scales: tuple[Mapping[int, Gathered], ...]

    @property
    def rows(self) -> list[dict[str, Gathered]]:
        """Of each scale what it gathered, by the name of the source: a task, or such as `scale 2`, counted from 1."""
        return [
            {**tasks, **{f"scale {source + 1}": gathered for source, gathered in scales.items()}}
            for tasks, scales in zip(self.tasks, self.scales, strict=True)
        ]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """For a file: weights under keys such as ctam/1/depth and csam/1/2, and the change under ctam/1/depth/change.

        First comes the scale that gathered, then the source. Scales count from 1 here.
        """
        found = dict(self._named())
        arrays = {name: gathered.weights for name, gathered in found.items()}
        return arrays | {f"{name}/{_CHANGE}": np.array(each.change, np.float32) for name, each in found.items()}

    def _named(self) -> Iterator[tuple[str, Gathered]]:
        for k, by_task in enumerate(self.tasks):
            yield from ((f"{CTAM}/{k + 1}/{source}", gathered) for source, gathered in by_task.items())
        for k, by_scale in enumerate(self.scales):
            yield from ((f"{CSAM}/{k + 1}/{source + 1}", gathered) for source, gathered in by_scale.items())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TaskAttention:
        """What `arrays` was made of, at least one answer; sources are in the same order."""
        names = [name.split("/") for name in arrays if not name.endswith(f"/{_CHANGE}")]
        numbers = [int(part) for name in names for part in name[1:] if part.isdecimal()]
        tasks: list[dict[str, Gathered]] = [{} for _ in range(max(numbers))]
        scales: list[dict[int, Gathered]] = [{} for _ in tasks]
        for module, scale, source in names:
            name = f"{module}/{scale}/{source}"
            gathered = Gathered(arrays[name], float(arrays[f"{name}/{_CHANGE}"]))
            if module == CTAM:
                tasks[int(scale) - 1][source] = gathered
            else:
                scales[int(scale) - 1][int(source) - 1] = gathered
        return cls(tuple(tasks), tuple(scales))


def middle_of(image: np.ndarray) -> Place:
    """The place of the middle pixel of (H, W, 3); of an even number of rows or columns, the later one."""
    height, width = image.shape[:2]
    return (height // 2 + 0.5) / height, (width // 2 + 0.5) / width


def with_sample(attention: Mapping[str, TaskAttention], sample_id: str) -> dict[str, np.ndarray]:
    """For a file that holds predictions too: {"<sample id>/<task>/<name of `TaskAttention.arrays`>": array}.

    Predictions are called <sample id>/<task>, and ids hold no slash, so no two names are the same.
    """
    return {f"{sample_id}/{task}/{name}": array for task, of in attention.items() for name, array in of.arrays.items()}


def of_sample(arrays: Mapping[str, np.ndarray], sample_id: str) -> dict[str, TaskAttention]:
    """By task what `with_sample` put among `arrays`; empty where there is nothing of that sample."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        id_, task, *rest = name.split("/", 2)
        if id_ == sample_id and rest:
            found.setdefault(task, {})[rest[0]] = array
    return {task: TaskAttention.from_arrays(of) for task, of in found.items()}
