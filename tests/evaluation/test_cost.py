"""Cost: against arithmetic by hand, published figures, and a real step of every architecture."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.comparison.baselines import COST
from pipeline.core.errors import DataError, ParamsError
from pipeline.core.names import SINGLE_TASK
from pipeline.datasets import DATASETS
from pipeline.evaluation.cost import Cost, cost_of, dataset_info, measure
from pipeline.networks.registry import ARCHITECTURES, build
from pipeline.params.load import load_params
from stages import cost as stage
from stages._entry import run_stage

pytestmark = pytest.mark.slow

H, W = 12, 16
IMAGE = 3 * H * W


class Apply(nn.Module):
    """A function of the image as a network, with the parameters that it uses."""

    def __init__(self, function: Callable, *parameters: nn.Parameter):
        super().__init__()
        self.function, self.parameters_ = function, nn.ParameterList(parameters)

    def forward(self, image):
        return self.function(image, *self.parameters_)


def tokens(image):
    return image.flatten(2).transpose(1, 2)  # (1, H * W, 3)


# ---- multiply-accumulates by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "parameters", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 8 * 3 * 9 + 8, H * W * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3), 8 * 3 * 9 + 8, (H - 2) * (W - 2) * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), 8 * 3 * 9, (H // 2) * (W // 2) * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, dilation=2, padding=2, bias=False), 8 * 3 * 9, H * W * 8 * 3 * 9),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), 6 * 9, H * W * 6 * 9),
        (nn.ConvTranspose2d(3, 8, 2, stride=2, bias=False), 3 * 8 * 4, H * W * 3 * 8 * 4),
        (nn.Linear(W, 5), 5 * W + 5, 3 * H * W * 5),
        (nn.Linear(W, 5, bias=False), 5 * W, 3 * H * W * 5),
        (Apply(lambda x: x @ x.transpose(2, 3)), 0, 3 * H * W * H),
        (Apply(lambda x: torch.einsum("bchw,bcij->bhwij", x, x)), 0, 3 * (H * W) ** 2),
        (Apply(lambda x: F.scaled_dot_product_attention(*[tokens(x)[None]] * 3)), 0, 2 * 3 * (H * W) ** 2),
        (Apply(lambda x: F.interpolate(x.relu().softmax(1), scale_factor=2, mode="bilinear")), 0, 0),
        (nn.Sequential(nn.BatchNorm2d(3), nn.AvgPool2d(2)), 6, 0),
    ],
)
def test_arithmetic_by_hand(network, parameters, macs):
    cost = measure(network, (H, W))
    assert (cost.parameters, cost.macs) == (parameters, macs)


def test_a_shared_layer_is_one_set_of_parameters_used_twice():
    layer = nn.Conv2d(3, 3, 1, bias=False)
    assert measure(nn.Sequential(layer, layer), (H, W)) == Cost(9, 2 * 9 * H * W, 4 * 2 * IMAGE)


# Billions for one image of 224x224: ResNet-18 (arXiv:1512.03385, table 1), DeiT-S (arXiv:2103.14030, table 1),
# ConvNeXt-T (arXiv:2201.03545).
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", 1.8),
        ("deit_small_patch16_224", 4.6),
        ("convnext_tiny", 4.5),
    ],
)
def test_published_models(name, published):
    assert measure(timm.create_model(name), (224, 224)).macs / 1e9 == pytest.approx(published, abs=0.05)


# FACTS: measured on the released networks, which aggregate the scales at the finest one. Ours computes the same at each
# map's own size, and each map once; what that saves is added here.
@pytest.mark.parametrize(
    ("architecture", "tasks", "published", "width", "maps"),
    [
        ("single_task", {"semseg": 40}, 11.4, 270, (18, 36, 72, 144)),
        ("multi_task", {"semseg": 40, "depth": 1}, 12.8, 270, (18, 36, 72, 144)),
        ("sequential_attention", {"semseg": 40, "depth": 1}, 78.6, 1080, (4 * 36, 3 * 72, 2 * 144, 288)),
    ],
)
def test_networks_cost_what_the_released_ones_do(architecture, tasks, published, width, maps):
    ours = measure(build(architecture, backbone="hrnet_w18_small_v2", tasks=tasks), (480, 640)).macs
    pixels = [480 * 640 // stride**2 for stride in (4, 8, 16, 32)]
    saved = width * (width * pixels[0] - sum(c * n for c, n in zip(maps, pixels, strict=True)))
    assert (ours + len(tasks) * saved) / 1e9 == pytest.approx(published, rel=0.005)


# ---- activation memory by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "kept"),
    [
        (nn.Conv2d(3, 8, 1), IMAGE),  # for the weight's gradient
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), IMAGE + 8 * H * W),  # a ReLU keeps what it gives
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True)), IMAGE + 8 * H * W),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), IMAGE + 8 * H * W),  # one map, kept by both
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Sigmoid()), IMAGE + 12 * H * W),
        # Batch norm keeps its input, and mean and deviation of each channel.
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()), IMAGE + 8 * H * W + 2 * 8 + 8 * H * W),
        (nn.Sequential(nn.Flatten(2), nn.Linear(H * W, 5)), IMAGE),  # a view is the memory that it looks at
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.AvgPool2d(2), nn.Flatten()), IMAGE + 8 * H * W),
        (nn.Sequential(nn.Conv2d(3, 3, 1).requires_grad_(False), nn.Conv2d(3, 4, 1)), IMAGE),  # frozen: keeps nothing
        (nn.Conv2d(3, 8, 1).requires_grad_(False), 0),
        # What is made of parameters is kept, though they are not.
        (Apply(lambda x, w: F.conv2d(x, w.sum(0)), nn.Parameter(torch.ones(2, 1, 3, 1, 1))), IMAGE + 3),
        (Apply(lambda x, w: F.conv2d(x * w, w.exp()), nn.Parameter(torch.ones(1, 3, 1, 1))), 2 * IMAGE + 3),
    ],
)
def test_activation_memory_by_hand(network, kept):
    assert measure(network, (H, W)).activation_bytes == 4 * kept


def test_fused_attention_keeps_no_matrix_of_weights():
    q = nn.Parameter(torch.ones(3, 3))
    cost = measure(Apply(lambda x, q: F.scaled_dot_product_attention(*[(tokens(x) @ q)[None]] * 3), q), (H, W))
    assert cost.activation_bytes < 4 * (H * W) ** 2
    assert cost.macs == 3 * 3 * H * W + 2 * 3 * (H * W) ** 2


class Traced(torch.Tensor):
    """A tensor like any other, for which the head on the CPU does not choose its tiled form."""


def real_step(network: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """Multiply-accumulates and kept bytes of a pass that computes: blocks of memory told apart by their address."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # alive: no address is used twice
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        network(image.as_subclass(Traced))
    sizes = (storage.nbytes() for address, storage in kept.items() if address not in own)
    return counter.get_total_flops() // 2, sum(sizes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_keeps_what_a_real_step_keeps(architecture):
    tasks = {"semseg": 5} if architecture == SINGLE_TASK else {"semseg": 5, "depth": 1}
    backbone = "resnet18" if architecture == "mtan" else "mobilenetv3_small_050"  # mtan refuses the latter
    network = build(architecture, backbone=backbone, tasks=tasks)
    cost = measure(network, (64, 96))
    assert (cost.macs, cost.activation_bytes) == real_step(network.train(), torch.zeros(1, 3, 64, 96))


