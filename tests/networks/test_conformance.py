"""What every registered network must do, whatever it computes: a new line of ARCHITECTURES arrives tested.

How many tasks it needs is what `pipeline.core.names.TASK_COUNT` says. It has to be named here only if it predicts its
main tasks on the way, or if it stands for a single task although it is made for several.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.names import TASK_COUNT
from pipeline.datasets import DATASETS
from pipeline.networks.registry import ARCHITECTURES, build
from pipeline.tasks import TASKS as TASKS_BY_NAME
from tests.support.narrow_hrnet import NARROW, WIDE
from tests.support.narrow_vit import NARROW_VIT
from tests.support.networks import (
    assert_compiles,
    assert_gradient_everywhere,
    assert_independent_of_the_batch,
    never_drop,
    open_closed_norms,
    predictions,
)

ALONE = ({"normals": 3}, {})
MIXED = ({"semseg": 5, "depth": 1}, {"edge": 1})
SETS = [({"semseg": 5, "depth": 1, "normals": 3}, {}), ({"semseg": 5}, {"edge": 1})]  # none auxiliary, and one of each
TAKE_ONE_TASK_TOO = ("multi_task", "mtan")
# Strides at which a network predicts all tasks on the way; the others predict their auxiliary tasks, at stride 4.
SUPERVISED_AT = {
    "sequential_attention": (4, 8, 16, 32),
    "mti_net": (4, 8, 16, 32),
    "pad_net": (4,),
    "invpt": (32,),
}
OPTIONS = [
    (name, option, value)
    for name, kind in ARCHITECTURES.items()
    for option, values in kind.OPTIONS.items()
    for value in values[1:]
]
# At the start, one alpha for all channels is the same function as one for each; its start is state, not function.
CHANGING = [each for each in OPTIONS if each[1] not in ("stitch", "own_share")]
# The DeepLab head reads the deepest map alone, through which not all of an HRNet is reached; the narrow HRNet has no
# scale to narrow further, and no depths of one resolution.
FOR_OPTION = {"head": "test_efficientnet", "scale_channels": WIDE, "vit_maps": NARROW_VIT}
SEVERAL = [name for name in ARCHITECTURES if TASK_COUNT[name][1] != 1]
# Every network as it is by default, two with an option that adds modules, and one that is another on a ViT.
WITH_MODULES = [("nddr_cnn", {"shortcut": True}), ("atrc", {"deep_supervision": True})]
ON_DEPTHS = ("invpt", {"vit_maps": "depths"})
CASES = [*((name, {}) for name in ARCHITECTURES), *WITH_MODULES, ON_DEPTHS]


def tasks_of(architecture):
    return MIXED if architecture in SEVERAL else ALONE


def backbone_of(options):
    return next((FOR_OPTION[option] for option in options if option in FOR_OPTION), NARROW)


@pytest.fixture(autouse=True)
def _seed(narrow_pad_net):
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def networks():
    """The network of an architecture for `tasks_of` it, in training and as it was built; built on first use."""
    made = {}

    def get(architecture, **options):
        key = architecture, *options.items()
        if key not in made:
            torch.manual_seed(0)
            tasks, auxiliary = tasks_of(architecture)
            backbone = backbone_of(options)
            net = build(architecture, backbone=backbone, tasks=tasks, auxiliary_tasks=auxiliary, **options)
            made[key] = net, copy.deepcopy(net.state_dict())
        net, start = made[key]
        net.load_state_dict(start)
        net.zero_grad(set_to_none=True)
        torch.manual_seed(1)  # the same images whether it was built just now or before
        return net.train()

    return get


def seeded(net, image):
    torch.manual_seed(1)  # what is dropped in training must not make a difference
    return net(image)


# ---- sizes and gradients -----------------------------------------------------------------------------------


def assert_predicts(outputs, tasks, auxiliary, architecture, options):
    """Of an image of 45x70, which backbones enlarge to 64x96: main tasks at its size, the others as `SUPERVISED_AT`."""
    assert {t: tuple(x.shape) for t, x in outputs.final.items()} == {t: (2, n, 45, 70) for t, n in tasks.items()}
    strides, supervised = SUPERVISED_AT.get(architecture, ()), {**tasks, **auxiliary}
    if not strides and not options.get("deep_supervision"):
        supervised = auxiliary
    if not strides and supervised:
        strides = (32,) if options.get("head") == "aspp" else (4,)
    assert [{t: tuple(x.shape) for t, x in scale.items()} for scale in outputs.auxiliary] == [
        {t: (2, n, 64 // stride, 96 // stride) for t, n in supervised.items()} for stride in strides
    ]


@pytest.mark.parametrize(
    ("architecture", "tasks", "auxiliary", "options"),
    [
        *((name, *tasks_of(name), {}) for name in ARCHITECTURES),
        ("invpt", *MIXED, {"vit_maps": "depths"}),
        *(
            pytest.param(name, *each, options, marks=pytest.mark.slow)
            for name, options in [
                *((name, {}) for name in SEVERAL),
                *WITH_MODULES,
                ON_DEPTHS,
                ("mti_net", {"mask": "tasks"}),
            ]
            for each in SETS
        ),
        *(pytest.param(name, *ALONE, {}, marks=pytest.mark.slow) for name in TAKE_ONE_TASK_TOO),
        pytest.param("cross_stitch", *SETS[0], {"stitch": "layer"}, marks=pytest.mark.slow),
    ],
)
def test_odd_sizes_and_gradients(architecture, tasks, auxiliary, options):
    net = build(architecture, backbone=backbone_of(options), tasks=tasks, auxiliary_tasks=auxiliary, **options)
    never_drop(net)
    open_closed_norms(net)
    outputs = net(torch.randn(2, 3, 45, 70))
    assert_predicts(outputs, tasks, auxiliary, architecture, options)
    assert_gradient_everywhere(net, outputs)


@pytest.fixture(scope="module")
def defaults():
    """Predictions of an architecture with its default options, of an image of 45x70 in training, and its weights."""
    made = {}

    def get(architecture, backbone, drops):
        key = architecture, backbone, drops
        if key not in made:
            torch.manual_seed(0)
            tasks, auxiliary = tasks_of(architecture)
            net = build(architecture, backbone=backbone, tasks=tasks, auxiliary_tasks=auxiliary)
            open_closed_norms(net)
            state = copy.deepcopy(net.state_dict())
            if not drops:
                never_drop(net)
            image = torch.randn(2, 3, 45, 70)
            with torch.no_grad():
                made[key] = image, state, predictions(seeded(net, image))
        return made[key]

    return get


@pytest.mark.parametrize(("architecture", "option", "value"), CHANGING)
@pytest.mark.slow
def test_every_option_changes_the_function(defaults, architecture, option, value):
    drops = option == "att_drop_path"
    backbone = backbone_of([option])
    image, state, expected = defaults(architecture, backbone, drops)
    tasks, auxiliary = tasks_of(architecture)
    torch.manual_seed(0)
    net = build(architecture, backbone=backbone, tasks=tasks, auxiliary_tasks=auxiliary, **{option: value})
    open_closed_norms(net)
    own = net.state_dict()
    shared = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    net.load_state_dict(shared, strict=False)  # what both have is equal: the option makes the difference
    if not drops:
        never_drop(net)
    outputs = seeded(net, image)
    assert_predicts(outputs, tasks, auxiliary, architecture, {option: value})
    found = predictions(outputs)
    shapes = [[x.shape for x in each] for each in (expected, found)]
    assert shapes[0] != shapes[1] or not all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True)
    )
    assert_gradient_everywhere(net, outputs)


@pytest.mark.parametrize("architecture", SEVERAL)
@pytest.mark.slow
def test_all_tasks_of_all_datasets_together(architecture):
    channels = {t: TASKS_BY_NAME[t].channels or 7 for dataset in DATASETS.values() for t in dataset.tasks}
    assert set(channels) == set(TASKS_BY_NAME)
    net = build(architecture, backbone=NARROW, tasks=channels)
    outputs = net(torch.randn(2, 3, 33, 47))
    assert {t: tuple(x.shape) for t, x in outputs.final.items()} == {t: (2, n, 33, 47) for t, n in channels.items()}
    sum(x.square().mean() for x in predictions(outputs)).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None]


# ---- batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "options"), CASES)
@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_batch(networks, architecture, options):
    assert_independent_of_the_batch(networks(architecture, **options))


@pytest.mark.parametrize(("architecture", "options"), CASES)
def test_batch_of_one_trains(networks, architecture, options):
    outputs = networks(architecture, **options)(torch.randn(1, 3, 64, 64))
    assert all(x.shape[0] == 1 and x.isfinite().all() for x in predictions(outputs))


# ---- how it may be run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "options"), CASES)
@pytest.mark.slow
def test_memory_format_does_not_change_the_function(networks, architecture, options):
    net = copy.deepcopy(networks(architecture, **options)).double().eval()
    image = torch.randn(2, 3, 64, 96, dtype=torch.double)
    with torch.no_grad():
        plain = predictions(net(image))
        net.to(memory_format=torch.channels_last)
        last = predictions(net(image.to(memory_format=torch.channels_last)))
    assert_close(last, plain, rtol=0, atol=1e-9)  # in double precision: depth amplifies rounding


# Mean error of a prediction in training, relative to its mean size: measured 0.02 to 0.15 at the start.
BFLOAT16 = {"cross_stitch": 0.25, "nddr_cnn": 0.25, "mtan": 0.25}  # 0.3 for others


@pytest.mark.parametrize(("architecture", "options"), CASES)
@pytest.mark.slow
def test_bfloat16_autocast_stays_close(networks, architecture, options):
    net = networks(architecture, **options)
    image = torch.randn(2, 3, 64, 64)
    # In evaluation, with the statistics that the training moved, measured 0.01 to 0.04.
    for training, bound in ((True, BFLOAT16.get(architecture, 0.3)), (False, 0.15)):
        net.train(training)
        with torch.no_grad():
            exact = predictions(seeded(net, image))
            with torch.autocast("cpu", torch.bfloat16):
                rough = predictions(seeded(net, image))
        for a, b in zip(exact, rough, strict=True):
            assert b.dtype in (torch.bfloat16, torch.float32)
            assert (b.float() - a).abs().mean() < bound * a.abs().mean()


class Maps(nn.Module):
    """In place of a backbone's network: maps of these strides, of 12 channels, by one convolution each."""

    def __init__(self, strides: tuple[int, ...]):
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, 12, stride, stride) for stride in strides)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [to_map(image) for to_map in self.maps]


