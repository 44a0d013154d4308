"""Several processes at one training: which of them this is, and what they tell each other.

torchrun starts them and says so in environment variables (WORLD_SIZE, RANK, LOCAL_RANK). One process alone is the plain
case of everything here: it is the first of one, and sums over all are its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Within the block this process works with those that were started beside it, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # What is on the CPU, flags and scores, goes by gloo even then: nobody waits for the GPU's queue to hear of it.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: the others may be waiting for this one, and torchrun ends them


def world_size() -> int:
    """How many processes train together; 1 without others."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks to people and to MLflow."""
    return rank() == 0


def barrier() -> None:
    """Return once every process has come here."""
    if world_size() > 1:
        all_gather(None)


def all_reduce_sum(own: Tensor) -> Tensor:
    """The sum over all processes of a tensor without a graph."""
    if world_size() == 1:
        return own
    own = own.clone()
    dist.all_reduce(own)
    return own


def all_gather(own: Value) -> list[Value]:
    """What every process gave, in their order."""
    if world_size() == 1:
        return [own]
    everyone: list[Value | None] = [None] * world_size()
    dist.all_gather_object(everyone, own)
    return cast("list[Value]", everyone)


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Of each flag, whether it is up in any process."""
    return tuple(bool(flag) for flag in all_reduce_sum(torch.tensor(flags, dtype=torch.int32)))


def separate_random_streams(seed: int) -> None:
    """Let dropout draw other numbers in each process; the first keeps its own."""
    if rank():
        torch.manual_seed(seed + (rank() << 32))  # seeds in params are below 2^32
