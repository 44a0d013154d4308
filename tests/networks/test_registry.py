"""Networks: sizes that the literature fixes, blocks against explicit forms, behaviour of whole networks."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from pipeline.compute.resize import resize
from pipeline.datasets import DATASETS
from pipeline.networks.blocks import ResidualBlock, SqueezeExcite
from pipeline.networks.heads.multi_scale import MultiScaleHead
from pipeline.networks.registry import ARCHITECTURES, build
from pipeline.networks.sca.csam import CrossScaleAttention
from pipeline.networks.sca.ctam import CrossTaskAttention
from pipeline.networks.sca.fpma import FeaturePropagation
from pipeline.networks.sca.task_features import TaskFeatures
from pipeline.tasks import TASKS as TASKS_BY_NAME
from tests.support.networks import (
    assert_independent_of_the_batch,
    never_drop,
    open_closed_norms,
    parameters,
    predictions,
)

SMALL = "hrnet_w18_small"
TASKS = {"semseg": 5, "depth": 1}
NETWORKS = [
    ("single_task", {"normals": 3}, {}),
    ("multi_task", TASKS, {}),
    ("multi_task", {"semseg": 5}, {"edge": 1}),
    ("sequential_attention", TASKS, {}),
    ("sequential_attention", {"semseg": 5, "depth": 1, "normals": 3}, {}),
    ("sequential_attention", {"semseg": 5}, {"edge": 1}),
    *(
        (name, TASKS, {"edge": 1})
        for name in ("mti_net", "pad_net", "cross_stitch", "nddr_cnn", "mtan", "atrc", "invpt")
    ),
]
# Those that predict on the way, whatever the tasks.
DEEPLY_SUPERVISED = ("sequential_attention", "mti_net", "pad_net", "invpt")
OPTIONS = [
    (name, option, value)
    for name, kind in ARCHITECTURES.items()
    for option, values in kind.OPTIONS.items()
    for value in values[1:]
    # At the start, one alpha for all channels is the same function as one for each; its start is state, not function.
    if option not in ("stitch", "own_share")
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---- the published sizes (FACTS: measured on the released network) -----------------------------------------


@pytest.mark.parametrize(
    ("architecture", "tasks", "millions"),
    [
        ("single_task", {"semseg": 40}, 3.945),
        ("single_task", {"depth": 1}, 3.935),
        ("multi_task", {"semseg": 40, "depth": 1}, 4.019),
        ("sequential_attention", {"semseg": 40, "depth": 1}, 25.764),
        ("sequential_attention", {"semseg": 40, "depth": 1, "normals": 3}, 39.97),
        ("sequential_attention", {"semseg": 21, "normals": 3}, 25.74),
        ("sequential_attention", {"semseg": 21, "human_parts": 7, "sal": 1}, 39.94),
    ],
)
@pytest.mark.slow
def test_parameters_are_the_published_ones(architecture, tasks, millions):
    net = build(architecture, backbone="hrnet_w18_small_v2", tasks=tasks)
    assert parameters(net.backbone) == pytest.approx(3.861e6, rel=1e-3)
    assert parameters(net) == pytest.approx(millions * 1e6, rel=1e-3)


def test_parameters_of_each_block():
    net = build("sequential_attention", backbone="hrnet_w18_small_v2", tasks={"semseg": 40, "depth": 1})
    assert parameters(net) == 25_763_645 - 3_096  # the released network, less a norm in each window block: never used
    counted = {name: parameters(part) for name, part in net.named_children() if name != "backbone"}
    widths = [36, 72, 144, 288]
    cam = [5 * c * c + 10 * c for c in widths]  # five 1x1 convolutions with BN

    def residual(a, b):
        return 9 * a * b + 9 * b * b + 4 * b + (a * b + 2 * b if a != b else 0)

    def window(c, heads, depth):
        block = 4 * c * c + 4 * c + 2 * c + 169 * heads
        return c * c + c + 2 * c + depth * block + 2 * c

    features = [residual(c + 2 * c * (c < 288), c) + residual(c, c) for c in widths]
    excite = [c * (c // 16) * 2 + c // 16 + c for c in widths]
    project = [a * b + 2 * b for b, a in itertools.combinations(widths, 2)]
    assert counted == {
        "att": sum(window(c // 2, 6, 2) for c in widths),
        "features": 2 * sum(features) + sum(41 * (c + 1) for c in widths),
        "ctam": sum(2 * a + residual(2 * c, c) for a, c in zip(cam, widths, strict=True)),
        "fpma": sum(
            window(2 * c, 4, 1) + residual(2 * c, c) + 2 * e for c, e in zip(widths, excite, strict=True) if c > 36
        ),
        "csam": 2 * (sum(project) + sum(cam[:3])),
        "heads": 2 * (1080 * 1080 + 3 * 1080) + 41 * 1081,
    }
    assert net.heads["semseg"].width == 216 + 288 + 288 + 288


# ---- whole networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "tasks", "auxiliary"), NETWORKS)
def test_odd_sizes_and_gradients(architecture, tasks, auxiliary):
    net = build(architecture, backbone=SMALL, tasks=tasks, auxiliary_tasks=auxiliary)
    never_drop(net)
    open_closed_norms(net)
    outputs = net(torch.randn(2, 3, 75, 101))
    assert {t: tuple(x.shape) for t, x in outputs.final.items()} == {t: (2, n, 75, 101) for t, n in tasks.items()}
    for scale in outputs.auxiliary:
        assert set(scale) >= set(auxiliary)
        assert all(x.shape[1] == {**tasks, **auxiliary}[t] for t, x in scale.items())
    assert bool(outputs.auxiliary) == (architecture in DEEPLY_SUPERVISED or bool(auxiliary))
    _assert_gradient_everywhere(net, outputs)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "single_task"])
@pytest.mark.parametrize("dataset", [name for name in DATASETS if name != "folder"])
@pytest.mark.slow
def test_all_tasks_of_every_dataset(dataset, architecture):
    channels = {t: TASKS_BY_NAME[t].channels or 7 for t in DATASETS[dataset].tasks}
    net = build(architecture, backbone=SMALL, tasks=channels, auxiliary_tasks={})
    outputs = net(torch.randn(2, 3, 33, 47))
    assert {t: tuple(x.shape) for t, x in outputs.final.items()} == {t: (2, n, 33, 47) for t, n in channels.items()}
    sum(x.square().mean() for x in predictions(outputs)).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize(("architecture", "option", "value"), OPTIONS)
@pytest.mark.slow
def test_every_option_changes_the_function(architecture, option, value):
    image = torch.randn(2, 3, 64, 96)
    backbone = "tf_efficientnet_lite0" if option == "head" else SMALL
    tasks, auxiliary = ({"depth": 1}, {}) if architecture == "single_task" else (TASKS, {"edge": 1})
    nets = []
    for options in ({}, {option: value}):
        torch.manual_seed(0)
        nets.append(build(architecture, backbone=backbone, tasks=tasks, auxiliary_tasks=auxiliary, **options))
        open_closed_norms(nets[-1])
    base, other = (net.state_dict() for net in nets)
    shared = {k: v for k, v in base.items() if k in other and v.shape == other[k].shape}
    nets[1].load_state_dict(shared, strict=False)  # what both have is equal: the option makes the difference
    if option != "att_drop_path":
        for net in nets:
            never_drop(net)
    first, second = (_seeded(net, image) for net in nets)
    a, b = predictions(first), predictions(second)
    shapes = [[x.shape for x in each] for each in (a, b)]
    assert shapes[0] != shapes[1] or not all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))
    _assert_gradient_everywhere(nets[1], second)


def _seeded(net, image):
    torch.manual_seed(1)  # what is dropped in training must not make the difference
    return net(image)


def _assert_gradient_everywhere(net, outputs):
    sum(x.square().mean() for x in predictions(outputs)).backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None]
    assert not unreached
    # A bias before batch norm cannot matter in training; a gate's two hidden units may both be off.
    zero = [name for name, p in net.named_parameters() if not p.grad.any()]
    assert not [name for name in zero if not name.endswith("mix.bias") and ".excite." not in name]
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(("architecture", "tasks", "auxiliary"), NETWORKS)
@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_batch(architecture, tasks, auxiliary):
    net = build(architecture, backbone=SMALL, tasks=tasks, auxiliary_tasks=auxiliary)
    assert_independent_of_the_batch(net)


@pytest.mark.parametrize(("architecture", "tasks", "auxiliary"), NETWORKS)
@pytest.mark.slow
def test_batch_of_one_trains(architecture, tasks, auxiliary):
    net = build(architecture, backbone=SMALL, tasks=tasks, auxiliary_tasks=auxiliary)
    outputs = net(torch.randn(1, 3, 64, 64))
    assert all(x.shape[0] == 1 and x.isfinite().all() for x in predictions(outputs))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.slow
def test_memory_format_does_not_change_the_function(architecture):
    tasks = dict(list(TASKS.items())[: 1 if architecture == "single_task" else None])
    net = build(architecture, backbone=SMALL, tasks=tasks).double().eval()
    image = torch.randn(2, 3, 64, 96, dtype=torch.double)
    with torch.no_grad():
        plain = predictions(net(image))
        net.to(memory_format=torch.channels_last)
        last = predictions(net(image.to(memory_format=torch.channels_last)))
    assert_close(last, plain, rtol=0, atol=1e-9)  # in double precision: depth amplifies rounding


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.slow
def test_bfloat16_autocast_stays_close(architecture):
    tasks = dict(list(TASKS.items())[: 1 if architecture == "single_task" else None])
    net = build(architecture, backbone=SMALL, tasks=tasks)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = _seeded(net, image).final["semseg"]
        with torch.autocast("cpu", torch.bfloat16):
            rough = _seeded(net, image).final["semseg"].float()
    # Measured 0.06 to 0.25 at initialisation; noise of bfloat16's size on the image alone gives 0.1 in float32.
    assert (rough - exact).abs().mean() < 0.3 * exact.abs().mean()


@pytest.mark.slow
def test_sequential_attention_takes_widths_that_heads_do_not_divide():
    net = build("sequential_attention", backbone="tf_efficientnet_lite0", tasks=TASKS)
    assert net(torch.randn(1, 3, 64, 64)).final["depth"].shape == (1, 1, 64, 64)


@pytest.mark.slow
def test_building_is_reproducible():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build("sequential_attention", backbone=SMALL, tasks=TASKS).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"architecture": "sequental_attention"}, "Did you mean sequential_attention"),
        ({"backbone": "hrnet_w18_smal"}, "hrnet_w18_small"),
        ({"backbone": "nest_tiny"}, "nest_tiny"),
        ({"architecture": "invpt", "backbone": "resnet18", "output_stride": 8}, "output_stride to 32"),
        ({"backbone": "hrnet_w18_small", "output_stride": 8}, "output_stride"),
        ({"ctam_reduction": "own"}, "shared, per_task"),
        ({"ctam_reductoin": "shared"}, "Did you mean ctam_reduction"),
        ({"architecture": "mtan", "att": True}, "Allowed: none"),
        ({"tasks": {"depth": 1}}, "at least 2"),
        ({"tasks": {}}, "at least one task"),
        ({"auxiliary_tasks": {"depth": 1}}, "both main and auxiliary"),
        ({"architecture": "single_task"}, "exactly one task"),
        (
            {"architecture": "single_task", "tasks": {"depth": 1}, "auxiliary_tasks": {"edge": 1}},
            "exactly one",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_what_is_allowed(arguments, says):
    arguments = {"architecture": "sequential_attention", "backbone": SMALL, "tasks": TASKS} | arguments
    with pytest.raises(ValueError, match=says):
        build(arguments.pop("architecture"), **arguments)


# ---- blocks against explicit forms -------------------------------------------------------------------------


def test_residual_block_adds_what_it_got():
    block = ResidualBlock(4, 4).eval()
    nn.init.zeros_(block.conv2[1].weight)
    x = torch.randn(2, 4, 5, 6)
    assert_close(block(x), x.relu())
    assert ResidualBlock(4, 6)(x).shape == (2, 6, 5, 6)


def test_squeeze_excite_is_a_gate_per_image_and_channel():
    block = SqueezeExcite(32)
    x = torch.randn(2, 32, 5, 6)
    hidden = (x.mean((2, 3)) @ block.squeeze.weight[:, :, 0, 0].T + block.squeeze.bias).relu()
    gate = torch.sigmoid(hidden @ block.excite.weight[:, :, 0, 0].T + block.excite.bias)
    assert hidden.shape == (2, 2)
    assert_close(block(x), x * gate[:, :, None, None])


def test_task_features_predict_from_what_they_hand_on():
    module = TaskFeatures(6, 4, 3).eval()
    features, prediction = module(torch.randn(2, 6, 5, 7))
    assert features.shape == (2, module.out_channels, 5, 7)
    assert_close(prediction, F.conv2d(features, module.predict.weight, module.predict.bias))


@pytest.mark.parametrize("reduction", ["shared", "per_task"])
def test_cross_task_attention_written_out(reduction):
    ctam = CrossTaskAttention(8, ("a", "b", "c"), ("a", "b"), reduction).eval()
    x = {task: torch.randn(2, 8, 4, 5) for task in "abc"}
    out = ctam(x)
    assert list(out) == ["a", "b"]
    cam = ctam.attention["b"]
    reduce = ctam.reduce["shared" if reduction == "shared" else "b"]
    pairs = torch.cat([x["b"], cam["a"](x["b"], x["a"]), x["b"], cam["c"](x["b"], x["c"])], 1)
    assert_close(out["b"], x["b"] + reduce(pairs))


@pytest.mark.parametrize("mask", ["channels", "tasks"])
def test_feature_propagation_masks_sum_to_one(mask):
    tasks, channels = ("a", "b", "c"), 4
    fpma = FeaturePropagation(channels, tasks, mask).eval()
    logits = torch.randn(2, 12, 5, 6)
    masks = fpma._softmax(logits)
    for channel in range(channels):
        group = [3 * channel + i for i in range(3)] if mask == "channels" else [channel + 4 * t for t in range(3)]
        assert_close(masks[:, group], logits[:, group].softmax(1))
    x = {task: torch.randn(2, channels, 5, 6) for task in tasks}
    maps = torch.cat(list(x.values()), 1)
    shared = fpma.reduce(maps * fpma._softmax(fpma.attention(maps)))
    assert_close(fpma(x)["b"], x["b"] + fpma.excite["b"](shared))


@pytest.mark.parametrize("attention", ["shared", "per_source"])
def test_cross_scale_attention_written_out(attention):
    csam = CrossScaleAttention([4, 8, 12], attention).eval()
    maps = [torch.randn(2, c, s, s + 1) for c, s in ((4, 8), (8, 4), (12, 2))]
    out = csam(maps)
    for k, (scale, channels) in enumerate(zip(out, csam.out_channels, strict=True)):
        assert [x.shape[1] for x in scale] == channels
        assert scale[0] is maps[k]
        for i, x in enumerate(scale[1:]):
            cam = csam.attention[k][0 if attention == "shared" else i]
            assert_close(x, cam(maps[k], csam.project[k][i](maps[k + 1 + i])))
    assert csam.repeats == [[2, 1, 1], [1, 1], [1]]


def plain_head(head, scales, repeats):
    """Upsample everything, repeats included, concatenate, mix, predict."""
    size = scales[0][0].shape[-2:]
    maps = [
        resize(x, size)
        for maps, counts in zip(scales, repeats, strict=True)
        for x, count in zip(maps, counts, strict=True)
        for _ in range(count)
    ]
    return head.predict(head.norm(head.mix(torch.cat(maps, 1))).relu())


@pytest.mark.parametrize("repeats", [[[3, 1], [2, 1], [1]], [[1, 1], [1, 1], [1]]])
@pytest.mark.parametrize("sizes", [[(12, 16), (6, 8), (3, 4)], [(13, 9), (7, 5), (4, 3)]])
def test_head_is_the_plain_concatenation(repeats, sizes):
    head = MultiScaleHead([[4, 4], [8, 8], [16]], 5, repeats)
    scales = [
        [torch.randn(2, c, *size) for c in channels]
        for channels, size in zip([[4, 4], [8, 8], [16]], sizes, strict=True)
    ]
    gradients = []
    for form in (lambda: head(scales), lambda: plain_head(head, scales, repeats)):
        head.zero_grad()
        out = form()
        out.square().sum().backward()
        gradients.append([out, head.mix.weight.grad.clone(), head.predict.weight.grad.clone()])
    assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
