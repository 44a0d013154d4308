"""What the released codes do and timm or textbooks don't: initialisation, batch norm's momentum, HRNet's exchange."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.networks.blocks import PredictionConv
from pipeline.networks.nddr_cnn import NDDR
from pipeline.networks.registry import Backbone, build
from pipeline.networks.sca.attention import CrossAttention

SMALL = "hrnet_w18_small"
TASKS = {"semseg": 5, "depth": 1}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def decoder_convolutions(net):
    """{name: convolution} outside the backbone; those of attention (Xavier when released) apart."""
    found = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and not n.startswith("backbone.")}
    cams = [n for n, m in net.named_modules() if isinstance(m, CrossAttention)]
    attention = {n: m for n, m in found.items() if any(n.startswith(f"{cam}.") for cam in cams)}
    return {n: m for n, m in found.items() if n not in attention}, attention


def deviations(convolutions, scale):
    """Standard deviation of the larger weights relative to scale / sqrt(fan in)."""
    large = [c for c in convolutions.values() if c.weight.numel() > 2000]
    assert large
    return [c.weight.std().item() * math.sqrt(c.weight[0].numel()) / scale for c in large]


def test_released_decoders_start_as_torch_makes_them_and_attention_by_xavier():
    net = build("sequential_attention", backbone=SMALL, tasks=TASKS)
    others, attention = decoder_convolutions(net)
    # torch: uniform within +- 1 / sqrt(fan in), whose deviation is a 1 / sqrt(3) of that; biases within the same.
    assert deviations(others, 1 / math.sqrt(3)) == pytest.approx([1] * len(deviations(others, 1)), rel=0.1)
    for name, conv in others.items():
        bound = 1 / math.sqrt(conv.weight[0].numel())
        assert conv.weight.abs().max() <= bound, name
        if conv.bias is not None and conv.bias.numel() > 4:
            assert 0 < conv.bias.abs().max() <= bound, name
    # Xavier: deviation sqrt(2 / (fan in + fan out)), which is 1 / sqrt(fan in) where both are the same.
    assert deviations(attention, 1) == pytest.approx([1] * len(deviations(attention, 1)), rel=0.1)


@pytest.mark.slow
def test_he_starts_are_larger_by_the_factors_of_the_fact_sheet():
    nets = []
    for initialization in ("released", "he"):
        nets.append(build("sequential_attention", backbone=SMALL, tasks=TASKS, initialization=initialization))
    (released, released_cam), (he, he_cam) = map(decoder_convolutions, nets)
    hidden = [n for n, c in released.items() if not isinstance(c, PredictionConv) and c.weight.numel() > 2000]
    assert [(he[n].weight.std() / released[n].weight.std()).item() for n in hidden] == pytest.approx(
        [math.sqrt(6)] * len(hidden), rel=0.1
    )
    cams = [n for n, c in released_cam.items() if c.weight.numel() > 2000]
    assert [(he_cam[n].weight.std() / released_cam[n].weight.std()).item() for n in cams] == pytest.approx(
        [math.sqrt(2)] * len(cams), rel=0.15
    )
    for conv in he.values():
        assert conv.bias is None or not conv.bias.any()
        if isinstance(conv, PredictionConv) and conv.weight.numel() > 100:
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize("initialization", ["released", "he"])
@pytest.mark.slow
def test_window_attention_starts_small_and_what_starts_itself_is_left_alone(initialization):
    net = build("nddr_cnn", backbone="resnet18", tasks=TASKS, initialization=initialization)
    unit = next(m for m in net.modules() if isinstance(m, NDDR))
    assert_close(unit.reduce["depth"][0].weight[:, :, 0, 0].sum(1), torch.ones(unit.reduce["depth"][0].out_channels))
    sca = build("sequential_attention", backbone=SMALL, tasks=TASKS, initialization=initialization)
    layer = sca.att[3].blocks[0].attention.qkv
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1) and not layer.bias.any()
    torch.manual_seed(5)
    alone = Backbone(SMALL)
    torch.manual_seed(5)
    assert_close(build("multi_task", backbone=SMALL, tasks=TASKS).backbone.state_dict(), alone.state_dict())


def momenta(module):
    return {round(m.momentum, 6) for m in module.modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.slow
def test_momentum_is_that_of_the_released_networks():
    net = build("sequential_attention", backbone=SMALL, tasks=TASKS)
    assert momenta(net.backbone) == momenta(net.ctam[0].reduce) == momenta(net.ctam[3].reduce) == {0.01}
    assert momenta(net.ctam[0].attention) == momenta(net.features) == momenta(net.heads) == momenta(net.fpma) == {0.1}
    query = net.csam["depth"].attention[0][0].query  # asked three times in a step: 1 - 0.9^3
    assert momenta(query) == {0.271} and momenta(net.csam["depth"].attention[2][0].query) == {0.1}
    nddr = build("nddr_cnn", backbone="resnet18", tasks=TASKS)
    assert momenta(nddr.fuse) == {0.05} and momenta(nddr.backbones) == momenta(nddr.heads) == {0.1}


@pytest.mark.slow
def test_one_momentum_for_all():
    assert momenta(build("multi_task", backbone=SMALL, tasks=TASKS, batch_norm_momentum=0.2)) == {0.2}


@pytest.mark.slow
def test_nearest_is_timms_hrnet_and_bilinear_is_another_network_with_the_same_weights():
    image = torch.rand(2, 3, 64, 96)
    nets = {upsampling: Backbone(SMALL, hrnet_upsampling=upsampling).eval() for upsampling in ("bilinear", "nearest")}
    nets["nearest"].load_state_dict(nets["bilinear"].state_dict())
    theirs = timm.create_model(SMALL, features_only=True, feature_location="", out_indices=(1, 2, 3, 4)).eval()
    theirs.load_state_dict(nets["bilinear"].net.state_dict())
    with torch.no_grad():
        maps = {upsampling: net(image) for upsampling, net in nets.items()}
        assert_close(maps["nearest"], theirs(image))
    apart = [((a - b).norm() / b.norm()).item() for a, b in zip(*maps.values(), strict=True)]
    assert min(apart) > 1e-3 and apart[0] > 0.02


@pytest.mark.slow
def test_the_exchange_is_the_sum_of_branches_upsampled_bilinearly():
    net = Backbone(SMALL).double().eval()
    unit = net.net.stage3[-1]
    maps = [torch.randn(2, c, 32 >> k, 24 >> k, dtype=torch.double) for k, c in enumerate(net.channels[:3])]
    branches = [branch(x) for branch, x in zip(unit.branches, maps, strict=True)]
    finest = branches[0]
    for j in (1, 2):
        conv, norm = unit.fuse_layers[0][j][:2]
        x = norm(conv(branches[j]))
        finest = finest + nn.functional.interpolate(x, scale_factor=2**j, mode="bilinear", align_corners=False)
    assert_close(unit(list(maps))[0], finest.relu())


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
@pytest.mark.slow
def test_weights_load_whichever_way_the_exchange_upsamples(upsampling, tmp_path):
    file = tmp_path / "hrnet.pth"
    torch.save(timm.create_model(SMALL).state_dict(), file)  # the classification model, as ImageNet weights come
    backbone = Backbone(SMALL, str(file), hrnet_upsampling=upsampling)
    assert len(backbone.load_report.matched) > 300 and not backbone.load_report.missing
    assert_close(backbone.net.conv1.weight.data, torch.load(file)["conv1.weight"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"hrnet_upsampling": "cubic"}, "hrnet_upsampling 'cubic'; allowed: bilinear, nearest"),
        ({"initialization": "xavier"}, "Unknown initialization: 'xavier'. Allowed: released, he"),
    ],
)
@pytest.mark.slow
def test_other_values_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        build("multi_task", backbone=SMALL, tasks=TASKS, **arguments)
