"""What a released code's names say about ours: a rule for each kind of tensor, and why others are not used.

A rule goes from our name to theirs, since every tensor of ours must come from somewhere. What no rule takes from the
file must be named as unused, with the reason; anything else keeps the file from being adopted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Make = Callable[..., Tensor]
_TAIL = r"(?P<tail>weight|bias|running_mean|running_var|num_batches_tracked)"
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Rule:
    """ours: a pattern of our tensors' names. theirs: theirs, with the groups of the pattern. make: ours of theirs."""

    ours: str
    theirs: tuple[str, ...]
    make: Make = lambda tensor: tensor

    def sources(self, name: str) -> tuple[str, ...] | None:
        """Their names for a tensor of ours; None where the rule is not about it."""
        match = re.fullmatch(self.ours, name)
        return tuple(match.expand(each) for each in self.theirs) if match else None


@dataclass(frozen=True)
class Unused:
    """A pattern of their tensors that compute nothing in evaluation, and why."""

    theirs: str
    why: str


@dataclass(frozen=True)
class Rules:
    """All that is known of a network's names. notes: what the names can't tell, for the user to know."""

    rules: tuple[Rule, ...]
    unused: tuple[Unused, ...] = ()
    notes: tuple[str, ...] = ()


Index = Sequence[int] | None
"""Where a channel of ours stands in theirs, for each of ours; None where the order is the same."""


def module(ours: str, theirs: str, rows: Index = None, columns: Index = None, dims: int | None = None) -> Rule:
    """The tensors of a convolution, linear layer or norm.

    ours: pattern of its name, theirs may have the pattern's groups. rows, columns: the order of its output and input
    channels. dims: of our weight, where theirs has fewer: a linear layer that is a 1x1 convolution here.
    """

    def make(tensor: Tensor) -> Tensor:
        if rows is not None and tensor.dim():
            tensor = _picked(tensor, 0, rows)
        if columns is not None and tensor.dim() > 1:
            tensor = _picked(tensor, 1, columns)
        while dims is not None and 1 < tensor.dim() < dims:
            tensor = tensor[..., None]
        return tensor

    return Rule(rf"{ours}\.{_TAIL}", (rf"{theirs}.\g<tail>",), make)


def _picked(tensor: Tensor, dim: int, index: Sequence[int]) -> Tensor:
    if tensor.shape[dim] != len(index):  # reported as a shape that doesn't fit, not as an index that is out of range
        return tensor
    return tensor.index_select(dim, torch.tensor(index))


def conv_norm(ours: str, theirs: str, conv: str, norm: str, rows: Index = None, columns: Index = None) -> list[Rule]:
    """A `ConvNorm`, whose two layers their code calls so."""
    return [
        module(rf"{ours}\.0", f"{theirs}{conv}", rows, columns),
        module(rf"{ours}\.1", f"{theirs}{norm}", rows),
    ]


def residual(ours: str, theirs: str, rows: Index = None, columns: Index = None) -> list[Rule]:
    """A `ResidualBlock`: torchvision's basic block there."""
    return [
        *conv_norm(rf"{ours}\.conv1", theirs, ".conv1", ".bn1", None, columns),
        *conv_norm(rf"{ours}\.conv2", theirs, ".conv2", ".bn2", rows),
        *conv_norm(rf"{ours}\.shortcut", theirs, ".downsample.0", ".downsample.1", rows, columns),
    ]


def bottleneck(ours: str, theirs: str) -> list[Rule]:
    """A `Bottleneck`: torchvision's there."""
    inside = [conv_norm(rf"{ours}\.blocks\.{i}", theirs, f".conv{i + 1}", f".bn{i + 1}") for i in range(3)]
    return [*(rule for rules in inside for rule in rules),
            *conv_norm(rf"{ours}\.shortcut", theirs, ".downsample.0", ".downsample.1")]  # fmt: skip


def attention(ours: str, theirs: str, columns: Index = None) -> list[Rule]:
    """A cross-attention of SCA or ATRC; columns: the order of the channels of its target and of its source."""
    rules = []
    for part in ("query", "key"):
        rules += conv_norm(rf"{ours}\.{part}\.0", f"{theirs}.{part}_project.0", ".conv", ".bn", None, columns)
        rules += conv_norm(rf"{ours}\.{part}\.1", f"{theirs}.{part}_project.1", ".conv", ".bn")
    return [*rules, *conv_norm(rf"{ours}\.value", f"{theirs}.value_project", ".conv", ".bn", None, columns)]


def excitation(ours: str, theirs: str, order: Index = None) -> list[Rule]:
    """A `SqueezeExcite`, of linear layers there; order: of its channels."""
    return [
        module(rf"{ours}\.squeeze", f"{theirs}.squeeze.0", None, order, dims=4),
        module(rf"{ours}\.excite", f"{theirs}.squeeze.2", order, None, dims=4),
    ]


def hrnet_head(ours: str, theirs: str, columns: Index = None) -> list[Rule]:
    """A `MultiScaleHead`; columns: the order of the channels that it mixes."""
    return [
        module(rf"{ours}\.mix", f"{theirs}.last_layer.0", None, columns),
        module(rf"{ours}\.norm", f"{theirs}.last_layer.1"),
        module(rf"{ours}\.predict", f"{theirs}.last_layer.3"),
    ]


def backbone(theirs: str = "backbone") -> Rule:
    """An HRNet or a ResNet: timm's names are the authors' own."""
    return Rule(r"backbone\.net\.(.+)", (rf"{theirs}.\1",))


def of_two_classes(logits: Tensor) -> Tensor:
    """Saliency's one logit out of two: the sigmoid of their difference is the softmax of the second."""
    if logits.shape[:1] != (2,):
        return logits
    return (logits[1:].double() - logits[:1].double()).to(logits.dtype)


def in_order(names: Sequence[str], theirs: Sequence[str], width: int, inside: Index = None) -> list[int] | None:
    """Channels of a concatenation of tasks' maps: ours in the order of `names`, theirs in their own.

    width: channels of each. inside: the order within each. None where nothing moves.
    """
    own = list(range(width)) if inside is None else list(inside)
    index = [theirs.index(name) * width + i for name in names for i in own]
    return None if index == list(range(len(index))) else index
