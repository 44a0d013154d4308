"""The names of Multi-Task-Learning-PyTorch (commit ed3d9ac): MTI-Net and the networks that it is compared with.

Its tasks have a fixed order, main and auxiliary ones mixed; ours has the main ones first. The weights that read all
tasks' maps together are put into our order. PAD-Net's gate and message are one convolution here. The image pooling of
its DeepLab head has a batch norm, ours a bias: in evaluation the one is folded into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.adopt.rules import (
    Rule,
    Rules,
    Unused,
    backbone,
    bottleneck,
    conv_norm,
    excitation,
    hrnet_head,
    in_order,
    module,
    residual,
)

EPSILON = 1e-5  # of its batch norms
_TASK = r"(?P<task>\w+)"


def single_task(task: str, deeplab: bool) -> Rules:
    """A backbone and one decoder."""
    note = f"the names don't say which task it was trained for; the run says {task}"
    return replace(_baseline("head", "decoder", deeplab), notes=(note,))


def multi_task(deeplab: bool) -> Rules:
    """A backbone and a decoder for each task."""
    return _baseline(rf"heads\.{_TASK}", r"decoders.\g<task>", deeplab)


def _baseline(ours: str, theirs: str, deeplab: bool) -> Rules:
    if not deeplab:
        return Rules((backbone(), *hrnet_head(ours, theirs)))
    counter = Unused(r".+\.convs\.4\.2\.num_batches_tracked", "the counter of a batch norm that is folded")
    return Rules((backbone(), *_deeplab_head(ours, theirs)), (counter,))


def _deeplab_head(ours: str, theirs: str) -> list[Rule]:
    """ASPP, a 3x3 convolution and the prediction, as in torchvision."""
    pooling, layers = f"{theirs}.0.convs.4", ("weight", "bias", "running_mean", "running_var")
    folded = (f"{pooling}.1.weight", *(f"{pooling}.2.{layer}" for layer in layers))
    branches = [conv_norm(rf"{ours}\.aspp\.branches\.{i}", f"{theirs}.0.convs.{i}", ".0", ".1") for i in range(4)]
    return [
        *(rule for rules in branches for rule in rules),
        Rule(rf"{ours}\.aspp\.branches\.4\.conv\.weight", folded, lambda *given: fold(*given)[0]),
        Rule(rf"{ours}\.aspp\.branches\.4\.conv\.bias", folded, lambda *given: fold(*given)[1]),
        *conv_norm(rf"{ours}\.aspp\.mix", f"{theirs}.0.project", ".0", ".1"),
        *conv_norm(rf"{ours}\.refine", theirs, ".1", ".2"),
        module(rf"{ours}\.predict", f"{theirs}.4"),
    ]


def fold(weight: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (out, in, 1, 1) and bias of a convolution that does what one without bias and its batch norm do."""
    scale = gamma.double() / (variance.double() + EPSILON).sqrt()
    return weight.double() * scale[:, None, None, None], beta.double() - mean.double() * scale


def mti_net(tasks: Sequence[str], theirs: Sequence[str], channels: Sequence[int]) -> Rules:
    """tasks: main, then auxiliary ones, in our order; theirs: in the file's. channels: of the maps, fine to coarse."""
    rules = [backbone(), *hrnet_head(rf"heads\.{_TASK}", r"heads.\g<task>")]
    for k, c in enumerate(channels):
        own, scale = rf"features\.{k}\.{_TASK}", f"scale_{k}"
        for i in range(2):
            rules += residual(rf"{own}\.blocks\.{i}", rf"{scale}.refinement.\g<task>.{i}")
        rules.append(module(rf"{own}\.predict", rf"{scale}.decoders.\g<task>"))
        rules.append(_gated(rf"distil\.{k}", f"distillation_scale_{k}"))
        if k > 0:
            order = in_order(tasks, theirs, c)
            own, module_name = rf"propagate\.{k - 1}", f"fpm_scale_{k}"
            rules += residual(rf"{own}\.attention\.0", f"{module_name}.non_linear.0", None, order)
            rules += residual(rf"{own}\.attention\.1", f"{module_name}.non_linear.1")
            rules.append(module(rf"{own}\.attention\.2", f"{module_name}.non_linear.2", order))
            rules += residual(rf"{own}\.reduce", f"{module_name}.dimensionality_reduction", None, order)
            rules += excitation(rf"{own}\.excite\.{_TASK}", rf"{module_name}.se.\g<task>")
    return Rules(tuple(rules))


def pad_net() -> Rules:
    """PAD-Net on an HRNet, whose maps a module of the backbone joins there."""
    rules = [
        backbone("backbone.0"),
        module(r"aggregate\.mix", "backbone.1.last_layer.0"),
        module(r"aggregate\.norm", "backbone.1.last_layer.1"),
        module(rf"initial\.{_TASK}\.predict", r"initial_task_prediction_heads.conv_out.\g<task>"),
        module(rf"decode\.{_TASK}\.predict", r"heads.\g<task>.2"),
        _gated("distil", "multi_modal_distillation"),
    ]
    for i in range(2):
        layers = rf"initial_task_prediction_heads.layers.\g<task>.{i}"
        rules += bottleneck(rf"initial\.{_TASK}\.blocks\.{i}", layers)
        rules += bottleneck(rf"decode\.{_TASK}\.blocks\.{i}", rf"heads.\g<task>.{i}")
    return Rules(tuple(rules))


def _gated(ours: str, theirs: str) -> Rule:
    """A gate and a message, from the same map, in this order in one convolution here."""
    pair = rf"{theirs}.self_attention.\g<task>.\g<source>"
    names = (rf"{pair}.attention.0.weight", rf"{pair}.conv.weight")
    return Rule(rf"{ours}\.messages\.{_TASK}\.(?P<source>\w+)\.weight", names, lambda *given: torch.cat(given))
