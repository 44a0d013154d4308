"""The whole training split at the input size, in the memory of the device that trains.

Decoded and resized once, then gathered by index: no step waits for a file, a copy or a worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch

from pipeline.datasets.loading import Batch, EpochSampler, ResizedSplit, TrainingBatches
from pipeline.datasets.store import Store

_SHARE = 0.25  # of the memory that is free: the rest is the network's


def training_batches(
    store: Store, size: tuple[int, int], batch_size: int, seed: int, device: torch.device
) -> ResidentBatches | TrainingBatches:
    """Shuffled batches at `size`: out of the device's memory where the split fits, else read ahead from the store."""
    split = load_split(store, size, device)
    if split is None:
        return TrainingBatches(store, size, batch_size, seed, on_gpu=device.type == "cuda")
    return ResidentBatches(split, batch_size, seed)


class ResidentBatches:
    """The same batches as `TrainingBatches` gives, out of memory. split: every sample, on the device that trains."""

    description = "training split kept in memory"

    def __init__(self, split: Batch, batch_size: int, seed: int):
        self._split = split
        self._sampler = EpochSampler(len(split.image), seed)
        self.batch_size = min(batch_size, len(split.image))

    def __len__(self) -> int:
        return len(self._split.image) // self.batch_size

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, but for the first `done` of them."""
        self._sampler.epoch = epoch
        order = torch.tensor(list(self._sampler)).to(self._split.image.device, non_blocking=True)
        for i in range(done, len(self)):
            chosen = order[i * self.batch_size : (i + 1) * self.batch_size]
            yield self._split.map(lambda x, chosen=chosen: x.index_select(0, chosen))


def load_split(store: Store, size: tuple[int, int], device: torch.device) -> Batch | None:
    """Every sample of `store` at `size` on `device`; None when that would take too much of its free memory."""
    samples = ResizedSplit(store, size)
    first = samples[0]
    if len(samples) * sum(x.nbytes for x in first.tensors()) > _SHARE * free_memory(device):
        return None
    split = first.map(lambda x: torch.empty(len(samples), *x.shape, dtype=x.dtype, device=device))

    def place(i: int) -> None:
        for whole, one in zip(split.tensors(), samples[i].tensors(), strict=True):
            whole[i].copy_(one)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(place, range(len(samples))))
    return split


def free_memory(device: torch.device) -> int:
    """Bytes that a program could still take on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