# ---- the network and the random state stay as they are -----------------------------------------------------


def test_nothing_is_touched():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Sequential(nn.Dropout()))
    network[2].eval()
    network(torch.rand(2, 3, H, W))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training = [module.training for module in network.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    measure(network, (H, W))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert [module.training for module in network.modules()] == training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_the_metrics_files_have_it_all():
    assert tuple(field.name for field in fields(Cost)) == COST


def test_mode_precision_and_memory_format_do_not_matter():
    network = build("multi_task", backbone="mobilenetv3_small_050", tasks={"semseg": 5, "depth": 1})
    cost = measure(network, (64, 96))
    network.eval().double().to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert measure(network, (64, 96)) == cost


def test_a_map_of_one_pixel_meets_batch_norm():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.zeros(1, 3, H, W))
    assert measure(network, (H, W)).macs == 3 * 8


def test_a_size_that_the_network_refuses():
    with pytest.raises(ParamsError, match=r"input_size \[64, 96\]"):
        measure(timm.create_model("deit_tiny_patch16_224"), (64, 96))


# ---- from params, without data -----------------------------------------------------------------------------


def test_classes_are_known_without_data(root):
    info = dataset_info(load_params(root / "profiles" / "nyud.yaml").data)
    assert info.dataset == "nyud" and info.tasks == ("semseg", "depth", "normals", "edge")
    assert len(info.classes["semseg"]) == 40
    assert set(dataset_info(load_params(root / "profiles" / "ccp.yaml").data).classes) <= set(DATASETS["ccp"].classes)


