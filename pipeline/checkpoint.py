"""A trained network as files: the weights alone, in safetensors, so that loading them can run no code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import nn

from pipeline import paths
from pipeline.errors import DataError


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers; the file appears whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        save_file(tensors, partial)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path}: {error}") from None
    partial.replace(path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote into the same architecture. Raises DataError when they do not fit."""
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise DataError(f"no weights in {path}; run `dvc repro` (or `dvc pull`) to get them") from None
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} does not fit the network that params.yaml describes: {error}") from None


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
