"""PAD-Net: its distillations written out, its sizes, its behaviour as a network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pipeline.compute.resize import resize
from pipeline.networks.pad_net import DISTILLATIONS, Aggregation, Bottleneck, Distillation, PADNet
from pipeline.networks.registry import Backbone
from tests.support.narrow_hrnet import NARROW
from tests.support.networks import parameters

pytestmark = pytest.mark.slow

TASKS = {"semseg": 5, "depth": 1}
AUXILIARY = {"edge": 1, "normals": 3}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(tasks=TASKS, auxiliary=None, backbone=NARROW, **options):
    return PADNet(Backbone(backbone), tasks, auxiliary or {}, **options)


# ---- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auxiliary", [{}, AUXILIARY])
@pytest.mark.parametrize("kind", DISTILLATIONS)
def test_parameters_of_each_block(auxiliary, kind):
    tasks = {"semseg": 40, "depth": 1}
    with torch.device("meta"):  # shapes are enough
        net = build(tasks, auxiliary, "hrnet_w18_small_v2", distillation=kind)
    counted = {name: parameters(part) for name, part in net.named_children() if name != "backbone"}
    count, outputs = len(tasks) + len(auxiliary), sum([*tasks.values(), *auxiliary.values()])
    pairs = len(tasks) * (count - 1)

    def bottlenecks(width):
        """From `width` channels to 256, and from 256 to 256, each with 64 inside; a projection where they differ."""
        first = width * 64 + 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256)
        projection = width * 256 + 2 * 256 if width != 256 else 0
        return first + projection + 256 * 64 + 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256)

    assert counted == {
        "aggregate": 270 * 270 + 270 + 2 * 270,
        "initial": count * bottlenecks(270) + outputs * 257,
        "distil": 9 * 256 * 256 * {"C": 2 * pairs, "C_target_gate": pairs + len(tasks), "B": pairs, "A": 0}[kind],
        "decode": 2 * bottlenecks(256 * (count if kind == "A" else 1)) + 41 * 257,
    }


# ---- the whole network -------------------------------------------------------------------------------------


def test_auxiliary_tasks_inform_the_final_predictions():
    net = build(TASKS, AUXILIARY)
    net(torch.randn(2, 3, 64, 64)).final["depth"].square().mean().backward()
    for task in {**TASKS, **AUXILIARY}:
        assert net.initial[task].blocks[0].blocks[0][0].weight.grad.any()
        assert net.initial[task].predict.weight.grad is None  # features are distilled, not predictions


@pytest.mark.parametrize("kind", DISTILLATIONS)
def test_every_distillation_compiles_without_a_graph_break(kind):
    module = Distillation(4, ("a", "b", "c"), ("a", "b"), kind)
    x = {task: torch.randn(2, 4, 5, 6) for task in "abc"}
    assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))


def test_other_backbones():
    with torch.no_grad():
        assert build(backbone="resnet18")(torch.randn(2, 3, 64, 64)).final["depth"].shape == (2, 1, 64, 64)


# ---- blocks written out ------------------------------------------------------------------------------------


def conv3x3(x, weight):
    """Pixel by pixel: the sum over a 3x3 neighbourhood, zeros outside."""
    out = torch.zeros(x.shape[0], weight.shape[0], *x.shape[2:])
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            for di in range(3):
                for dj in range(3):
                    y, z = i + di - 1, j + dj - 1
                    if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                        out[:, :, i, j] += x[:, :, y, z] @ weight[:, :, di, dj].T
    return out


@pytest.mark.parametrize("kind", DISTILLATIONS)
def test_distillation_written_out(kind):
    tasks, targets, channels = ("a", "b", "c"), ("a", "b"), 4
    module = Distillation(channels, tasks, targets, kind)
    x = {task: torch.randn(2, channels, 4, 3) for task in tasks}
    expected = {}
    with torch.no_grad():
        for target in targets:
            if kind == "A":
                expected[target] = torch.cat([x["a"], x["b"], x["c"]], 1)
                continue
            expected[target] = x[target].clone()
            for source in tasks:
                if source == target:
                    continue
                weight = module.messages[target][source].weight
                if kind == "C":
                    gate = 1 / (1 + torch.exp(-conv3x3(x[source], weight[:channels])))
                    message = conv3x3(x[source], weight[channels:])
                else:
                    gate = torch.ones(())
                    message = conv3x3(x[source], weight)
                if kind == "C_target_gate":
                    gate = 1 / (1 + torch.exp(-conv3x3(x[target], module.gates[target].weight)))
                expected[target] += gate * message
        out = module(x)
    assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert all(y.shape[1] == module.out_channels for y in out.values())


@pytest.mark.parametrize("sizes", [[(12, 16), (6, 8), (3, 4)], [(13, 9), (7, 5), (4, 3)]])
def test_aggregation_is_the_plain_concatenation(sizes):
    channels = [4, 8, 16]
    module = Aggregation(channels)
    assert module.out_channels == 28
    maps = [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    everything = torch.cat([resize(x, sizes[0]) for x in maps], 1)
    assert_close(module(maps), module.norm(module.mix(everything)).relu(), rtol=1e-4, atol=1e-5)


def test_bottleneck_adds_what_it_got():
    x = torch.randn(2, 8, 5, 6)
    for out_channels in (8, 12):
        block = Bottleneck(8, out_channels).eval()
        torch.nn.init.zeros_(block.blocks[2][1].weight)
        expected = x
        if out_channels == 12:  # the shortcut's batch norm is at its start
            expected = F.conv2d(x, block.shortcut[0].weight) / (1 + block.shortcut[1].eps) ** 0.5
        assert_close(block(x), expected.relu())
