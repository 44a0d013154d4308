"""A trained network as files: the weights alone, in safetensors, so that loading them can run no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from pipeline.core import paths
from pipeline.core.errors import REPAIR, DataError
from pipeline.core.integrity import read_recorded

_SHOWN = 3  # differences that a message names


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers; the file appears whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{paths.PARTIAL}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        save_file(tensors, partial)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path}: {error}") from None
    partial.replace(path)


def load_weights(network: nn.Module, path: Path, sha256: str, record: Path, remedy: str = REPAIR) -> None:
    """Load weights that `save_weights` wrote into the same architecture: the bytes whose SHA-256 `record` names.

    Raises DataError, in one line, where there are none or they are others, and with the first differences where they
    do not fit.
    """
    content = read_recorded(path, sha256, record, remedy)
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise DataError(f"{path} holds no weights ({error}), although {record} describes it; {remedy}") from None
    if differences := _differences(network.state_dict(), tensors):
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise DataError(f"{path} holds the weights of another network: {'; '.join(differences[:_SHOWN])}{more}")
    network.load_state_dict(tensors)


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps the tensors `given` from being those of a network whose own are `own`; shapes first."""
    shapes = [
        f"{name} is {list(given[name].shape)}, not {list(own[name].shape)}"
        for name in own.keys() & given.keys()
        if given[name].shape != own[name].shape
    ]
    lacking = [f"it lacks {name}" for name in own.keys() - given.keys()]
    return [*sorted(shapes), *sorted(lacking), *sorted(f"it has {name}" for name in given.keys() - own.keys())]


class StartsFromSingleTasks(Protocol):
    """An encoder-fusion network, as `load_single_task_weights` uses it."""

    def load_single_task(self, task: str, state_dict: Mapping[str, Tensor]) -> None:
        """Give a task's encoder and head these weights. Raises ValueError for those that do not fit."""


def load_single_task_weights(
    network: StartsFromSingleTasks, start: Mapping[str, Mapping[str, str]], seed: int, record: Path
) -> None:
    """Give the tasks of an encoder-fusion network the weights that `start` names, {task: {run, sha256}}.

    record: the file that says so. Raises DataError for weights that are missing, are others than those named, or do
    not fit.
    """
    for task, source in start.items():
        path = paths.weights_file(source["run"], seed)
        content = read_recorded(path, source["sha256"], record)
        try:
            network.load_single_task(task, load(content))
        except (SafetensorError, ValueError) as error:
            raise DataError(f"{path} can't be what {task} starts from: {error}") from None
