"""The registry: sizes that the literature fixes, and what is refused. What all networks must do: test_conformance."""

import itertools

import pytest
import torch

from pipeline.networks.registry import build
from pipeline.networks.sca.network import ATT_HEADS
from tests.support.networks import (
    parameters,
)

SMALL = "hrnet_w18_small"
TASKS = {"semseg": 5, "depth": 1}


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
    with torch.device("meta"):  # shapes are enough
        net = build(architecture, backbone="hrnet_w18_small_v2", tasks=tasks)
    assert parameters(net.backbone) == pytest.approx(3.861e6, rel=1e-3)
    assert parameters(net) == pytest.approx(millions * 1e6, rel=1e-3)


@pytest.mark.slow
def test_parameters_of_each_block():
    with torch.device("meta"):
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


def test_sequential_attention_takes_widths_that_heads_do_not_divide():
    net = build("sequential_attention", backbone="test_efficientnet", tasks=TASKS)
    assert any(c // 2 % ATT_HEADS for c in net.backbone.channels)
    assert net(torch.randn(1, 3, 64, 64)).final["depth"].shape == (1, 1, 64, 64)


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
