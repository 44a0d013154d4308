"""Reading a checkpoint that somebody else's code saved: tensors by name, and no code is run."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.adopt.values import first_few, not_plain
from pipeline.core.errors import DataError
from pipeline.networks.pretrained import HARMLESS, unsafe_objects

_PARALLEL = "module."  # what DataParallel puts before every name
_PLACES = ("model", "state_dict")  # keys under which codes keep the network's state beside other things
_ALONE = (
    "Where you trust it, load it with the code that wrote it and save its state alone: torch.save(state_dict, FILE)"
)


class _LightningClass:
    """Stands for a class of Lightning that a checkpoint names, as the key of what a callback kept; nothing is in it."""


# Old versions of Lightning, ATRC's among them, name the class itself where newer ones write its name.
_NAMED_CLASSES: list[tuple[Callable[..., Any], str]] = [
    (_LightningClass, f"{package}.callbacks.{module}")
    for package in ("pytorch_lightning", "lightning.pytorch")
    for module in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds of a network.

    tensors: by the names of the code that saved them, DataParallel's prefix taken off, in the file's order. ordered:
    whether that is the order of the network's parts: it is lost in a safetensors file, and where one was saved anew.
    epoch: None where it says none. beside: the keys of all else in it, such as the optimizer's state, which is not
    looked at.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor] = field(repr=False)
    ordered: bool = True
    epoch: int | None = None
    beside: tuple[str, ...] = ()


def read_checkpoint(path: Path, sha256: str | None = None) -> Checkpoint:
    """Read a file of torch.save or safetensors, loading tensors and plain values only.

    sha256: what it must have. Raises DataError, in one line with the remedy, for a file that is missing, another one,
    damaged, that needs other objects than tensors, or that holds no state of a network.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; bring the checkpoint there, or adopt it from where it is") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}; fix that, then run it again") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise DataError(
            f"{path} is not the file that params.yaml means: its SHA-256 is {found}, not {sha256}; bring that one, or "
            "run `python -m stages.adopt` for this one"
        )
    loaded = _load(path, content)
    state, beside = _state_of(path, loaded)
    given = loaded.get("epoch") if state is not loaded else None
    epoch = given if type(given) is int else None
    tensors = _plain(path, state)
    ordered = path.suffix != ".safetensors" and _is_in_order(tensors)
    unseen = tuple(key for key in beside if epoch is None or key != "epoch")
    return Checkpoint(path, found, tensors, ordered, epoch, unseen)


def _load(path: Path, content: bytes) -> dict[Any, Any]:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(content)
        except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise DataError(f"{path} is damaged, or no checkpoint ({_first_line(error)})") from None
    _check_sums(path, content)
    try:
        with torch.serialization.safe_globals([*HARMLESS, *_NAMED_CLASSES]):
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        known = {name for _, name in _NAMED_CLASSES}
        if objects := unsafe_objects(path, known) or re.findall(r"GLOBAL (\w+(?:\.\w+)+) was not", str(error)):
            raise DataError(
                f"{path} holds objects besides tensors, which could run code: {', '.join(objects)}. {_ALONE}"
            ) from None
        raise DataError(f"{path} is damaged, or no file that torch.save wrote ({_first_line(error)})") from None
    except MemoryError:
        raise
    except Exception as error:  # torch's former format, where it is damaged, ends in errors of many kinds
        raise DataError(f"{path} is damaged, or no checkpoint ({_first_line(error)})") from None
    if not isinstance(loaded, dict):
        raise DataError(f"{path} holds a {type(loaded).__name__}, no state of a network by name. {_ALONE}")
    return loaded


def _check_sums(path: Path, content: bytes) -> None:
    """Raise DataError where a part of a zip file, as torch writes them, is not what was written: torch doesn't look."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return
    # A changed byte of the archive's own tables is met in many forms: BadZipFile and ValueError where they contradict
    # each other, EOFError where one ends early, zlib.error for a member that now says it is compressed,
    # NotImplementedError for a compression or version that zipfile doesn't have, RuntimeError for "it is encrypted".
    damage = (zipfile.BadZipFile, ValueError, EOFError, zlib.error, NotImplementedError, RuntimeError)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            broken = file.testzip()
    except damage as error:
        raise DataError(f"{path} is damaged ({_first_line(error)}); bring it anew") from None
    if broken is not None:
        raise DataError(
            f"{path} is damaged: the check sum of {broken} in it is another; bring it anew, or save it anew if it was "
            "saved without check sums"
        )


def _state_of(path: Path, loaded: dict[Any, Any]) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """The network's state in what was loaded, and the keys of what stands beside it."""
    for place in _PLACES:
        if isinstance(loaded.get(place), dict):
            return loaded[place], tuple(str(key) for key in loaded if key != place)
    if not any(isinstance(value, Tensor) for value in loaded.values()):
        keys = ", ".join(map(str, list(loaded)[:10])) or "nothing"
        raise DataError(
            f"{path} holds no state of a network, only {keys}; allowed: a state dict, alone or under "
            f"{' or '.join(_PLACES)}"
        )
    return loaded, ()


def _plain(path: Path, state: dict[Any, Any]) -> dict[str, Tensor]:
    """Tensors by name, without DataParallel's prefix; all of plain numbers."""
    if others := [str(name) for name, value in state.items() if not isinstance(value, Tensor)]:
        raise DataError(f"{path} has what is no tensor among them ({first_few(others)}). {_ALONE}")
    if state and all(str(name).startswith(_PARALLEL) for name in state):
        state = {str(name).removeprefix(_PARALLEL): value for name, value in state.items()}
    tensors = {str(name): value for name, value in state.items()}
    if others := [f"{name} {why}" for name, value in tensors.items() if (why := not_plain(value))]:
        raise DataError(
            f"{path} has tensors that hold no plain numbers ({first_few(others)}); save its state with dense ones"
        )
    return tensors


def _is_in_order(tensors: dict[str, Tensor]) -> bool:
    """Whether every layer's weight stands before its bias, as torch has them, and no sorted list."""
    places = {name: place for place, name in enumerate(tensors)}
    layers = (name.removesuffix("bias") for name in tensors if name.endswith(".bias"))
    return all(places.get(f"{layer}weight", -1) < places[f"{layer}bias"] for layer in layers)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
