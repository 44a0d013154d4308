"""Batches for training and scoring, out of the prepared store."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.core.errors import DataError, TrainingError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import Store
from pipeline.tasks import get_task

_PREFETCH_WORKERS = 8


@dataclass
class Batch:
    """A batch of samples of one size.

    image: (B, 3, H, W) uint8, or float32 in 0..255 once augmented. value[task]: (B, C, H, W) in the label's type.
    valid[task]: (B, 1, H, W) bool.
    """

    image: Tensor
    value: dict[str, Tensor]
    valid: dict[str, Tensor]

    def tensors(self) -> list[Tensor]:
        """The image, the values and the masks, in this order."""
        return [self.image, *self.value.values(), *self.valid.values()]

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `change` made to every tensor."""

        def each(named: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(tensor) for name, tensor in named.items()}

        return Batch(change(self.image), each(self.value), each(self.valid))

    def split(self, parts: int) -> list[Batch]:
        """The batch in so many equal parts, in order."""
        size = len(self.image) // parts

        def part(i: int) -> Batch:
            return self.map(lambda x: x[i * size : (i + 1) * size])

        return [part(i) for i in range(parts)]

    def pin_memory(self) -> Batch:
        """The batch in memory that a GPU reads by itself; DataLoader asks for it by this name."""
        return self.map(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, without waiting for the copy."""
        return self.map(lambda x: x.to(device, non_blocking=True))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without waiting for it: what is to be copied to a GPU is put where that reads by itself."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (h, w, 3) to (H, W, 3), aspect not kept: area average along a side that shrinks, cubic if it grows.

    Each side by its own rule: OpenCV's area average of both is a bilinear one as soon as either grows. Cubic is what
    the released codes do; its overshoot ends at 0 and 255.
    """
    if image.shape[:2] == size:
        return image
    small = tuple(min(pair) for pair in zip(size, image.shape[:2], strict=True))
    if image.shape[:2] != small:
        image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    return image if small == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)


def resize_label(label: Label, size: tuple[int, int], how: str = "nearest") -> Label:
    """Resize to (H, W) by nearest pixel: no value is ever a mix of two, and none leaks out of a hole.

    The nearest is the one that the new pixel's centre falls on.
    how `max`, for labels of 0 and 1 drawn in thin lines: along a side that shrinks, 1 where any covered valid pixel is.
    """
    old = label.valid.shape
    if old == size:
        return label
    grid = np.ix_(*(_centres(n, m) for n, m in zip(size, old, strict=True)))
    value, valid = label.value[grid], label.valid[grid]
    small = tuple(min(pair) for pair in zip(size, old, strict=True))
    if how == "max" and small != old:
        positive = ((label.value > 0) & label.valid).astype(np.float32)
        touched = cv2.resize(positive, small[::-1], interpolation=cv2.INTER_AREA) > 1e-6
        if small != size:
            touched = touched[np.ix_(*(_centres(n, m) for n, m in zip(size, small, strict=True)))]
        return Label(touched.astype(label.value.dtype), valid | touched)
    return Label(value, valid)


def _centres(new: int, old: int) -> np.ndarray:
    """(new,): of `old` pixels in a row, those that the centres of `new` ones over the same extent fall on."""
    return np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.intp)


def value_tensor(value: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) -> (C, H, W)."""
    channels_first = value[None] if value.ndim == 2 else value.transpose(2, 0, 1)
    return torch.from_numpy(np.array(channels_first))  # a copy: memory-mapped arrays can't be written to


def image_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) uint8, a copy."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1)))


class ResizedSplit(Dataset):
    """The samples of a store at the network's input size."""

    def __init__(self, store: Store, size: tuple[int, int]):
        self.store, self.size = store, size

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> Batch:
        sample = self.store[i]
        labels = {
            task: resize_label(label, self.size, get_task(task).resize_label) for task, label in sample.labels.items()
        }
        return Batch(
            image_tensor(resize_image(sample.image, self.size)),
            {task: value_tensor(label.value) for task, label in labels.items()},
            {task: torch.from_numpy(np.array(label.valid))[None] for task, label in labels.items()},
        )


class _FetchedByWorkers(ResizedSplit):
    """Hands an error on as if it were a batch: DataLoader would put a worker's traceback into its message."""

    def __getitems__(self, chosen: list[int]) -> list[Batch] | DataError:
        try:
            return [self[i] for i in chosen]
        except DataError as error:
            return error


