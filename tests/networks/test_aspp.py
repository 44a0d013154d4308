"""The DeepLabV3 head against torchvision's, and its behaviour on any map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.models.segmentation import deeplabv3

from pipeline.compute.resize import resize
from pipeline.networks.heads.aspp import ASPP, RATES, ASPPHead
from pipeline.networks.registry import Backbone

pytestmark = pytest.mark.slow

CHANNELS = [[4], [6, 2]]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def scales(batch=2, size=(9, 7)):
    """Maps of two scales, the deepest of the given size."""
    fine = torch.randn(batch, 4, 2 * size[0], 2 * size[1])
    return [[fine], [torch.randn(batch, 6, *size), torch.randn(batch, 2, *size)]]


def torchvision_twin(rates):
    """torchvision's ASPP with arbitrary statistics, and ours with the same weights.

    Ours has a bias where theirs normalises the pooled vector: their batch norm is folded into it.
    """
    theirs = deeplabv3.ASPP(8, list(rates), 16)
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean):
                torch.nn.init.normal_(tensor)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    ours = ASPP(8, rates, 16)
    *convolutions, pooling = theirs.convs
    for mine, other in zip([*ours.branches[:4], ours.mix], [*convolutions, theirs.project[:3]], strict=True):
        mine.load_state_dict(other.state_dict())
    _, conv, norm, _ = pooling
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        ours.branches[4].conv.weight.copy_(conv.weight * scale[:, None, None, None])
        ours.branches[4].conv.bias.copy_(norm.bias - norm.running_mean * scale)
    return theirs.eval(), ours.eval()


def test_head_is_torchvisions():
    """ASPP, dropout, 3x3 conv + BN + ReLU, 1x1 conv; torchvision's and those of the multi-task codes."""
    theirs = deeplabv3.DeepLabHead(8, 5, RATES[16])
    ours = ASPPHead([[4], [8]], 5, 16)
    aspp, conv, norm, _, predict = theirs
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    ours.refine.load_state_dict({f"{i}.{k}": v for i, x in enumerate((conv, norm)) for k, v in x.state_dict().items()})
    ours.predict.load_state_dict(predict.state_dict())
    *convolutions, pooling = aspp.convs
    for mine, other in zip([*ours.aspp.branches[:4], ours.aspp.mix], [*convolutions, aspp.project[:3]], strict=True):
        mine.load_state_dict(other.state_dict())
    with torch.no_grad():  # the pooled vector's batch norm is at its start: a division
        ours.aspp.branches[4].conv.weight.copy_(pooling[1].weight / (1 + pooling[2].eps) ** 0.5)
        ours.aspp.branches[4].conv.bias.zero_()
    x = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        assert_close(ours.eval()([[x[:, :4]], [x]]), theirs.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", RATES)
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (40, 29)])  # below, within and above the rates
def test_agrees_with_torchvision(stride, size):
    theirs, ours = torchvision_twin(RATES[stride])
    x = torch.randn(2, 8, *size)
    with torch.no_grad():
        assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_parameters():
    head = ASPPHead([[18], [512]], 21)
    branches = 512 * 256 + 3 * 9 * 512 * 256 + 4 * 2 * 256 + 512 * 256 + 256
    assert sum(p.numel() for p in head.parameters()) == branches + (5 + 9) * 256 * 256 + 4 * 256 + 21 * 257


@pytest.mark.parametrize("stride", RATES)
@pytest.mark.parametrize("size", [(2, 1), (9, 7), (41, 27)])
def test_any_map_size_and_gradients(stride, size):
    head = ASPPHead(CHANNELS, 5, stride)
    out = head(scales(size=size))
    assert out.shape == (2, 5, *size)
    out.square().mean().backward()
    for name, p in head.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


def test_only_the_deepest_scale_is_read():
    head = ASPPHead(CHANNELS, 5).eval()
    fine, deep = scales()
    out = head([fine, deep])
    assert_close(head([[torch.randn_like(x) for x in fine], deep]), out, rtol=0, atol=0)
    for changed in ([deep[0] + 1, deep[1]], [deep[0], deep[1] + 1]):
        assert not torch.allclose(head([fine, changed]), out)


def test_dilation_reaches_as_far_as_it_says():
    head = ASPPHead([[1]], 1, 16).eval()
    x = torch.zeros(1, 1, 51, 51, requires_grad=True)
    head.aspp.branches = head.aspp.branches[:4]  # without the image's mean, which sees everything
    for rate, branch in zip((0, *RATES[16]), head.aspp.branches, strict=True):
        (gradient,) = torch.autograd.grad(branch[0](x)[0, :, 25, 25].sum(), x)
        seen = {tuple(index) for index in gradient[0, 0].nonzero().tolist()}
        assert seen == {(25 + rate * i, 25 + rate * j) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_evaluation_does_not_depend_on_the_batch():
    head = ASPPHead(CHANNELS, 5)
    given = scales(batch=3)
    head(given)  # moves the running statistics off their start
    head.eval()
    with torch.no_grad():
        alone = head([[x[1:2] for x in maps] for maps in given])
        assert_close(head(given)[1:2], alone, rtol=1e-4, atol=1e-5)


def test_batch_of_one_trains():
    out = ASPPHead(CHANNELS, 5)(scales(batch=1))
    assert out.shape[0] == 1 and out.isfinite().all()


def test_dropout_acts_in_training_only():
    head = ASPPHead([[8]], 2, dropout=0.5)
    seen = []
    head.refine.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    given = [[torch.randn(2, 8, 9, 9)]]
    kept = head.aspp(given[0][0])
    head(given)
    head.eval()(given)
    dropped = (seen[0] == 0) & (kept != 0)
    assert dropped.sum() / (kept != 0).sum() == pytest.approx(0.5, abs=0.05)
    assert_close(seen[1], head.aspp(given[0][0]))


def test_bfloat16_autocast_stays_close():
    head = ASPPHead(CHANNELS, 5).eval()
    given = scales()
    with torch.no_grad():
        exact = head(given)
        with torch.autocast("cpu", torch.bfloat16):
            rough = head(given).float()
    assert (rough - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_compiles_without_a_graph_break():
    head = ASPPHead(CHANNELS, 5).eval()
    given = scales()
    with torch.no_grad():
        assert_close(torch.compile(head, fullgraph=True, backend="eager")(given), head(given))


def test_on_a_backbone():
    backbone = Backbone("resnet18")
    head = ASPPHead([[c] for c in backbone.channels], 3, output_stride=32)
    raw = head([[x] for x in backbone(torch.randn(2, 3, 75, 91))])
    assert raw.shape == (2, 3, 3, 3)
    assert resize(raw, (75, 91)).shape == (2, 3, 75, 91)


@pytest.mark.parametrize("stride", [4, 0, 24])
def test_unknown_output_stride_is_refused(stride):
    with pytest.raises(ValueError, match=f"output_stride {stride} .* allowed: 8, 16, 32"):
        ASPPHead(CHANNELS, 5, stride)


def test_pooling_branch_is_the_mean_everywhere():
    branch = ASPPHead([[8]], 5).aspp.branches[-1]
    x = torch.randn(2, 8, 3, 4)
    vector = F.relu(x.mean((2, 3)) @ branch.conv.weight[:, :, 0, 0].T + branch.conv.bias)
    assert_close(branch(x), vector[:, :, None, None].expand(-1, -1, 3, 4))