def test_cost_of_a_run(root):
    params = load_params(root / "profiles" / "nyud.yaml")
    state = torch.get_rng_state()
    cost = cost_of(params.run("semseg"), params.data)  # pretrained: true, yet nothing is fetched
    assert torch.equal(torch.get_rng_state(), state)
    assert cost.parameters == pytest.approx(3.945e6, rel=1e-3)
    assert cost == measure(build("single_task", backbone="hrnet_w18_small_v2", tasks={"semseg": 40}), (480, 640))


@pytest.fixture
def own_data(in_tmp, root):
    """Params for a person's own data in data/own, which has no dataset.yaml yet."""
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["data"] |= {"dataset": "folder", "tasks": ["semseg", "depth"], "folder": "data/own"}
    raw["training"] |= {"backbone": "mobilenetv3_small_050", "input_size": [64, 96]}
    raw["runs"] = {"seg": {"architecture": "single_task", "tasks": ["semseg"]}}
    raw["runs"]["both"] = {"architecture": "multi_task", "tasks": ["depth"], "auxiliary_tasks": ["semseg"]}
    (in_tmp / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return in_tmp / "data" / "own"


def run(capsys, *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run_stage(stage.main, parser=stage.parser(), argv=argv)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_own_data_needs_its_description_only(own_data, capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "dataset.yaml" in err and "data.folder" in err
    own_data.mkdir(parents=True)
    (own_data / "dataset.yaml").write_text("name: mine\ntasks: [semseg, depth]\nclasses: {semseg: [a, b, c, d, e]}\n")
    code, out, err = run(capsys, "--json")
    assert (code, err) == (0, "")
    seg, both = json.loads(out)
    cost = measure(build("single_task", backbone="mobilenetv3_small_050", tasks={"semseg": 5}), (64, 96))
    assert Cost(seg["parameters"], seg["macs"], seg["activation_bytes"]) == cost
    assert (both["run"], both["architecture"], both["backbone"]) == ("both", "multi_task", "mobilenetv3_small_050")
    assert (both["tasks"], both["auxiliary_tasks"], both["input_size"]) == (["depth"], ["semseg"], [64, 96])

    code, out, _ = run(capsys, "both", "both")
    head, row = out.splitlines()
    assert code == 0 and len(head) == len(row)
    assert row.split() == [
        *("both", "multi_task", "depth", "+", "semseg", "mobilenetv3_small_050", "64x96"),
        f"{both['parameters'] / 1e6:.2f}",
        f"{both['macs'] / 1e9:.2f}",
        f"{both['activation_bytes'] / 2**20:.1f}",
        "MiB",
    ]
    with pytest.raises(DataError, match="normals"):
        dataset_info(load_params().data.model_copy(update={"tasks": ("normals",)}))


def test_an_unknown_run_is_told_before_anything_is_measured(own_data, capsys):
    code, out, err = run(capsys, "seg", "bot")
    assert (code, out) == (2, "")
    assert "unknown run 'bot'; did you mean 'both'?" in err
