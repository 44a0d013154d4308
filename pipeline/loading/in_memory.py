"""The whole training split at the input size, in the memory of the device that trains.

Decoded and resized once, then gathered by index: no step waits for a file, a copy or a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch
from torch import Tensor

from pipeline.core.workers import worker_count
from pipeline.data.store import Store
from pipeline.loading.loader import Batch, EpochSampler, ResizedSplit, Shard, TrainingBatches, to_device

_SHARE = 0.25  # of the memory that is free: the rest is the network's


def training_batches(
    store: Store, size: tuple[int, int], batch_size: int, seed: int, device: torch.device, share: Shard | None = None
) -> ResidentBatches | TrainingBatches:
    """Shuffled batches at `size`, or this process's share of them.

    They come out of the device's memory where the split fits, and are else read ahead from the store.
    """
    split = load_split(store, size, device)
    if split is None:
        return TrainingBatches(store, size, batch_size, seed, device.type == "cuda", share)
    return ResidentBatches(split, batch_size, seed, share)


class ResidentBatches:
    """The same batches as `TrainingBatches` gives, out of memory. split: every sample, on the device that trains."""

    description = "training split kept in memory"

    def __init__(self, split: Batch, batch_size: int, seed: int, share: Shard | None = None):
        self._split, self.share = split, share or Shard()
        self._sampler = EpochSampler(len(split.image), batch_size, seed, self.share)
        self.batch_size = self._sampler.batch_size

    def __len__(self) -> int:
        return self._sampler.batches

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, but for the first `done` of them."""
        self._sampler.epoch, self._sampler.done = epoch, done
        order = to_device(torch.tensor(list(self._sampler), dtype=torch.int64), self._split.image.device)
        for chosen in order.view(-1, self._sampler.own_batch_size):
            yield self._chosen(chosen)

    def _chosen(self, index: Tensor) -> Batch:
        return self._split.map(lambda x: x.index_select(0, index))


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

    with ThreadPoolExecutor(min(8, worker_count())) as pool:
        list(pool.map(place, range(len(samples))))
    return split


def free_memory(device: torch.device) -> int:
    """Bytes that a program could still take on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
