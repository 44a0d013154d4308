"""A trained network as files: the weights alone, in safetensors, so that loading them can run no code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from pipeline import paths
from pipeline.errors import DataError

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


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote into the same architecture.

    Raises DataError, in one line, where there are none, and with the first differences where they do not fit.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise DataError(f"no weights in {path}; run `dvc repro` (or `dvc pull`) to get them") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} can't be read: {error}") from None
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


def weights_digest(path: Path) -> str:
    """SHA-256 of a file of weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_single_task_weights(network: nn.Module, start: Mapping[str, Mapping[str, str]], seed: int) -> None:
    """Give the tasks of an encoder-fusion network the weights that `start` names, {task: {run, sha256}}.

    Raises DataError for weights that are missing, are others than those named, or do not fit.
    """
    for task, source in start.items():
        path = paths.weights_file(source["run"], seed)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"no weights in {path}; run `dvc repro` (or `dvc pull`) to get them") from None
        if hashlib.sha256(content).hexdigest() != source["sha256"]:
            raise DataError(f"{path} has changed since models/start named it; run `dvc repro`")
        try:
            network.load_single_task(task, load(content))
        except (SafetensorError, ValueError) as error:
            raise DataError(f"{path} can't be what {task} starts from: {error}") from None
