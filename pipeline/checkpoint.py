"""A trained network as files: the weights alone, in safetensors, so that loading them can run no code."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import DataError


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, partial)
    partial.replace(path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote into the same architecture. Raises DataError when they do not fit."""
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise DataError(f"no weights in {path}; run `dvc repro` (or `dvc pull`) to get them") from None
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} does not fit the network that params.yaml describes: {error}") from None