def _collate(items: list[Batch] | DataError) -> Batch | DataError:
    if isinstance(items, DataError):
        return items

    def stack(named: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([each[name] for each in named]) for name in named[0]}

    return Batch(
        torch.stack([item.image for item in items]),
        stack([item.value for item in items]),
        stack([item.valid for item in items]),
    )


@dataclass(frozen=True)
class Shard:
    """What one process takes of every batch: of each of its `parts`, the piece number `rank` of `count` equal ones."""

    rank: int = 0
    count: int = 1
    parts: int = 1

    def of(self, samples: np.ndarray, batch_size: int) -> np.ndarray:
        """Of samples (N,), in whole batches one after the other, those of this process, (N / count,)."""
        size = batch_size // (self.parts * self.count)
        return samples.reshape(-1, self.parts, self.count, size)[:, :, self.rank].ravel()


class EpochSampler:
    """A new order each epoch that depends on (seed, epoch) alone, so an epoch can be replayed, from any batch on.

    batch_size: at most so many samples are a batch, in all processes together; those that fill no batch are left out,
    unless they are all. Raises TrainingError where a batch can't be shared out in equal pieces.
    """

    def __init__(self, count: int, batch_size: int, seed: int, share: Shard):
        self.count, self.seed, self.share, self.epoch, self.done = count, seed, share, 0, 0
        self.batch_size = min(batch_size, count)
        self.own_batch_size = self.batch_size // share.count
        if self.batch_size % (share.count * share.parts):
            few = f" (there are only {count} training samples)" if count < batch_size else ""
            raise TrainingError(
                f"a batch of {self.batch_size} images{few} can't be split equally over training.accumulate "
                f"{share.parts} x {share.count} processes: change batch_size, accumulate or the number of processes"
            )

    @property
    def batches(self) -> int:
        """How many batches an epoch has; what is left over is left out."""
        return self.count // self.batch_size

    def __len__(self) -> int:
        return self.batches * self.own_batch_size

    def __iter__(self) -> Iterator[int]:
        """The samples of this process, but for those of the first `done` batches."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        whole = order[self.done * self.batch_size : self.batches * self.batch_size]
        return iter(self.share.of(whole, self.batch_size).tolist())


class TrainingBatches:
    """Shuffled batches at the input size; the last, smaller batch of an epoch is dropped unless it is the only one.

    share: the part of each that this process gets. batch_size: the size of a whole one.
    """

    description = "training split read from disk"

    def __init__(
        self, store: Store, size: tuple[int, int], batch_size: int, seed: int, on_gpu: bool, share: Shard | None = None
    ):
        self.share = share or Shard()
        self._sampler = EpochSampler(len(store), batch_size, seed, self.share)
        self.batch_size = self._sampler.batch_size
        workers = _PREFETCH_WORKERS if on_gpu else 0  # on the CPU, workers would take the cores that train
        self._loader = DataLoader(
            _FetchedByWorkers(store, size),
            batch_size=self._sampler.own_batch_size,
            sampler=self._sampler,
            drop_last=True,
            collate_fn=_collate,
            num_workers=workers,
            pin_memory=on_gpu,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_ends_to_the_stage,
            generator=torch.Generator(),  # or each epoch would take a number out of the stream that dropout draws from
        )

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, but for the first `done` of them. Raises DataError for a sample that is damaged."""
        self._sampler.epoch, self._sampler.done = epoch, done
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _leave_ends_to_the_stage(worker: int) -> None:
    """After a SIGTERM to a whole job the stage still needs this process for the step it finishes, and then ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def scoring_batches(
    store: Store, size: tuple[int, int], batch_size: int, rank: int = 0, count: int = 1
) -> Iterator[tuple[Tensor, list[Sample]]]:
    """Images at the input size, (B, 3, H, W) uint8, with the untouched samples to score against, in order.

    Of all batches, one in `count`, from number `rank` on.
    """
    for start in range(rank * batch_size, len(store), count * batch_size):
        samples = [store[i] for i in range(start, min(start + batch_size, len(store)))]
        yield torch.stack([image_tensor(resize_image(sample.image, size)) for sample in samples]), samples
