"""Which image sizes an exported graph takes, found by comparing what it computes with the network itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.tasks import get_task
from pipeline.tools.export.model import Model

MULTIPLE = 32  # backbones enlarge other images to it first, and a graph of that holds for no multiple of it
LARGEST = 512  # pixels a side, or the training's size where that is larger: what is tried at an export
TOLERANCE = 1e-4  # of the largest value of a prediction: float32 in another order

Size = tuple[int, int]
Run = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Sizes:
    """Heights and widths from `smallest` to `largest`, in multiples of `multiple`; one size where both are equal.

    why_fixed: what keeps a graph to one size; None for one of free sizes.
    """

    smallest: Size
    largest: Size
    multiple: int = MULTIPLE
    why_fixed: str | None = None

    @property
    def fixed(self) -> bool:
        """Whether there is one size alone."""
        return self.smallest == self.largest

    def __str__(self) -> str:
        low, high = ("x".join(map(str, size)) for size in (self.smallest, self.largest))
        return low if self.fixed else f"{low} to {high}, multiples of {self.multiple}"


def fixed(size: Size, why: str) -> Sizes:
    """That size alone."""
    return Sizes(size, size, 1, why)


def sizes_to_try(trained: Size, smallest: int, largest: Size) -> list[Size]:
    """The training's size, below a window of attention, an odd number of patches, whole windows, and the extremes."""
    return [
        trained,
        (smallest, smallest),
        (smallest, largest[1]),
        (largest[0], smallest),
        (max(smallest, 96), max(smallest, 160)),
        (max(smallest, 224), max(smallest, 224)),
        largest,
    ]


def find_sizes(model: Model, run: Run) -> tuple[Sizes | None, str]:
    """The sizes for which `run` predicts what the network does, and what is wrong outside; None where there are none.

    run: normalised by itself, images (B, 3, H, W) in 0..1 -> decoded maps in the order of the tasks, then raw ones.
    Sides are tried from the smallest multiple on: where a graph holds for large maps alone, its smallest is the first
    that is right.
    """
    trained = model.input_size
    largest = (max(LARGEST, trained[0]), max(LARGEST, trained[1]))
    if any(side % MULTIPLE for side in trained):
        return None, f"{trained[0]}x{trained[1]} is no multiple of {MULTIPLE}"
    reason = ""
    for smallest in range(MULTIPLE, min(trained) + 1, MULTIPLE):
        reason = next(problems(model, run, sizes_to_try(trained, smallest, largest)), "")
        if not reason:
            return Sizes((smallest, smallest), largest), ""
    return None, reason


def problems(model: Model, run: Run, sizes: Sequence[Size]) -> Iterator[str]:
    """For each size, with one image and with two: where `run` does not predict what the network does."""
    for height, width in sizes:
        image, expected = _example(model, height, width)
        count_of_tasks = len(model.tasks)
        for count in (1, 2):
            try:
                found = run(image[:count])
            except Exception as error:  # what a runtime raises is its own, and any of it means: not this size
                yield f"{height}x{width}, {count} images: {str(error).strip().splitlines()[0]}"
                break
            decoded, said = found[:count_of_tasks], found[count_of_tasks:]
            for task, value, raw, right in zip(model.tasks, decoded, said, expected, strict=True):
                if problem := differs(task, value, raw, right[:count]):
                    yield f"{height}x{width}, {count} images, {task}: {problem}"


@functools.lru_cache(maxsize=8)
def _example(model: Model, height: int, width: int) -> tuple[Tensor, list[Tensor]]:
    """Two images of a size, and what the network says of them: kept, since a graph and then its file are compared."""
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height + width))
    return image, raw_predictions(model, image)


@torch.inference_mode()
def raw_predictions(model: Model, image: Tensor) -> list[Tensor]:
    """What the network says of images in 0..1, before decoding."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.config.mean, model.config.std))
    final = model.network((image - mean) / std).final
    return [final[task] for task in model.tasks]


def differs(task: str, decoded: Tensor, raw: Tensor, right: Tensor) -> str | None:
    """What is wrong with a prediction, decoded and raw, given the raw one that is right; None for nothing."""
    if not right.isfinite().all():
        return "what the network itself predicts is not finite: it diverged"
    if raw.shape != right.shape:
        return f"its shape is {tuple(raw.shape)}, not {tuple(right.shape)}"
    error = float(
        (raw.float() - right.float()).abs().max() / right.abs().max().clamp(min=torch.finfo(right.dtype).tiny)
    )
    if not error <= TOLERANCE:  # not a number either
        return f"it is off by {error:.1e} of its largest value"
    expected = get_task(task).decode(raw)
    if decoded.shape != expected.shape:
        return f"decoded, its shape is {tuple(decoded.shape)}, not {tuple(expected.shape)}"
    if not torch.allclose(decoded.float(), expected.float(), rtol=TOLERANCE, atol=TOLERANCE):
        return "decoded, it is not what the task makes of it"
    return None
