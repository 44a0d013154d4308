"""MTAN: its published parts, the attention written out, the network as a whole."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pipeline.networks.mtan import MTAN, AttentionMask, SharedFeatures
from pipeline.networks.registry import Backbone
from tests.support.networks import (
    assert_gradient_everywhere,
    normal_statistics,
    parameters,
)

pytestmark = pytest.mark.slow

TASKS = {"semseg": 5, "depth": 1}
OTHERS = [("resnet18", {"semseg": 5}, {"edge": 1}), ("tf_efficientnet_lite0", {"depth": 1}, {})]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(name="hrnet_w18_small", tasks=TASKS, auxiliary=None):
    return MTAN(Backbone(name), tasks, auxiliary or {})


# ---- the parts ---------------------------------------------------------------------------------------------


def test_parameters_on_resnet50_are_the_authors():
    """The authors' ResNet-50: masks C_k/4 wide inside, which from the second stage on read 2 C_k channels."""
    with torch.device("meta"):  # shapes are enough
        net = build("resnet50", TASKS, {"edge": 1})
    widths, count, outputs = [256, 512, 1024, 2048], 3, 7

    def mask(a, b):
        return a * b // 4 + b // 4 * b + 2 * (b // 4) + 2 * b

    def bottleneck(a, b):
        inside = b // 4
        return a * inside + 9 * inside * inside + inside * b + a * b + 2 * (2 * inside + b) + 2 * b

    assert {name: parameters(part) for name, part in net.named_children() if name != "backbone"} == {
        "attention": count * (mask(256, 256) + sum(mask(2 * c, c) for c in widths[1:])),
        "carry": sum(bottleneck(a, b) for a, b in pairwise(widths)),
        "heads": count * (3840 * 3840 + 3 * 3840) + outputs * 3841,
    }


