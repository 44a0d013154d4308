"""The fast form of sequential attention against the plain one (tests/reference/sca.py): function and gradients.

Blocks are compared in float32, as they run, to 1e-5. Whole networks are compared in double precision, where the
bound can be far tighter: in float32 a network of this depth turns the rounding of its input into more than 1e-5,
whichever form it has.
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks.heads import tiled
from pipeline.networks.heads.multi_scale import MultiScaleHead
from pipeline.networks.registry import SequentialAttention, build
from pipeline.networks.sca.attention import CrossAttention, WindowSelfAttention
from pipeline.networks.sca.csam import CrossScaleAttention
from pipeline.networks.sca.ctam import CrossTaskAttention
from pipeline.networks.sca.fpma import FeaturePropagation
from tests.reference.sca import (
    PlainCrossAttention,
    PlainCrossScaleAttention,
    PlainCrossTaskAttention,
    PlainFeaturePropagation,
    PlainHead,
    PlainHRNet,
    PlainSequentialAttention,
    PlainWindowSelfAttention,
)
from tests.support.narrow_hrnet import NARROW
from tests.support.twins import assert_same, run, tensors, twins

pytestmark = pytest.mark.slow

ALL_TASKS = {"semseg": 7, "depth": 1, "normals": 3, "edge": 1, "sal": 1}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---- the plain form is the published network -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "size", "gmac"),
    [
        ({"semseg": 40, "depth": 1}, (480, 640), 78.6),
        ({"semseg": 40, "depth": 1, "normals": 3}, (480, 640), 121.6),
        ({"semseg": 21, "normals": 3}, (512, 512), 66.9),
        ({"semseg": 21, "human_parts": 7, "sal": 1}, (512, 512), 103.7),
    ],
)
def test_plain_form_costs_what_the_released_network_costs(tasks, size, gmac):
    fast = build("sequential_attention", backbone="hrnet_w18_small_v2", tasks=tasks)
    with torch.device("meta"):  # shapes are enough
        plain = PlainSequentialAttention(PlainHRNet("hrnet_w18_small_v2"), tasks, {}).eval()
        with FlopCounterMode(display=False) as counter:
            plain(torch.empty(1, 3, *size))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.05)
    shapes = [{name: x.shape for name, x in net.state_dict().items()} for net in (plain, fast)]
    assert shapes[0] == shapes[1]  # neither form has a parameter that the other lacks


# ---- blocks, float32 -----------------------------------------------------------------------------------------


def maps(channels: list[int], sizes: list[tuple[int, int]], batch: int = 2) -> list[Tensor]:
    every = [torch.randn(batch, c, *size) for c, size in zip(channels, sizes, strict=True)]
    return [x.contiguous(memory_format=torch.channels_last) for x in every]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("source", [(9, 7), (4, 3), (3, 2)])
def test_cross_attention(source, batch):
    fast, plain = twins(CrossAttention(12), PlainCrossAttention(12))
    x = maps([12, 12], [(9, 7), source], batch)
    assert_same(run(Unpacked(fast), x), run(Unpacked(plain), x), 1e-5)


class Unpacked(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.net(*x)


@pytest.mark.parametrize("padding", ["attended", "masked"])
@pytest.mark.parametrize("shift_small", [True, False])
@pytest.mark.parametrize(("size", "depth"), [((9, 16), 2), ((7, 7), 2), ((14, 7), 2), ((3, 11), 1)])
def test_window_self_attention(size, depth, shift_small, padding):
    options = {"padding": padding, "shift_small": shift_small}
    fast = WindowSelfAttention(10, 4, depth, **options, drop_path=0.4)
    fast, plain = twins(fast, PlainWindowSelfAttention(10, 4, depth, **options, drop=0.4))
    [x] = maps([10], [size])
    assert_same(run(fast, x), run(plain, x), 1e-5)


@pytest.mark.parametrize("reduction", ["shared", "per_task"])
@pytest.mark.parametrize("tasks", ["ab", "abc", "abcd"])
def test_cross_task_attention(tasks, reduction):
    targets = tasks[:2]
    fast, plain = twins(
        CrossTaskAttention(8, tasks, targets, reduction), PlainCrossTaskAttention(8, tasks, targets, reduction)
    )
    x = dict(zip(tasks, maps([8] * len(tasks), [(7, 10)] * len(tasks)), strict=True))
    assert_same(run(fast, x), run(plain, x), 1e-5)


@pytest.mark.parametrize("mask", ["channels", "tasks"])
@pytest.mark.parametrize("tasks", ["ab", "abc"])
def test_feature_propagation(tasks, mask):
    fast, plain = twins(FeaturePropagation(8, tasks, mask), PlainFeaturePropagation(8, tasks, mask))
    x = dict(zip(tasks, maps([8] * len(tasks), [(9, 6)] * len(tasks)), strict=True))
    assert_same(run(fast, x), run(plain, x), 1e-5)


class ScalesToPrediction(nn.Module):
    """CSAM and head together: only together do the two forms agree on what stands between them."""

    def __init__(self, csam: nn.Module, head: nn.Module):
        super().__init__()
        self.csam, self.head = csam, head

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.head(self.csam(x))


def scales(attention: str) -> tuple[nn.Module, nn.Module]:
    channels = [4, 6, 8]
    csam = CrossScaleAttention(channels, attention)
    fast = ScalesToPrediction(csam, MultiScaleHead(csam.out_channels, 5, csam.repeats))
    return twins(fast, ScalesToPrediction(PlainCrossScaleAttention(channels, attention), PlainHead(36, 5)))


@pytest.mark.parametrize("attention", ["shared", "per_source"])
@pytest.mark.parametrize("band", [1, 2**11, 2**20])  # one row at a time, a few, all of them
@pytest.mark.parametrize("sizes", [[(24, 16), (12, 8), (6, 4)], [(25, 18), (13, 9), (7, 5)]])
def test_attention_across_scales_and_head(sizes, band, attention, monkeypatch):
    monkeypatch.setattr(tiled, "BAND", band)
    fast, plain = scales(attention)
    x = maps([4, 6, 8], sizes)
    assert_same(run(fast, x), run(plain, x), 1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert_close(getattr(fast.head.norm, name), getattr(plain.head.norm, name), rtol=1e-5, atol=1e-6)
    fast.eval(), plain.load_state_dict(fast.state_dict()), plain.eval()
    assert_same(run(fast, x), run(plain, x), 1e-5)
    with torch.no_grad():
        assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)


# ---- tiled head by itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_tiled_head_has_the_numerical_gradient(training, monkeypatch):
    monkeypatch.setattr(tiled, "BAND", 60)
    norm, predict = nn.BatchNorm2d(6).double().train(training), nn.Conv2d(6, 2, 1).double()
    norm.running_mean.uniform_(-0.5, 0.5)
    x = [
        torch.randn(2, 3, 7, 5),
        torch.randn(2, 6, 4, 3),
        torch.randn(2, 6, 2, 2),
        torch.randn(6, 3, 1, 1),
        torch.randn(6),
    ]
    x = [each.double().requires_grad_() for each in x]
    parameters = [*norm.parameters(), *predict.parameters()]

    def head(finest, first, second, weight, bias, *_):
        return tiled.mix_and_predict(finest, [first, second], weight, bias, norm, predict)

    assert torch.autograd.gradcheck(head, (*x, *parameters))


def test_bands_cover_every_row_and_say_what_they_need():
    coarser = [torch.randn(1, 1, 5, 3), torch.randn(1, 1, 3, 2), torch.randn(1, 1, 13, 2)]
    bands = tiled.cut(13, 4, coarser)
    assert [(b.rows.start, b.rows.stop) for b in bands] == [(0, 4), (4, 8), (8, 12), (12, 13)]
    assert all(first.rows.stop == second.rows.start for first, second in pairwise(bands))
    columns = [x[0, 0, :, :1] for x in coarser]
    whole = sum(nn.functional.interpolate(x[:, :, :, :1], (13, 1), mode="bilinear")[0, 0] for x in coarser)
    for band in bands:
        rows = torch.cat([x[source] for x, source in zip(columns, band.sources, strict=True)])
        assert_close(band.upsample @ rows, whole[band.rows])


# ---- whole networks, double precision ------------------------------------------------------------------------


def random_case(seed: int) -> tuple[dict, dict, dict, tuple[int, int]]:
    """Tasks, auxiliary tasks, options and image size, drawn from all that are allowed."""
    rng = random.Random(seed)
    names = rng.sample(sorted(ALL_TASKS), rng.randint(2, 4))
    main = rng.randint(1, len(names))
    options = {option: rng.choice(values) for option, values in SequentialAttention.OPTIONS.items()}
    size = (rng.randint(33, 90), rng.randint(33, 90))
    return {t: ALL_TASKS[t] for t in names[:main]}, {t: ALL_TASKS[t] for t in names[main:]}, options, size


PAIR, TRIO = {"semseg": 7, "depth": 1}, {"semseg": 7, "sal": 1, "normals": 3}
WITHOUT_PADDING = (224, 224)  # every map is of whole windows of 7x7
DEFAULTS = [
    (PAIR, {}, {}, WITHOUT_PADDING),
    (TRIO, {}, {}, (70, 45)),
    (ALL_TASKS, {}, {}, (40, 33)),
]


@pytest.mark.parametrize(
    ("backbone", "case"),
    [
        ("hrnet_w18_small", (PAIR, {}, {}, (64, 32))),
        ("hrnet_w18_small", (PAIR, {"sal": 1}, {"scale_channels": 64}, (64, 64))),  # its last map has 128
        *((NARROW, case) for case in (*DEFAULTS, *(random_case(seed) for seed in range(6)))),
    ],
)
def test_networks_are_the_same_function(backbone, case):
    """Training, gradients, running statistics and evaluation; with default options it is the released network."""
    tasks, auxiliary, options, size = case
    fast = build("sequential_attention", backbone=backbone, tasks=tasks, auxiliary_tasks=auxiliary, **options)
    plain = PlainSequentialAttention(PlainHRNet(backbone), tasks, auxiliary, **options)
    plain.load_state_dict(fast.state_dict())
    fast, plain = fast.double().to(memory_format=torch.channels_last), plain.double()
    image = torch.randn(2, 3, *size, dtype=torch.double)
    assert_same(run(fast, image), run(plain, image), 1e-10)
    same_statistics(fast, plain)
    plain.load_state_dict(fast.state_dict())
    fast.eval(), plain.eval()
    with torch.no_grad():
        assert_close(tensors(fast(image)), tensors(plain(image)), rtol=0, atol=1e-10)


def same_statistics(fast: nn.Module, plain: nn.Module) -> None:
    """Batch norms have moved alike: also in CSAM's shared query, which the plain form computes anew for each source."""
    moved = {name: x for name, x in plain.state_dict().items() if "running_" in name}
    assert len(moved) > 100
    found = fast.state_dict()
    for name, x in moved.items():
        assert_close(found[name], x, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("momentum", [0.03, 1.0])
def test_one_momentum_for_all_holds_for_the_shared_query_too(momentum):
    fast = build("sequential_attention", backbone=NARROW, tasks=PAIR, batch_norm_momentum=momentum)
    plain = PlainSequentialAttention(PlainHRNet(NARROW), PAIR, {})
    plain.load_state_dict(fast.state_dict())
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum
    image = torch.randn(2, 3, 64, 64, dtype=torch.double)
    for net in (fast.double(), plain.double()):
        torch.manual_seed(2)
        net(image)
    same_statistics(fast, plain)


# ---- how it runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
def test_maps_stay_in_channels_last_memory(batch):
    net = build("sequential_attention", backbone=NARROW, tasks={"semseg": 5, "depth": 1})
    net = net.to(memory_format=torch.channels_last)
    seen = []

    def look(module, inputs, _result):
        for x in inputs:
            if x.shape[1] > 1 and x.shape[2:].numel() > 1:
                assert x.is_contiguous(memory_format=torch.channels_last), (module, x.shape, x.stride())
                seen.append(x)

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    net(torch.randn(batch, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    assert len(seen) > 100
