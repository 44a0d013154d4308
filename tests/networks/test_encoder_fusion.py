"""Cross-stitch and NDDR-CNN: the units written out, the networks as a whole.

The whole networks written out: `test_plain_networks`.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from pipeline.networks.cross_stitch import CrossStitch, CrossStitchUnit
from pipeline.networks.nddr_cnn import NDDR, NddrCnn
from pipeline.networks.registry import Backbone
from pipeline.networks.single_task import SingleTask
from tests.support.networks import (
    assert_gradient_everywhere,
    normal_statistics,
    parameters,
)

pytestmark = pytest.mark.slow

TASKS = {"semseg": 5, "depth": 1}
THREE = {"semseg": 5, "depth": 1, "normals": 3}
KINDS = [(CrossStitch, {}), (CrossStitch, {"stitch": "layer"}), (NddrCnn, {}), (NddrCnn, {"shortcut": True})]
MIXED = ({"semseg": 5}, {"edge": 1})


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---- the units written out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stitch", CrossStitch.OPTIONS["stitch"])
def test_cross_stitch_written_out(stitch):
    tasks, channels = ("a", "b", "c"), 4
    unit = CrossStitchUnit(channels, tasks, stitch)
    assert unit.alpha.shape == (3, 3, channels if stitch == "channel" else 1)
    assert_close(unit.alpha[:, :, 0], torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]))
    five = CrossStitchUnit(channels, "abcde", stitch, own_share=0.8).alpha  # as published on PASCAL
    assert_close(five[:, :, -1], 0.75 * torch.eye(5) + 0.05)
    torch.nn.init.normal_(unit.alpha)
    x = {task: torch.randn(2, channels, 3, 2) for task in tasks}
    expected = {task: torch.zeros(2, channels, 3, 2) for task in tasks}
    for t, target in enumerate(tasks):
        for c in range(channels):
            for s, source in enumerate(tasks):
                share = unit.alpha[t, s, c if stitch == "channel" else 0].item()
                expected[target][:, c] += share * x[source][:, c]
    assert_close({t: y.detach() for t, y in unit(x).items()}, expected)


def test_nddr_written_out():
    tasks, channels = ("a", "b", "c"), 4
    unit = NDDR(channels, tasks).eval()
    normal_statistics(unit)
    for layer in unit.reduce.values():
        torch.nn.init.normal_(layer[0].weight)
    x = {task: torch.randn(2, channels, 3, 2) for task in tasks}
    out = unit(x)
    for task in tasks:
        conv, norm, _ = unit.reduce[task]
        for c in range(channels):
            total = torch.zeros(2, 3, 2)
            for s, source in enumerate(tasks):
                for d in range(channels):
                    total += conv.weight[c, s * channels + d, 0, 0].item() * x[source][:, d]
            scaled = (total - norm.running_mean[c]) / (norm.running_var[c] + norm.eps).sqrt()
            assert_close(out[task][:, c], (scaled * norm.weight[c] + norm.bias[c]).relu())


@pytest.mark.parametrize("tasks", [("a", "b"), ("a", "b", "c")])
def test_nddr_starts_as_a_weighted_sum(tasks):
    unit = NDDR(4, tasks).eval()
    x = {task: torch.rand(2, 4, 3, 2) for task in tasks}
    for task, y in unit(x).items():
        others = sum(x[other] for other in tasks if other != task)
        assert_close(y, 0.9 * x[task] + 0.1 / (len(tasks) - 1) * others, rtol=1e-4, atol=1e-5)


def test_nddr_statistics_move_by_a_twentieth():
    unit = NDDR(4, ("a", "b"))
    x = {task: torch.randn(2, 4, 3, 2) for task in "ab"}
    unit(x)
    for conv, norm, _ in unit.reduce.values():
        fused = conv(torch.cat([x["a"], x["b"]], 1)).detach()
        assert_close(norm.running_mean, 0.05 * fused.mean((0, 2, 3)))
        assert_close(norm.running_var, 0.95 + 0.05 * fused.var((0, 2, 3)))


# ---- the whole networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", CrossStitch.OPTIONS["own_share"])
def test_every_stitch_starts_with_the_share(backbones, share):
    net = CrossStitch(backbones("hrnet_w18_small"), THREE, {}, own_share=share)
    alphas = [unit.alpha for units in net.fuse for unit in units]
    assert len(alphas) == 1 + 2 + 3 + 4
    rest = (1 - share) / 2
    assert all(torch.allclose(a, ((share - rest) * torch.eye(3) + rest)[:, :, None].expand_as(a)) for a in alphas)


RESNET18 = [(64, 16), (128, 8), (256, 4), (512, 2)]
HRNET_SMALL = [(128, 16), (16, 16), (32, 8), (16, 16), (32, 8), (64, 4), (16, 16), (32, 8), (64, 4), (128, 2)]


@pytest.mark.parametrize(
    ("kind", "name", "fused"),
    [
        (NddrCnn, "resnet18", [(64, 16), *RESNET18]),  # as released: five times
        (CrossStitch, "resnet18", RESNET18),
        (NddrCnn, "tf_efficientnet_lite0", [(32, 32), (24, 16), (40, 8), (112, 4), (320, 2)]),
        (NddrCnn, "hrnet_w18_small", HRNET_SMALL),
    ],
)
def test_where_the_encoders_are_fused(backbones, kind, name, fused):
    net = kind(backbones(name), TASKS, {}).eval()
    given, image = [], torch.randn(1, 3, 64, 64)
    for module in net.modules():
        if isinstance(module, CrossStitchUnit | NDDR):
            module.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    with torch.no_grad():
        net(image)
        assert [(x["depth"].shape[1], x["depth"].shape[2]) for x in given] == fused
        if kind is NddrCnn and name == "resnet18":
            for task, backbone in net.backbones.items():
                r = backbone.net
                assert_close(given[0][task], r.maxpool(r.act1(r.bn1(r.conv1(image)))))
                assert_close(given[1][task], r.layer1(net.fuse_stem[0](given[0])[task]))


@pytest.mark.parametrize(
    ("kind", "options", "tasks", "auxiliary"),
    [(*KINDS[0], *MIXED), (*KINDS[1], THREE, {}), (*KINDS[2], THREE, {}), (*KINDS[3], *MIXED)],
)
def test_odd_sizes_and_gradients_on_a_resnet(backbones, kind, options, tasks, auxiliary):
    net = kind(backbones("resnet10t"), tasks, auxiliary, **options)
    assert bool(net.fuse_stem) == (kind is NddrCnn)
    normal_statistics(net.backbones)  # timm's ResNets start with residual branches of zero
    outputs = net(torch.randn(2, 3, 45, 70))
    assert {t: tuple(x.shape) for t, x in outputs.final.items()} == {t: (2, n, 45, 70) for t, n in tasks.items()}
    # 45x70 is enlarged to 64x96, the next multiples of 32; the finest map has stride 4.
    expected = [{t: (2, n, 16, 24) for t, n in auxiliary.items()}] if auxiliary else []
    assert [{t: tuple(x.shape) for t, x in scale.items()} for scale in outputs.auxiliary] == expected
    assert_gradient_everywhere(net, outputs)


@pytest.mark.parametrize("name", ["hrnet_w18_small", "resnet18"])
def test_shortcut_written_out(backbones, name):
    net = NddrCnn(backbones(name), TASKS, {}, shortcut=True).eval()
    sides = [24, 12, 6, 3]
    if name == "resnet18":
        channels, sides = [64, 64, 128, 256, 512], [24, *sides]  # the stem's map first
        found = [[torch.rand(1, c, side, side)] for c, side in zip(channels, sides, strict=True)]
        reads = [[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]]
    else:
        widths = [[128], [16, 32], [16, 32, 64], [16, 32, 64, 128]]
        found = [[torch.rand(1, c, side, side) for c, side in zip(stage, sides, strict=False)] for stage in widths]
        reads = [  # (stage, map): the same resolution, or the coarsest there is
            [(0, 0), (1, 0), (2, 0), (3, 0)],
            [(0, 0), (1, 1), (2, 1), (3, 1)],
            [(0, 0), (1, 1), (2, 2), (3, 2)],
            [(0, 0), (1, 1), (2, 2), (3, 3)],
        ]
    with torch.no_grad():
        joined = []
        for i, sources in enumerate(reads):
            side = found[-1][i].shape[-1]
            maps = [found[k][j] for k, j in sources]
            same = [torch.nn.functional.interpolate(x, (side, side), mode="bilinear") for x in maps]
            joined.append(net.shortcut["depth"][i](torch.cat(same, 1)))
        expected = [x for (x,) in found[1:-1]] + joined if name == "resnet18" else joined
        assert_close(net.pyramid("depth", found), expected)


RESNET = ("resnet18", [[64], [128], [256], [512]])
HRNET = ("hrnet_w18_small", [[128], [16, 32], [16, 32, 64], [16, 32, 64, 128]])


@pytest.mark.parametrize(
    ("kind", "options", "name", "stages"),
    [(*KINDS[0], *HRNET), (*KINDS[1], *RESNET), (*KINDS[2], *HRNET), (*KINDS[3], *HRNET), (*KINDS[3], *RESNET)],
)
def test_parameters_of_each_part(kind, options, name, stages):
    with torch.device("meta"):  # shapes are enough
        backbone = Backbone(name)
        net = kind(backbone, TASKS, {"edge": 1}, **options)
    counted = {part: parameters(module) for part, module in net.named_children()}
    count, outputs, width = 3, 7, sum(backbone.channels)
    maps = [c for stage in stages for c in stage]
    stem = [64] if kind is NddrCnn and name == "resnet18" else []
    units = {
        "channel": sum(count * count * c for c in maps),
        "layer": count * count * len(maps),
        "nddr": sum(count * (count * c * c + 2 * c) for c in maps),
    }
    expected = {
        "backbones": count * parameters(backbone),
        "fuse_stem": sum(count * (count * c * c + 2 * c) for c in stem),
        "fuse": units[options.get("stitch", "channel") if kind is CrossStitch else "nddr"],
        "heads": count * (width * width + 3 * width) + outputs * (width + 1),
    }
    if kind is NddrCnn:
        levels = [stem, *stages] if stem else stages
        sources = [sum(level[min(i, len(level) - 1)] for level in levels) for i in range(len(stages[-1]))]
        shortcut = sum(count * (n * c + 2 * c) for n, c in zip(sources, stages[-1], strict=True))
        expected["shortcut"] = shortcut if options else 0
    assert counted == expected


# ---- starting from single-task networks --------------------------------------------------------------------


def neutral(net):
    """Every unit passes each task's own features through."""
    for units in (net.fuse_stem, *net.fuse):
        for unit in units:
            with torch.no_grad():
                if isinstance(unit, CrossStitchUnit):
                    unit.alpha.copy_(torch.eye(len(unit.tasks))[:, :, None].expand_as(unit.alpha))
                    continue
                for t, (conv, norm, _) in enumerate(unit.reduce.values()):
                    conv.weight.zero_()[:, t * len(conv.weight) :].diagonal()[:].fill_(1)
                    norm.running_var.fill_(1 - norm.eps)