# Tracing takes a time for every operation, so few of them. Single-task networks trace a backbone, as do those that run
# it stage by stage; the others read its maps, and two of them have the same blocks at every scale: the finest, where
# windows are shifted, and the coarsest, smaller than a window, run all their code.
TWO, FOUR = (4, 32), (4, 8, 16, 32)
READ_MAPS = {"sequential_attention": TWO, "mti_net": TWO} | dict.fromkeys(
    ("multi_task", "pad_net", "atrc", "invpt"), FOUR
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.slow
def test_compiles_without_a_graph_break(backbones, architecture):
    """In evaluation; sequential attention in training, where stochastic depth is traced too."""
    tasks, auxiliary = SETS[1] if architecture in SEVERAL else ALONE
    # MTAN has a way of its own through an HRNet.
    backbone = backbones(NARROW if architecture == "mtan" else "test_convnext")
    if strides := READ_MAPS.get(architecture):
        backbone.net, backbone.channels = Maps(strides), [12] * len(strides)
    options = dict(WITH_MODULES).get(architecture, {})
    net = ARCHITECTURES[architecture](backbone, tasks, auxiliary, **options)
    assert_compiles(net.double().train(architecture == "sequential_attention"), torch.randn(2, 3, 45, 70).double())


# ---- what it is built of -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.slow
def test_building_is_reproducible(networks, architecture):
    first = networks(architecture).state_dict()
    tasks, auxiliary = tasks_of(architecture)
    torch.manual_seed(0)
    second = build(architecture, backbone=NARROW, tasks=tasks, auxiliary_tasks=auxiliary).state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("architecture", [name for name in SEVERAL if name not in TAKE_ONE_TASK_TOO])
@pytest.mark.parametrize(("tasks", "auxiliary"), [({"depth": 1}, {}), ({}, {"edge": 1})])
def test_one_task_is_refused(backbones, architecture, tasks, auxiliary):
    with pytest.raises(ValueError, match=rf"{architecture} .*at least 2 .*Use single_task for one"):
        ARCHITECTURES[architecture](backbones(NARROW), tasks, auxiliary)
