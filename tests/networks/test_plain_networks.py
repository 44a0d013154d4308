"""Every network beside its plain form (tests/reference/): the same function, gradients included, in float64 to 1e-10.

And their sizes: counted by hand, layer by layer, and equal to the published ones as far as those are printed.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from pipeline.networks.registry import ARCHITECTURES, Backbone, build
from tests.reference.networks import PLAIN
from tests.support.narrow_hrnet import NARROW
from tests.support.narrow_resnet import NARROW_RESNET
from tests.support.networks import parameters
from tests.support.twins import assert_same, run, twins

pytestmark = pytest.mark.slow

TWO = ({"semseg": 5, "depth": 1}, {})
THREE = ({"semseg": 5, "depth": 1, "normals": 3}, {})
MIXED = ({"semseg": 5, "normals": 3}, {"edge": 1})  # three too, one of them auxiliary
FIVE = ({"semseg": 5, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}, {})
WIDE, WIDE_ENLARGED = (64, 96), (45, 70)  # the second becomes 64x96
TALL, TALL_ENLARGED = (64, 32), (45, 30)  # a third of the work; the second becomes 64x32

CASES = [
    ("single_task", ({"semseg": 5}, {}), WIDE, {}),
    ("single_task", ({"depth": 1}, {}), WIDE_ENLARGED, {}),
    *(
        (name, tasks, size, {})
        for name in ("multi_task", "mti_net", "pad_net", "atrc", "cross_stitch", "nddr_cnn")
        for tasks, size in ((TWO, TALL_ENLARGED), (MIXED, TALL), (THREE, TALL_ENLARGED), (FIVE, TALL))
    ),
    ("multi_task", TWO, WIDE_ENLARGED, {}),
    ("mti_net", MIXED, WIDE_ENLARGED, {"mask": "tasks"}),
    *(("pad_net", MIXED, TALL_ENLARGED, {"distillation": kind}) for kind in ("C_target_gate", "B", "A")),
    ("atrc", MIXED, WIDE_ENLARGED, {"deep_supervision": True}),
    ("atrc", TWO, WIDE, {"dropout": 0.0}),
    ("cross_stitch", THREE, TALL_ENLARGED, {"stitch": "layer"}),
    ("nddr_cnn", MIXED, TALL_ENLARGED, {"shortcut": True}),
]
# Networks that run a backbone stage by stage: also on those that have more than one block a stage.
STAGED = [
    ("cross_stitch", "hrnet_w18_small", TWO, TALL_ENLARGED, {}),
    ("cross_stitch", NARROW_RESNET, TWO, TALL_ENLARGED, {}),
    ("cross_stitch", "test_resnet", FIVE, TALL, {}),
    ("nddr_cnn", "hrnet_w18_small", TWO, TALL_ENLARGED, {}),
    ("nddr_cnn", NARROW_RESNET, TWO, TALL_ENLARGED, {}),
    ("nddr_cnn", "test_resnet", FIVE, TALL, {}),
    ("nddr_cnn", "test_resnet", MIXED, TALL, {"shortcut": True}),
    ("pad_net", "test_resnet", TWO, TALL_ENLARGED, {}),
]
DEEPLAB = [
    ("single_task", ({"semseg": 5}, {}), WIDE_ENLARGED, 8),
    ("multi_task", TWO, WIDE, 16),
    ("multi_task", MIXED, TALL_ENLARGED, 8),
    ("multi_task", FIVE, TALL, 32),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def assert_same_function(fast: nn.Module, plain: nn.Module, size: tuple[int, int]) -> None:
    """Training (outputs, gradients, batch norm's statistics) and evaluation (outputs, gradients), to 1e-10."""
    shapes = [{name: x.shape for name, x in net.state_dict().items()} for net in (fast, plain)]
    assert shapes[0] == shapes[1]  # neither form has a parameter or a statistic that the other lacks
    fast, plain = fast.double(), plain.double()
    image = torch.randn(2, 3, *size, dtype=torch.double)
    assert_same(seeded(fast, image), seeded(plain, image), 1e-10)
    state = plain.state_dict()
    for name, x in fast.state_dict().items():
        torch.testing.assert_close(x, state[name], rtol=1e-10, atol=1e-10)
    for layer in fast.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # statistics of one batch: at those of the start, deep maps would vanish or overflow
    with torch.no_grad():
        fast(image)
    plain.load_state_dict(fast.state_dict())
    assert_same(seeded(fast.eval(), image), seeded(plain.eval(), image), 1e-10)


def seeded(net: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)  # dropout draws the same for both
    found = run(net, image)
    assert all(x.isfinite().all() for x in found.values())
    return found


@pytest.mark.parametrize(("architecture", "tasks", "size", "options"), CASES)
@pytest.mark.usefixtures("narrow_pad_net")
def test_networks_are_the_published_function(architecture, tasks, size, options):
    fast = build(architecture, backbone=NARROW, tasks=tasks[0], auxiliary_tasks=tasks[1], **options)
    plain = PLAIN[architecture](Backbone(NARROW), *tasks, **options)
    assert_same_function(*twins(fast, plain), size)


@pytest.mark.parametrize(("architecture", "backbone", "tasks", "size", "options"), STAGED)
def test_on_other_backbones_too(architecture, backbone, tasks, size, options):
    fast = build(architecture, backbone=backbone, tasks=tasks[0], auxiliary_tasks=tasks[1], **options)
    plain = PLAIN[architecture](Backbone(backbone), *tasks, **options)
    assert_same_function(*twins(fast, plain), size)


@pytest.mark.parametrize(("architecture", "tasks", "size", "stride"), DEEPLAB)
def test_with_the_deeplab_head(architecture, tasks, size, stride):
    backbone = Backbone("test_resnet", output_stride=stride)
    fast = ARCHITECTURES[architecture](copy.deepcopy(backbone), *tasks, head="aspp")
    fast, plain = twins(fast, PLAIN[architecture](backbone, *tasks, head="aspp"))
    # Dropout draws in the order of memory: both in the same one.
    assert_same_function(fast.to(memory_format=torch.contiguous_format), plain, size)


def test_the_comparison_sees_a_thousandth():
    fast, plain = twins(build("mti_net", backbone=NARROW, tasks=TWO[0]), PLAIN["mti_net"](Backbone(NARROW), *TWO))
    with torch.no_grad():
        plain.propagate[0].reduce.conv1[0].weight.mul_(1.001)
        plain.distil[3].messages["semseg"]["depth"].weight.mul_(1.001)
    with pytest.raises(AssertionError, match="differs by"):
        assert_same_function(fast, plain, TALL)


def test_every_network_with_a_published_form_has_a_plain_one():
    """The rest: sequential attention has tests/reference/sca.py; MTAN's and InvPT's tests write out theirs."""
    assert set(ARCHITECTURES) - set(PLAIN) == {"sequential_attention", "mtan", "invpt"}


# ---- sizes ---------------------------------------------------------------------------------------------------------


def conv_bn(a: int, b: int, side: int = 1) -> int:
    return side * side * a * b + 2 * b


def bottleneck(a: int, inside: int, b: int) -> int:
    blocks = conv_bn(a, inside) + conv_bn(inside, inside, 3) + conv_bn(inside, b)
    return blocks + (conv_bn(a, b) if a != b else 0)


def residual(a: int, b: int) -> int:
    return conv_bn(a, b, 3) + conv_bn(b, b, 3) + (conv_bn(a, b) if a != b else 0)


def head(width: int, out: int) -> int:
    """1x1 convolution with a bias, BN, 1x1 prediction."""
    return width * width + 3 * width + (width + 1) * out


WIDTHS = [18, 36, 72, 144]


def hrnet_w18_small_v2() -> int:
    """HRNet (Sun et al., arXiv:1904.04514) with widths 18 to 144; 1, 3 and 2 modules in stages 2 to 4."""
    total = conv_bn(3, 64, 3) + conv_bn(64, 64, 3)  # stem
    total += bottleneck(64, 64, 256) + bottleneck(256, 64, 256)  # stage 1
    total += conv_bn(256, 18, 3) + conv_bn(256, 36, 3)  # its transition
    total += sum(conv_bn(a, b, 3) for a, b in pairwise(WIDTHS[1:]))  # the others: a new, coarser branch
    for branches, modules in ((2, 1), (3, 3), (4, 2)):
        widths = WIDTHS[:branches]
        module = sum(2 * residual(c, c) for c in widths)
        for i, target in enumerate(widths):
            for j, source in enumerate(widths):
                if j > i:  # from coarse to fine: 1x1, upsampled
                    module += conv_bn(source, target)
                if j < i:  # from fine to coarse: 3x3 of stride 2, each but the last at the source's width
                    module += (i - j - 1) * conv_bn(source, source, 3) + conv_bn(source, target, 3)
        total += modules * module
    return total


def mti_net(outputs: int) -> int:
    """Of two tasks with `outputs` channels together."""
    total = 0
    for c, coarser in zip(WIDTHS, [*WIDTHS[1:], 0], strict=True):
        total += 2 * (residual(c + coarser, c) + residual(c, c)) + outputs * (c + 1)  # task features
        total += 2 * 2 * 9 * c * c  # distillation: W and G for each of two ordered pairs
    for c in WIDTHS[1:]:
        inside, hidden = c // 2, c // 16
        total += residual(2 * c, inside) + residual(inside, inside) + inside * 2 * c + 2 * c  # the mask
        total += residual(2 * c, c) + 2 * (2 * c * hidden + hidden + c)  # reduction, a gate a task
    return total + 2 * head(270, 0) + 271 * outputs


def pad_net(outputs: int) -> int:
    initial = bottleneck(270, 64, 256) + bottleneck(256, 64, 256)
    decoder = 2 * bottleneck(256, 64, 256)
    return 270 * 270 + 3 * 270 + 2 * (initial + decoder + 2 * 9 * 256 * 256) + 2 * 257 * outputs


TWO_TASKS = {"semseg": 40, "depth": 1}
SIZES = [  # network, tasks, parameters without the backbone, all of them, and as printed in the papers' tables (M)
    ("single_task", {"semseg": 40}, head(270, 40), 3_945_270, 3.95),
    ("single_task", {"depth": 1}, head(270, 1), 3_934_701, 3.93),
    ("multi_task", TWO_TASKS, head(270, 40) + head(270, 1), 4_019_251, 4.02),
    ("mti_net", TWO_TASKS, mti_net(41), 8_578_179, 8.58),
    ("pad_net", TWO_TASKS, pad_net(41), 7_019_056, 7.02),
]


@pytest.mark.parametrize(("architecture", "tasks", "decoder", "total", "millions"), SIZES)
def test_sizes_are_the_published_ones_to_the_last_parameter(architecture, tasks, decoder, total, millions):
    net = build(architecture, backbone="hrnet_w18_small_v2", tasks=tasks)
    plain = PLAIN[architecture](Backbone("hrnet_w18_small_v2"), tasks, {})
    assert parameters(net.backbone) == hrnet_w18_small_v2() == 3_860_720
    assert parameters(net) - parameters(net.backbone) == decoder
    assert parameters(net) == total
    assert round(total / 1e6, 2) == millions
    assert parameters(plain) == total
