"""Pretrained weights for a backbone, from timm's hub or a file; never loaded partly in silence."""

from __future__ import annotations

import _codecs
import argparse
import os
import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import huggingface_hub.constants
import numpy as np
import safetensors.torch
import timm
import torch
from huggingface_hub.utils import get_session
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.core.errors import TrainingError
from pipeline.networks.pairing import LoadReport, TimmOptions, own_name, pairings, plain, some

# What many checkpoints hold beside tensors: a record of options, and NumPy's numbers, such as the best score so far.
# NumPy 2 moved the function that makes one; files name either place.
_NUMBERS = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDU"]
_SCALAR = cast("Callable[..., Any]", np.float64(0).__reduce__()[0])
HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    np.dtype,
    *_NUMBERS,
    *((_SCALAR, f"numpy.{place}.multiarray.scalar") for place in ("_core", "core")),
    _codecs.encode,  # how pickle's second protocol writes bytes
]
_REACH_SECONDS = 5

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")


def load_pretrained(
    net: nn.Module, name: str, pretrained: bool | str, options: TimmOptions | None = None
) -> LoadReport:
    """Load weights into `net`, the feature extractor of timm's model `name`.

    pretrained: True for timm's hub, or the path of a file in safetensors or torch format (loaded with weights_only:
        tensors, no code) that holds a state dict, at any depth ("state_dict", "model", ...) and with its names
        under any prefix ("module.", "backbone.", ...). options: those that the timm model was built with.

    Every learned tensor of `net` must be found, with its shape; what the file has besides, its classifier for one, is
    listed in the report. Three ways to pair them are tried. By name. By timm's own conversion for this family, which
    knows the names of the authors' files and resamples position embeddings. By order, for another library's port:
    only if no name fits, both have equally many tensors, and each pair has one shape and one last part of the name
    (weight, running_mean, ...). Two layers of one shape that the port lists the other way round would pass this, so
    the report says "order", and a first score should confirm it.

    Raises TrainingError if the weights cannot be fetched or read, or would leave a part of the backbone random.
    """
    options = dict(options or {})
    own = net.state_dict()
    if pretrained is True:
        source, state = f"timm's hub ({name})", _from_hub(name, options)
    else:
        source = str(pretrained)
        state = _find_state(_read(Path(source)), own, source)
    best = None
    for report, chosen, mismatched in pairings(own, state, name, options):
        if not report.missing:
            net.load_state_dict(chosen, strict=False)
            return report
        if best is None or len(report.matched) > len(best[0].matched):
            best = report, mismatched
    assert best is not None  # `_pairings` has at least one, by name
    report, mismatched = best
    shapes = f" Of another shape in the file: {'; '.join(mismatched[:3])}." if mismatched else ""
    raise TrainingError(
        f"Weights from {source} do not fit backbone {name!r}: {len(report.missing)} of {len(own)} tensors would stay "
        f"random{some(report.missing)}; {len(report.matched)} match, {len(report.unexpected)} of the file are "
        f"unknown{some(report.unexpected)}.{shapes} Give the weights of timm's {name}, or set pretrained: false."
    )


# ---- where they come from ----------------------------------------------------------------------------------


def _from_hub(name: str, options: TimmOptions) -> dict[str, Tensor]:
    if not timm.is_model_pretrained(name):
        raise TrainingError(
            f"pretrained: true, but timm has no weights of {name!r}. Set pretrained to the path of a file, or to false."
        )
    # The classification model is loaded strictly by timm, a feature extractor is not.
    try:
        with _asked_once():
            return timm.create_model(name, pretrained=True, **options).state_dict()
    except Exception as error:  # hub clients raise errors of their own, of many unrelated types
        file, cache = _hub_file(name)
        raise TrainingError(
            f"pretrained: true, but the weights of {name!r} could not be fetched from timm's hub: {_reason(error)} "
            f"Remedy: bring {file} to this machine and set pretrained to its path (timm itself looks for it in "
            f"{cache}), or set pretrained: false."
        ) from error