@pytest.mark.parametrize(("kind", "options", "name"), [(*KINDS[0], "hrnet_w18_small"), (*KINDS[2], "resnet18")])
def test_single_task_networks_are_taken_over(backbones, kind, options, name):
    everything = {**TASKS, "edge": 1} if name == "resnet18" else {"semseg": 5, "edge": 1}
    singles = {t: SingleTask(backbones(name), {t: n}, {}) for t, n in everything.items()}
    tasks = {task: n for task, n in everything.items() if task != "edge"}
    net = kind(backbones(name), tasks, {"edge": 1}, **options)
    for task, single in singles.items():
        for p in single.parameters():
            p.data += 0.02 * torch.randn_like(p)  # as if trained: no two alike
        normal_statistics(single)
        net.load_single_task(task, single.state_dict())
    net.eval()
    image = torch.randn(1, 3, 75, 91)
    with torch.no_grad():
        expected = {task: single.eval()(image).final[task] for task, single in singles.items()}
        mixed = net(image).final
        assert all((mixed[task] - expected[task]).abs().max() > 1e-3 for task in tasks)
        neutral(net)
        outputs = net(image)
    raw = outputs.auxiliary[0]["edge"]
    got = {**outputs.final, "edge": torch.nn.functional.interpolate(raw, (75, 91), mode="bilinear")}
    for task in everything:
        if kind is CrossStitch:
            assert torch.equal(got[task], expected[task])
        else:  # batch norm's own rounding
            assert_close(got[task], expected[task], rtol=1e-3, atol=1e-4)


