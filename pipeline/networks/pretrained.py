"""Pretrained weights for a backbone, from timm's hub or a file; never loaded partly in silence."""

from __future__ import annotations

import _codecs
import argparse
import inspect
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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

TimmOptions = Mapping[str, Any]  # keyword arguments of a timm model, of any type: every family has its own

# What many checkpoints hold beside tensors: a record of options, and NumPy's numbers, such as the best score so far.
# NumPy 2 moved the function that makes one; files name either place.
_NUMBERS = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDU"]
_SCALAR = cast("Callable[..., Any]", np.float64(0).__reduce__()[0])
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    np.dtype,
    *_NUMBERS,
    *((_SCALAR, f"numpy.{place}.multiarray.scalar") for place in ("_core", "core")),
    _codecs.encode,  # how pickle's second protocol writes bytes
]
_REACH_SECONDS = 5

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors: `matched` were loaded, `missing` are the backbone's without a counterpart in the
    file, `unexpected` the file's without one in the backbone (a classifier, say). `by`: how they were paired,
    "name", "timm's conversion" (of another library's names, or of position embeddings to another size) or "order"."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    by: str = "name"

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors loaded (matched by {self.by}), {len(self.missing)} missing"
            f"{_some(self.missing)}, {len(self.unexpected)} in the file not used{_some(self.unexpected)}"
        )


def _some(names: Iterable[str]) -> str:
    """The first names in parentheses: " (a, b, c, ...)", nothing for none."""
    names = list(names)
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


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
    for report, chosen, told in _pairings(own, state, name, options):
        if not report.missing:
            net.load_state_dict(chosen, strict=False)
            return report
        if best is None or len(report.matched) > len(best[0].matched):
            best = report, told
    assert best is not None  # `_pairings` has at least one, by name
    report, mismatched = best
    shapes = f" Of another shape in the file: {'; '.join(mismatched[:3])}." if mismatched else ""
    raise TrainingError(
        f"Weights from {source} do not fit backbone {name!r}: {len(report.missing)} of {len(own)} tensors would stay "
        f"random{_some(report.missing)}; {len(report.matched)} match, {len(report.unexpected)} of the file are "
        f"unknown{_some(report.unexpected)}.{shapes} Give the weights of timm's {name}, or set pretrained: false."
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
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrainingError(f"pretrained: {path} cannot be read: {_pickle_reason(path, error)}") from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise TrainingError(f"pretrained: {path} cannot be read as a state dict: {_reason(error)}") from error
    return content if isinstance(content, dict) else {}


def _pickle_reason(path: Path, error: Exception) -> str:
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError, EOFError):  # it reads torch's zip format only
        objects = []
    if not objects:
        return f"it is damaged, or no file that torch.save wrote ({_reason(error)})"
    return (
        f"besides tensors it holds objects that could run code ({', '.join(objects)}). If you trust it, load it "
        "elsewhere and save its state dict alone."
    )


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
    wanted = {_plain(_own_name(key)) for key in own}
    counts = Counter(
        (index, prefix)
        for index, (_, tensors) in enumerate(candidates)
        for key in tensors
        for prefix in _prefixes(key)
        if _plain(key[len(prefix) :]) in wanted
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


# ---- pairing tensors ---------------------------------------------------------------------------------------


def _pairings(
    own: Mapping[str, Tensor], state: dict[str, Tensor], name: str, options: TimmOptions
) -> Iterator[tuple[LoadReport, dict[str, Tensor], list[str]]]:
    """By name, by timm's conversion, by order: what `_match` gives, for each that applies."""
    by_name = _match(own, state, "name")
    yield by_name
    with torch.device("meta"):
        reference = timm.create_model(name, **options)
    if converted := _convert(name, state, reference):
        yield _match(own, converted, "timm's conversion")
    if not by_name[0].matched and (renamed := _rename_by_order(reference.state_dict(), state)):
        yield _match(own, renamed, "order")


def _match(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], by: str
) -> tuple[LoadReport, dict[str, Tensor], list[str]]:
    """Pair tensors by name and shape: the report, {own name: tensor}, and what differs in shape only."""
    given = {_plain(key): key for key in state}
    chosen, missing, mismatched = {}, [], []
    for key, tensor in own.items():
        found = given.get(_plain(_own_name(key)))
        if found is not None and state[found].shape == tensor.shape:
            chosen[key] = state[found]
            del given[_plain(_own_name(key))]
        elif tensor.is_floating_point():  # others are counters and indices, which are never random
            missing.append(key)
            if found is not None:
                mismatched.append(f"{key} is {tuple(state[found].shape)}, not {tuple(tensor.shape)}")
    return LoadReport(tuple(chosen), tuple(missing), tuple(given.values()), by), chosen, mismatched


def _own_name(key: str) -> str:
    """The model's name of an extractor's tensor: some extractors keep the whole model in `model` or `body`."""
    return key.removeprefix("model.").removeprefix("body.")


def _plain(key: str) -> str:
    return key.replace(".", "_")  # timm's extractors rename "stages.0" to "stages_0"


def _convert(name: str, state: dict[str, Tensor], reference: nn.Module) -> dict[str, Tensor] | None:
    """What timm itself makes of the authors' weights files of this family; None if it has no conversion or it fails."""
    module = sys.modules[timm.model_entrypoint(name.partition(".")[0]).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return None
    takes_model = len(inspect.signature(convert).parameters) > 1
    try:
        return convert(dict(state), reference) if takes_model else convert(dict(state))
    except (KeyError, IndexError, AttributeError, AssertionError, TypeError, ValueError, RuntimeError):
        return None  # not a file that it was written for


def _rename_by_order(reference: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Give the tensors of another library's port of the same model timm's names, one by one; None if they differ."""
    if len(reference) != len(state):
        reference = {k: v for k, v in reference.items() if not k.endswith("num_batches_tracked")}
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if len(reference) != len(state):
        return None
    pairs = list(zip(reference.items(), state.items(), strict=True))
    if any(a.shape != b.shape or k.split(".")[-1] != g.split(".")[-1] for (k, a), (g, b) in pairs):
        return None
    return {k: b for (k, _), (_, b) in pairs}
