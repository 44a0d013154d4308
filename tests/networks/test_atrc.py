"""ATRC: its parts against explicit forms, its size by arithmetic, the behaviour of the whole network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pipeline.networks.atrc import ATRC, ContextPooling, Refinement
from pipeline.networks.backbones.backbone import Backbone
from tests.support.networks import (
    Fixed,
    open_closed_norms,
    parameters,
)

pytestmark = pytest.mark.slow

SMALL = "hrnet_w18_small"
TASK_SETS = [
    ({"semseg": 5, "depth": 1}, {}),
    ({"semseg": 5, "depth": 1, "normals": 3}, {}),
    ({"semseg": 5}, {"edge": 1}),
    ({"semseg": 5, "depth": 1}, {"edge": 1}),
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(tasks, auxiliary, **options):
    return ATRC(Backbone(SMALL), tasks, auxiliary, **options)


# ---- whole networks ----------------------------------------------------------------------------------------


def test_initial_predictions_come_from_the_unrefined_features_and_leave_the_final_ones_alone():
    nets = []
    for deep_supervision in (False, True):
        net = build({"semseg": 5, "depth": 1}, {"edge": 1}, deep_supervision=deep_supervision).eval()
        nets.append(net)
    shared = nets[0].state_dict()
    nets[1].load_state_dict(shared, strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        plain, supervised = (net(image) for net in nets)
    assert_close(supervised.final, plain.final)
    assert_close(supervised.auxiliary[0]["edge"], plain.auxiliary[0]["edge"])
    nets[1].zero_grad()
    nets[1](image).auxiliary[0]["depth"].sum().backward()
    reached = {name.split(".")[0] for name, p in nets[1].named_parameters() if p.grad is not None}
    assert reached == {"backbone", "features", "initial"}


def test_contexts_come_in_as_training_opens_them():
    """The released start: the projection's batch norm has a scale of zero, so the contexts add nothing yet."""
    net = build({"semseg": 5, "depth": 1}, {"edge": 1})
    features = {task: torch.randn(2, 60, 6, 7).relu() for task in net.features}
    others = {task: torch.randn(2, 60, 6, 7).relu() for task in net.features}
    for target, refine in net.refine.items():
        assert not refine.project[1].weight.any() and refine.fuse[1].weight.all()
        before = refine(features[target], features)
        assert_close(refine(features[target], others), before)
        before.square().mean().backward()
        assert refine.project[1].weight.grad.any()
        torch.nn.init.ones_(refine.project[1].weight)
        assert not torch.allclose(refine(features[target], others), refine(features[target], features), atol=1e-3)


@pytest.mark.parametrize("dropout", ATRC.OPTIONS["dropout"])
def test_dropout_takes_whole_channels_of_the_fused_features_in_training(dropout):
    net = build({"semseg": 5, "depth": 1}, {"edge": 1}, dropout=dropout, deep_supervision=True)
    seen = []
    for task, head in net.heads.items():
        net.refine[task].fuse.register_forward_hook(lambda *a: seen.append(a[-1].detach()))
        head.register_forward_pre_hook(lambda *a: seen.append(a[-1][0].detach()))
    images = torch.randn(2, 3, 64, 64)
    dropped, count = 0, 0
    for _ in range(8):
        seen.clear()
        net(images)
        # For both tasks the fusions come first, then the heads.
        for fused, given in zip(seen[:2], seen[2:], strict=True):
            alive = fused.amax((2, 3)) > 0
            gone = given.amax((2, 3)) == 0
            dropped, count = dropped + (gone & alive).sum().item(), count + alive.sum().item()
            kept = (~gone)[:, :, None, None].expand_as(given)
            assert_close(given[kept], fused[kept] / (1 - dropout))
    assert count > 1000
    assert dropped / count == pytest.approx(dropout, abs=0.02 if dropout else 0)
    seen.clear()
    net.eval()(images)
    assert all(torch.equal(a, b) for a, b in zip(seen[:2], seen[2:], strict=True))


