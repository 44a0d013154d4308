"""Pairing the tensors of a backbone with those of a weights file: by name, by timm's conversion, by order."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

TimmOptions = Mapping[str, Any]  # keyword arguments of a timm model, of any type: every family has its own


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
            f"{some(self.missing)}, {len(self.unexpected)} in the file not used{some(self.unexpected)}"
        )


def some(names: Iterable[str]) -> str:
    """The first names in parentheses: " (a, b, c, ...)", nothing for none."""
    names = list(names)
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def pairings(
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
    given = {plain(key): key for key in state}
    chosen, missing, mismatched = {}, [], []
    for key, tensor in own.items():
        found = given.get(plain(own_name(key)))
        if found is not None and state[found].shape == tensor.shape:
            chosen[key] = state[found]
            del given[plain(own_name(key))]
        elif tensor.is_floating_point():  # others are counters and indices, which are never random
            missing.append(key)
            if found is not None:
                mismatched.append(f"{key} is {tuple(state[found].shape)}, not {tuple(tensor.shape)}")
    return LoadReport(tuple(chosen), tuple(missing), tuple(given.values()), by), chosen, mismatched


def own_name(key: str) -> str:
    """The model's name of an extractor's tensor: some extractors keep the whole model in `model` or `body`."""
    return key.removeprefix("model.").removeprefix("body.")


def plain(key: str) -> str:
    """One spelling of a name: timm's extractors rename "stages.0" to "stages_0"."""
    return key.replace(".", "_")


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