def test_parameters_on_hrnet():
    with torch.device("meta"):
        net = build()
    # (read, written) by each mask, (from, to) of each f; the first stage has 64 channels before its last block.
    masks = [(64, 128), *((2 * c, c) for stage in ([16, 32], [16, 32, 64], [16, 32, 64, 128]) for c in stage)]
    carries = [(128, 16), (128, 32), (16, 16), (32, 32), (32, 64), (16, 16), (32, 32), (64, 64), (64, 128)]
    counted = {name: parameters(part) for name, part in net.named_children() if name != "backbone"}
    assert counted == {
        "attention": 2 * sum(a * b // 4 + b // 4 * b + 2 * (b // 4) + 2 * b for a, b in masks),
        "carry": sum(a * b // 4 + 9 * b * b // 16 + b * b // 4 + b + 2 * b + a * b + 2 * b for a, b in carries),
        "heads": 2 * (240 * 240 + 3 * 240) + 6 * 241,
    }


def test_mask_written_out():
    mask = AttentionMask(6, 8).eval()
    normal_statistics(mask)
    x = torch.randn(2, 6, 3, 2)
    out = mask(x)
    for i in range(3):
        for j in range(2):
            y = x[:, :, i, j]
            for part, act in ((mask[0], torch.relu), (mask[1], torch.sigmoid)):
                conv, norm = part[0], part[1]
                y = y @ conv.weight[:, :, 0, 0].T
                y = act((y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias)
            assert_close(out[:, :, i, j], y)
    assert mask[0].out_channels == 2


@pytest.mark.parametrize("stride", [1, 2])
def test_shared_features_pool_after_the_residual_sum(stride):
    module = SharedFeatures(6, 8, stride).eval()
    normal_statistics(module)
    x = torch.randn(2, 6, 8, 4)
    with torch.no_grad():
        full = (module.blocks(x) + module.shortcut(x)).relu()
        out = module(x)
    for i in range(8 // stride):
        for j in range(4 // stride):
            window = full[:, :, stride * i : stride * (i + 1), stride * j : stride * (j + 1)]
            assert_close(out[:, :, i, j], window.amax((2, 3)))


# ---- the network written out -------------------------------------------------------------------------------


def test_resnet_written_out():
    """ResNet-18 as in the authors' description: attention over the last block of each stage."""
    net = build("resnet18").eval()
    normal_statistics(net)
    image = torch.randn(1, 3, 64, 96)
    r = net.backbone.net
    with torch.no_grad():
        x = r.maxpool(r.act1(r.bn1(r.conv1(image))))
        attended = {task: [] for task in TASKS}
        for k, layer in enumerate((r.layer1, r.layer2, r.layer3, r.layer4)):
            u = layer[0](x)
            x = layer[1](u)
            for task, own in attended.items():
                seen = u if k == 0 else torch.cat([u, net.carry[k - 1][0](own[-1])], 1)
                own.append(net.attention[k][task][0](seen) * x)
        final = net(image).final
        for task, own in attended.items():
            expected = F.interpolate(net.heads[task]([[a] for a in own]), (64, 96), mode="bilinear")
            assert_close(final[task], expected, rtol=1e-4, atol=1e-5)


def test_hrnet_written_out():
    """Every resolution has its own masks; a new one hears from the coarsest of the stage before."""
    net = build().eval()
    normal_statistics(net)
    image = torch.randn(1, 3, 64, 96)
    h = net.backbone.net
    seen_at, hooks = {}, []  # of timm's own forward: (stage, "u" or "p") -> maps
    exchanges = [(0, h.layer1)] + [(k, stage) for k, stage in enumerate((h.stage2, h.stage3, h.stage4), 1)]
    branches = [(0, h.act2)] + [(k, branch) for k, stage in exchanges[1:] for branch in stage[-1].branches]
    for name, modules in (("u", branches), ("p", exchanges)):
        for k, module in modules:

            def keep(_module, _input, output, key=(k, name)):
                seen_at.setdefault(key, []).extend(output if isinstance(output, list) else [output])

            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        net.backbone(image)
        for hook in hooks:
            hook.remove()
        before, between = ([seen_at[k, name] for k in range(4)] for name in "up")
        source = {(1, 0): 0, (1, 1): 0, (2, 0): 0, (2, 1): 1, (2, 2): 1, (3, 0): 0, (3, 1): 1, (3, 2): 2, (3, 3): 2}
        final = net(image).final
        for task in TASKS:
            attended = [net.attention[0][task][0](before[0][0]) * between[0][0]]
            for k in (1, 2, 3):
                previous, attended = attended, []
                for i, (u, p) in enumerate(zip(before[k], between[k], strict=True)):
                    seen = torch.cat([u, net.carry[k - 1][i](previous[source[k, i]])], 1)
                    attended.append(net.attention[k][task][i](seen) * p)
            expected = F.interpolate(net.heads[task]([[a] for a in attended]), (64, 96), mode="bilinear")
            assert_close(final[task], expected, rtol=1e-4, atol=1e-5)


# ---- the network as a whole --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tasks", "auxiliary"), OTHERS)
def test_odd_sizes_and_gradients_on_other_backbones(name, tasks, auxiliary):
    net = build(name, tasks, auxiliary)
    normal_statistics(net.backbone)  # timm's ResNets start with residual branches of zero
    outputs = net(torch.randn(2, 3, 45, 70))
    assert {t: tuple(x.shape) for t, x in outputs.final.items()} == {t: (2, n, 45, 70) for t, n in tasks.items()}
    # 45x70 is enlarged to 64x96, the next multiples of 32; the finest map has stride 4.
    expected = [{t: (2, n, 16, 24) for t, n in auxiliary.items()}] if auxiliary else []
    assert [{t: tuple(x.shape) for t, x in scale.items()} for scale in outputs.auxiliary] == expected
    assert_gradient_everywhere(net, outputs)


def test_a_task_reaches_only_its_own_masks():
    net = build()
    net(torch.randn(2, 3, 64, 64)).final["depth"].square().mean().backward()
    for name, p in net.named_parameters():
        assert (p.grad is None) == ("semseg" in name)


def test_a_copy_is_independent():
    net = build("resnet18", {"depth": 1}).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(image).final["depth"]
        other = copy.deepcopy(net)
        for p in net.parameters():
            p.zero_()
        assert torch.equal(other(image).final["depth"], expected)


@pytest.mark.parametrize("name", ["dla34", "twins_svt_small"])
def test_backbone_without_such_stages_is_refused(name):
    with pytest.raises(ValueError, match=r"Suitable are, for example, hrnet.*resnet18"):
        build(name)