def test_weights_that_do_not_fit_are_refused_and_change_nothing(backbones):
    net = CrossStitch(backbones("resnet18"), TASKS, {})
    before = copy.deepcopy(net.state_dict())
    good = SingleTask(backbones("resnet18"), {"semseg": 5}, {}).state_dict()
    other_width = SingleTask(backbones("resnet18"), {"semseg": 7}, {}).state_dict()
    lacking = {k: v for k, v in good.items() if k != "head.mix.weight"}
    for task, state, says in (
        ("normals", good, "no task 'normals'.*semseg, depth"),
        ("semseg", other_width, r"head.predict.weight is \(7, .*number of output channels"),
        ("semseg", lacking, "head.mix.weight is missing"),
        ("semseg", good | {"backbone.extra": torch.zeros(1)}, "backbone.extra is unknown"),
        ("semseg", SingleTask(backbones("hrnet_w18_small"), {"semseg": 5}, {}).state_dict(), "and .* more"),
    ):
        with pytest.raises(ValueError, match=says):
            net.load_single_task(task, state)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.load_single_task("semseg", good)


def test_every_encoder_starts_as_the_given_backbone(backbones):
    backbone = backbones("resnet18")
    backbone.load_report = "a report"
    net = CrossStitch(backbone, TASKS, {"edge": 1})
    for own in net.backbones.values():
        assert own is not backbone
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), backbone.parameters(), strict=True))
    assert net.backbone.load_report == "a report"
