"""MTI-Net: its published size, its propagation written out, its behaviour as a network."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks.mti_net import ConvolutionalPropagation, MTINet
from pipeline.networks.registry import Backbone
from tests.support.narrow_hrnet import NARROW
from tests.support.networks import parameters

pytestmark = pytest.mark.slow

TASKS = {"semseg": 5, "depth": 1}
AUXILIARY = {"edge": 1, "normals": 3}
PUBLISHED = [({}, 8.58, 17.1), (AUXILIARY, 14.84, None)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(tasks=TASKS, auxiliary=None, backbone=NARROW, **options):
    return MTINet(Backbone(backbone), tasks, auxiliary or {}, **options)


# ---- the published size ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("auxiliary", "millions", "giga"), PUBLISHED)
def test_size_is_the_published_one(auxiliary, millions, giga):
    with torch.device("meta"):  # shapes are enough
        net = build({"semseg": 40, "depth": 1}, auxiliary, "hrnet_w18_small_v2")
    assert round(parameters(net) / 1e6, 2) == millions
    if giga is None:
        return
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.empty(1, 3, 480, 640, device="meta"))
    counted = counter.get_total_flops() / 2
    # Published is the plain head, 270 to 270 channels at stride 4; ours meets each scale at its own size.
    pixels = [120 * 160 // 4**k for k in range(4)]
    plain = 270 * 270 * pixels[0]
    ours = sum(270 * c * n for c, n in zip([18, 36, 72, 144], pixels, strict=True))
    assert counted == pytest.approx(14.69e9, rel=1e-3)
    assert counted + 2 * (plain - ours) == pytest.approx(giga * 1e9, rel=3e-3)


@pytest.mark.parametrize("auxiliary", [{}, AUXILIARY])
def test_parameters_of_each_block(auxiliary):
    tasks = {"semseg": 40, "depth": 1}
    with torch.device("meta"):  # shapes are enough
        net = build(tasks, auxiliary, "hrnet_w18_small_v2")
    counted = {name: parameters(part) for name, part in net.named_children() if name != "backbone"}
    widths, coarser = [18, 36, 72, 144], [36, 72, 144, 0]
    count, outputs = len(tasks) + len(auxiliary), sum([*tasks.values(), *auxiliary.values()])

    def residual(a, b):
        return 9 * a * b + 9 * b * b + 4 * b + (a * b + 2 * b if a != b else 0)

    def propagation(c):
        width, inside = count * c, count * c // 4
        mask = residual(width, inside) + residual(inside, inside) + inside * width + width
        excite = c * (c // 16) * 2 + c // 16 + c
        return mask + residual(width, c) + count * excite

    features = [residual(c + up, c) + residual(c, c) for c, up in zip(widths, coarser, strict=True)]
    assert counted == {
        "features": count * sum(features) + outputs * sum(c + 1 for c in widths),
        "propagate": sum(propagation(c) for c in widths[1:]),
        "distil": sum(2 * (count - 1) * 2 * 9 * c * c for c in widths),
        "heads": 2 * (270 * 270 + 3 * 270) + 41 * 271,
    }


# ---- the whole network -------------------------------------------------------------------------------------


def test_mask_changes_the_function():
    first, second = build(mask="channels").eval(), build(mask="tasks").eval()
    second.load_state_dict(first.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        a, b = first(image), second(image)
    assert not torch.allclose(a.auxiliary[0]["depth"], b.auxiliary[0]["depth"], rtol=1e-3, atol=0)
    assert_close(a.auxiliary[3], b.auxiliary[3])  # nothing is propagated to the coarsest scale


def test_propagation_comes_before_distillation():
    net = build(TASKS, AUXILIARY)
    outputs = net(torch.randn(2, 3, 64, 64))
    sum(x.square().mean() for scale in outputs.auxiliary for x in scale.values()).backward()
    assert all(p.grad is None for part in (net.distil, net.heads) for p in part.parameters())
    assert all(p.grad is not None for part in (net.features, net.propagate) for p in part.parameters())


# ---- propagation written out -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MTINet.OPTIONS["mask"])
def test_propagation_written_out(mask):
    tasks, channels, height, width = ("a", "b", "c"), 4, 3, 2
    module = ConvolutionalPropagation(channels, tasks, mask).eval()
    x = {task: torch.randn(2, channels, height, width) for task in tasks}
    with torch.no_grad():
        logits = module.attention(torch.cat([x[t] for t in tasks], 1))
        masked = torch.zeros_like(logits)
        for b in range(2):
            for c in range(12):
                # The channels that share a softmax: three neighbours, or the same channel of each task.
                group = range(c // 3 * 3, c // 3 * 3 + 3) if mask == "channels" else range(c % 4, 12, 4)
                for i in range(height):
                    for j in range(width):
                        total = sum(math.exp(logits[b, d, i, j]) for d in group)
                        share = math.exp(logits[b, c, i, j]) / total
                        masked[b, c, i, j] = share * x[tasks[c // channels]][b, c % channels, i, j]
        shared = module.reduce(masked)
        assert_close(module(x), {t: x[t] + module.excite[t](shared) for t in tasks})


def test_mask_is_made_by_a_bottleneck_of_a_quarter():
    module = ConvolutionalPropagation(8, ("a", "b"))
    assert [layer.out_channels for layer in module.attention] == [4, 4, 16]