@contextmanager
def _asked_once() -> Iterator[None]:
    """Where the hub can't be reached, its client looks into its cache alone: by itself it asks twelve times in 47 s."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=_REACH_SECONDS)  # any answer is one
    except Exception:  # the client's own errors, which are others in each of its versions
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_file(name: str) -> tuple[str, str]:
    """What file timm would load, and where it keeps the ones that it has."""
    config = timm.get_pretrained_cfg(name)
    assert config is not None, name
    if config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        return f"{file} of the hub's repository {config.hf_hub_id!r}", "the Hugging Face cache, under HF_HOME"
    return str(config.url), os.path.join(torch.hub.get_dir(), "checkpoints")


def _read(path: Path) -> dict:
    if path.suffix not in SUFFIXES:
        raise TrainingError(f"pretrained: {path} has no known ending; allowed: {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise TrainingError(f"pretrained: there is no file {path}. Bring it there, or set pretrained: false.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrainingError(f"pretrained: {path} cannot be read: {_pickle_reason(path, error)}") from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise TrainingError(f"pretrained: {path} cannot be read as a state dict: {_reason(error)}") from error
    return content if isinstance(content, dict) else {}


def _pickle_reason(path: Path, error: Exception) -> str:
    if not (objects := unsafe_objects(path)):
        return f"it is damaged, or no file that torch.save wrote ({_reason(error)})"
    return (
        f"besides tensors it holds objects that could run code ({', '.join(objects)}). If you trust it, load it "
        "elsewhere and save its state dict alone."
    )


def unsafe_objects(path: Path, known: Collection[str] = ()) -> list[str]:
    """What a file of torch.save needs besides tensors and what is harmless; known: names that are no matter either.

    Empty where that can't be said: of a damaged file, and of torch's former format.
    """
    names = {place[1] for place in HARMLESS if isinstance(place, tuple)} | set(known)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError):  # it reads torch's zip format only
        return []
    return [name for name in found if name not in names]


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ---- finding the state dict in a checkpoint ----------------------------------------------------------------


def _find_state(content: dict, own: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The state dict of the backbone in a checkpoint: that under which the most of its names stand.

    Raises TrainingError for a file without tensors, and if two places are equally good (a model and its average).
    """
    candidates = list(_state_dicts(content))
    if not candidates:
        raise TrainingError(f"pretrained: {source} holds no tensors by name; expected is a state dict.")
    wanted = {plain(own_name(key)) for key in own}
    counts = Counter(
        (index, prefix)
        for index, (_, tensors) in enumerate(candidates)
        for key in tensors
        for prefix in _prefixes(key)
        if plain(key[len(prefix) :]) in wanted
    )
    most = max(counts.values(), default=0)
    if most < len(wanted) / 2:  # other names: all that the largest dict holds
        _, tensors = max(candidates, key=lambda candidate: len(candidate[1]))
        common = os.path.commonprefix(list(tensors))  # noqa: RUF071  (of names, cut back to a whole part below)
        return _strip(tensors, common[: common.rfind(".") + 1])
    places = [place for place, count in counts.items() if count == most]
    if len(places) > 1:
        named = " and ".join(repr(candidates[index][0] + prefix) for index, prefix in places)
        raise TrainingError(f"pretrained: {source} holds this backbone {len(places)} times, under {named}; keep one.")
    ((index, prefix),) = places
    return _strip(candidates[index][1], prefix)


def _state_dicts(content: dict, where: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict in `content`, itself included, that has tensors by name."""
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _state_dicts(value, f"{where}{key}.")


def _prefixes(key: str) -> list[str]:
    """ "a.b.weight" -> "", "a.", "a.b."."""
    return ["", *(key[: i + 1] for i, letter in enumerate(key) if letter == ".")]


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those under the prefix without it; then the others, a head say, as they are."""
    under = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return under | {key: value for key, value in tensors.items() if not key.startswith(prefix) and key not in under}