def test_decoder_stays_close_in_bfloat16():
    net = build({"semseg": 5, "depth": 1}, {}, dropout=0.0)
    open_closed_norms(net)
    image = torch.randn(2, 3, 64, 64)
    maps = net.backbone(image)
    net.backbone = Fixed(net.backbone.channels, maps)  # at initialisation a backbone's own rounding would drown it
    with torch.no_grad():
        exact = net(image).final
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(image).final
    for task, x in exact.items():  # measured 0.02 to 0.05
        assert (rough[task].float() - x).abs().mean() < 0.1 * x.abs().mean()


# ---- size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "auxiliary"), TASK_SETS)
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_parameters_of_each_part(tasks, auxiliary, deep_supervision):
    with torch.device("meta"):  # shapes are enough
        net = build(tasks, auxiliary, deep_supervision=deep_supervision)
    everything = {**tasks, **auxiliary}
    width, channels, context = 16 + 32 + 64 + 128, 60, 30
    positive = channels * context + context * context + 4 * context  # two 1x1 convolutions with BN
    pooling = 2 * positive + channels * context + 2 * context
    count = len(everything)
    project = count * context * channels + 2 * channels
    fuse = 2 * channels * channels + 2 * channels
    supervised = everything if deep_supervision else auxiliary
    assert {name: parameters(part) for name, part in net.named_children() if name not in ("backbone", "dropout")} == {
        "features": count * (9 * width * channels + 2 * channels),
        "initial": sum(n * (channels + 1) for n in supervised.values()),
        "refine": len(tasks) * (count * pooling + project + fuse),
        "heads": sum(n * (channels + 1) for n in tasks.values()),
    }


# ---- parts against explicit forms --------------------------------------------------------------------------


def explicit_context(block, target, source):
    """Target pixel by target pixel: a mean of all the source's values, weighted by query times key."""
    query, key, value = block.query(target), block.key(source), block.value(source)
    out = torch.zeros(len(target), block.out_channels, *target.shape[-2:])
    for b in range(len(target)):
        keys, values = key[b].flatten(1), value[b].flatten(1)
        for i in range(target.shape[2]):
            for j in range(target.shape[3]):
                weights = torch.stack([query[b, :, i, j] @ keys[:, n] for n in range(keys.shape[1])])
                out[b, :, i, j] = values @ (weights / weights.sum())
    return out


@pytest.mark.parametrize("source_size", [(4, 5), (2, 3)])
def test_context_pooling_is_the_explicit_attention(source_size):
    block = ContextPooling(8, 3).eval()
    target, source = torch.randn(2, 8, 4, 5), torch.randn(2, 8, *source_size)
    with torch.no_grad():
        assert_close(block(target, source), explicit_context(block, target, source), rtol=1e-4, atol=1e-5)


def test_refinement_written_out():
    refine = Refinement(8, ("a", "b")).eval()  # its batch norms as torch starts them, with a scale of one
    x = {task: torch.randn(2, 8, 4, 5) for task in "ab"}
    with torch.no_grad():
        contexts = torch.cat([explicit_context(refine.pooling[source], x["b"], x[source]) for source in "ab"], 1)
        weights = [layer[0].weight / (1 + layer[1].eps) ** 0.5 for layer in (refine.project, refine.fuse)]
        expected = F.conv2d(torch.cat([x["b"], F.conv2d(contexts, weights[0])], 1), weights[1]).relu()
        assert_close(refine(x["b"], x), expected, rtol=1e-4, atol=1e-5)


def test_every_main_task_gathers_from_every_task_at_every_pixel():
    net = build({"semseg": 5, "depth": 1}, {"edge": 1}).eval()
    assert list(net.refine) == ["semseg", "depth"]
    x = {task: torch.randn(1, 60, 6, 7).relu() for task in net.features}
    for target, refine in net.refine.items():
        assert list(refine.pooling) == ["semseg", "depth", "edge"]
        for source, pool in refine.pooling.items():
            changed = x[source].clone()
            changed[..., -1, -1] += 5
            with torch.no_grad():
                moved = (pool(x[target], changed) - pool(x[target], x[source])).abs().amax(1)
            assert (moved > 1e-6).all(), (target, source)
