"""Blocks of networks against explicit forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from pipeline.compute.resize import resize
from pipeline.networks.blocks import ResidualBlock, SqueezeExcite
from pipeline.networks.heads.multi_scale import MultiScaleHead
from pipeline.networks.sca.csam import CrossScaleAttention
from pipeline.networks.sca.ctam import CrossTaskAttention
from pipeline.networks.sca.fpma import FeaturePropagation
from pipeline.networks.sca.task_features import TaskFeatures


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
