"""InvPT: its blocks against explicit forms, its size by arithmetic, the behaviour of the whole network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.invpt.blocks import HEADS, DecoderBlock, HalvedQuery, JointAttention, Upsample
from pipeline.networks.invpt.network import InvPT, Preliminary, Stage
from tests.support.narrow_vit import NARROW_VIT
from tests.support.narrow_vit import WIDTH as VIT_WIDTH
from tests.support.networks import Fixed, parameters

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


def build(tasks, auxiliary, width=64):
    return InvPT(Backbone(SMALL), tasks, auxiliary, width=width)


# ---- whole networks ----------------------------------------------------------------------------------------


def test_decoder_stays_close_in_bfloat16():
    net = build({"semseg": 5, "depth": 1}, {})
    image = torch.randn(2, 3, 64, 96)
    maps = net.backbone(image)
    net.backbone = Fixed(net.backbone.channels, maps)  # at initialisation a backbone's own rounding would drown it
    with torch.no_grad():
        exact = net(image).final
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(image).final
    for task, x in exact.items():  # measured 0.004 to 0.006
        assert (rough[task].float() - x).abs().mean() < 0.02 * x.abs().mean()


@pytest.mark.parametrize(
    ("backbone", "size"), [("tf_efficientnet_lite0", 64), ("swin_tiny_patch4_window7_224", 224), ("convnext_atto", 75)]
)
def test_takes_other_backbones_and_a_batch_of_one(backbone, size):
    net = InvPT(Backbone(backbone), {"semseg": 5, "depth": 1}, {}, width=64)
    assert net(torch.randn(1, 3, size, size)).final["depth"].shape == (1, 1, size, size)


# ---- size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(("tasks", "auxiliary"), TASK_SETS)
def test_parameters_of_each_part(tasks, auxiliary, width):
    with torch.device("meta"):  # shapes are enough
        net = build(tasks, auxiliary, width)
    everything = {**tasks, **auxiliary}
    full, count, main = width * 9 // 8, len(everything), len(tasks)
    c1, c2, c3, c4 = 16, 32, 64, 128

    def block(c, targets, receives):
        attention = targets * (9 * c + 2 * c) + 4 * c * c + 3 * c + 8 * receives
        return attention + 8 * c * c + 5 * c + 4 * c

    def stage(c, skip, targets):
        up = count * (9 * 2 * c * c + 9 * c * c + 4 * c)
        return up + 9 * skip * c + c + block(c, targets, True) + 2 * main * c + main * (c * full + full)

    decode = 9 * c4 * c4 + 2 * c4 + 9 * c4 * width + 2 * width
    stages = [
        block(full, count, False) + 2 * main * full,
        stage(full // 2, c3, count),
        stage(full // 4, c2, main),
    ]
    assert [parameters(part) for part in net.stages] == stages
    assert {name: parameters(part) for name, part in net.named_children() if name != "backbone"} == {
        "preliminary": sum(decode + n * (width + 1) + (width + n + 1) * full for n in everything.values()),
        "stages": sum(stages),
        "skip": 9 * c1 * full + full,
        "mix": main * (9 * full * full + 2 * full),
        "heads": sum(n * (full + 1) for n in tasks.values()),
    }


# ---- blocks against explicit forms -------------------------------------------------------------------------


def explicit_attention(block, x, message=None):
    """One task, head, query and key at a time. x (B, T, H, W, C) -> (B, T', h, w, C), scores (list over B)."""
    height, width, channels = x.shape[2:]
    size = channels // HEADS
    outs, all_scores = [], []
    for b, image in enumerate(x):
        cells = [
            task[i : i + block.pool, j : j + block.pool].flatten(0, 1).mean(0)
            for task in image
            for i in range(0, height, block.pool)
            for j in range(0, width, block.pool)
        ]
        keys, values = block.key(torch.stack(cells)), block.value(torch.stack(cells))
        halved = [halve(image[t].permute(2, 0, 1)[None])[0].permute(1, 2, 0) for t, halve in enumerate(block.halve)]
        queries = block.query(torch.stack(halved))
        scores = torch.zeros(HEADS, *queries.shape[:3], len(cells))
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            for n in range(len(cells)):
                scores[head, ..., n] = (queries[..., part] * keys[n, part]).sum(-1) / channels**0.5
        if message is not None:
            received = torch.zeros_like(scores)
            for head, task, n in torch.cartesian_prod(*(torch.arange(s) for s in (HEADS, len(queries), len(cells)))):
                coarse = message[b, head, task, :, :, n]
                received[head, task, :, :, n] = F.interpolate(
                    coarse[None, None], size=queries.shape[1:3], mode="bilinear", align_corners=False
                )[0, 0]
            own, other = block.mix.weight[:, :HEADS, 0, 0], block.mix.weight[:, HEADS:, 0, 0]
            mixed = [sum(own[o, i] * scores[i] + other[o, i] * received[i] for i in range(HEADS)) for o in range(HEADS)]
            scores = torch.stack(mixed)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        heads = [weights[head] @ values[:, head * size : (head + 1) * size] for head in range(HEADS)]
        outs.append(block.project(torch.cat(heads, -1)))
        all_scores.append(scores)
    return torch.stack(outs), torch.stack(all_scores)


@pytest.mark.parametrize("targets", [2, 1])
@pytest.mark.parametrize("size", [(6, 4), (3, 5), (7, 6), (2, 2)])
def test_joint_attention_is_the_explicit_one(size, targets):
    first = JointAttention(8, tasks=2, targets=2, pool=2, receives=False).eval()
    second = JointAttention(4, tasks=2, targets=targets, pool=4, receives=True).eval()
    for block in (first, second):
        for layer in (block.query, block.key):
            torch.nn.init.normal_(layer.weight)  # weights far from uniform
    coarse, fine = torch.randn(2, 2, *size, 8), torch.randn(2, 2, 2 * size[0], 2 * size[1], 4)
    with torch.no_grad():
        out, message = first(coarse, None)
        expected, expected_message = explicit_attention(first, coarse)
        assert_close((out, message), (expected, expected_message), rtol=1e-4, atol=1e-5)
        assert_close(second(fine, message), explicit_attention(second, fine, message), rtol=1e-4, atol=1e-5)


def test_attention_normalises_many_keys_in_half_precision():
    # 1800 equal scores and values of 1: the answer is 1; a bfloat16 sum of 1800 ones would stall at 256.
    block = JointAttention(4, tasks=2, targets=2, pool=2, receives=False).eval()
    for layer in (block.query, block.key, block.value, block.project):
        torch.nn.init.zeros_(layer.weight)
    torch.nn.init.ones_(block.value.bias)
    torch.nn.init.eye_(block.project.weight)
    torch.nn.init.zeros_(block.project.bias)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out, _ = block(torch.randn(1, 2, 60, 60, 4), None)
    assert_close(out.float(), torch.ones(1, 2, 30, 30, 4), rtol=1e-2, atol=0)


def test_attention_reaches_every_position_of_every_task():
    block = DecoderBlock(8, tasks=3, targets=2, pool=2, receives=False).eval()
    x = torch.randn(1, 3, 6, 8, 8)
    for source in range(3):
        changed = x.clone()
        changed[:, source, -1, -1] += 3 * torch.randn(8)
        with torch.no_grad():
            moved = (block(changed, None)[0] - block(x, None)[0]).abs().amax(-1)
        assert moved.shape == (1, 2, 6, 8) and (moved > 0).all()


def test_decoder_block_adds_to_what_it_got():
    block = DecoderBlock(8, tasks=3, targets=2, pool=2, receives=False).eval()
    x = torch.randn(2, 3, 5, 6, 8)
    with torch.no_grad():
        gathered, _ = block.attention(F.layer_norm(x, (8,)), None)
        out, _ = block(x, None)
        for task in range(2):
            wide = F.interpolate(gathered[:, task].permute(0, 3, 1, 2), size=(5, 6), mode="bilinear")
            y = x[:, task] + wide.permute(0, 2, 3, 1)
            y = y + block.mlp.fc2(F.gelu(block.mlp.fc1(F.layer_norm(y, (8,)))))
            assert_close(out[:, task], y)


def test_query_is_halved_unless_one_pixel_would_be_left():
    halve = HalvedQuery(4)
    for size, expected in (((2, 2), (2, 2)), ((1, 2), (1, 2)), ((3, 3), (2, 2)), ((2, 3), (1, 2)), ((8, 5), (4, 3))):
        assert halve(torch.randn(2, 4, *size)).shape[-2:] == expected


def test_upsample_convolves_the_enlarged_map_with_dilation():
    up = Upsample(6, 4).eval()
    x = torch.randn(2, 6, 3, 5)
    y = F.interpolate(x, size=(6, 10), mode="bilinear", align_corners=False)
    for conv in (up[0], up[3]):
        y = (F.conv2d(y, conv.weight, padding=2, dilation=2) / (1 + 1e-5) ** 0.5).relu()
    assert_close(up(x, (6, 10)), y)


def test_preliminary_features_hold_the_prediction():
    module = Preliminary(8, 6, 4, 3).eval()
    x = torch.randn(2, 8, 5, 7)
    combined, prediction = module(x)
    features = module.blocks(x)
    assert_close(prediction, F.conv2d(features, module.predict.weight, module.predict.bias))
    own, predicted = module.combine.weight.split([6, 3], 1)
    assert_close(combined, F.conv2d(features, own, module.combine.bias) + F.conv2d(prediction, predicted))


def test_stage_written_out():
    # Three tasks, of which the first two are main ones: a last stage, whose targets are those two.
    stage = Stage(1, channels=4, full=8, tasks=3, targets=2, outputs=2, in_channels=8, skip_channels=5).eval()
    x, skip = torch.randn(2, 3, 3, 4, 8), torch.randn(2, 5, 6, 8)
    message = torch.randn(2, HEADS, 3, 2, 2, 3 * 4)
    with torch.no_grad():
        out, scores, given = stage(x, message, skip)
        extra = F.conv2d(skip, stage.skip.weight, stage.skip.bias, padding=1)
        raised = [stage.up[t](x[:, t].permute(0, 3, 1, 2), (6, 8)) + extra for t in range(3)]
        expected, expected_scores = stage.block(torch.stack([m.permute(0, 2, 3, 1) for m in raised], 1), message)
        assert out.shape == (2, 2, 6, 8, 4) and scores.shape == (2, HEADS, 2, 3, 4, 12)
        assert_close((out, scores), (expected, expected_scores))
        both = torch.cat([expected[:, 0], expected[:, 1]], -1)
        both = (both - both.mean(-1, keepdim=True)) / (both.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        for t in range(2):
            own = both[..., 4 * t : 4 * t + 4].permute(0, 3, 1, 2)
            assert_close(given[t], F.conv2d(own, stage.widen[t].weight, stage.widen[t].bias))


def test_final_features_are_the_sum_of_all_stages_and_the_finest_map():
    net = build({"semseg": 5}, {"edge": 1}).eval()
    seen = []
    for module in (net.skip, *(stage.widen[0] for stage in net.stages)):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net.mix["semseg"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net(torch.randn(1, 3, 96, 64))
    skip, *given, total = seen
    assert [tuple(x.shape[1:]) for x in given] == [(72, 3, 2), (72, 6, 4), (72, 12, 8)]
    assert skip.shape == total.shape == (1, 72, 24, 16)
    assert_close(total, skip + sum(F.interpolate(x, size=(24, 16), mode="bilinear") for x in given))


# ---- on four depths of a plain ViT; the whole function: tests/adopt/test_adopt_invpt.py ----------------------------


def on_depths(backbone):
    return InvPT(backbone, {"semseg": 5}, {"edge": 1}, width=64, vit_maps="depths")


def test_depths_are_halved_added_and_doubled():
    net = on_depths(Backbone(NARROW_VIT, vit_maps="depths")).eval()
    assert isinstance(net.stages[2].skip, torch.nn.ConvTranspose2d) and net.skip is None
    assert [net.stages[k].skip.in_channels for k in (1, 2)] == [VIT_WIDTH] * 2
    maps = [torch.randn(1, VIT_WIDTH, 6, 4) for _ in range(4)]
    seen = {}
    decoded = net.preliminary["semseg"]
    for name, module in (("coarse", decoded), ("fine", net.stages[1].skip), ("finest", net.stages[2].skip)):
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: (*inputs, output)}))
    for k, stage in enumerate(net.stages):
        stage.widen[0].register_forward_hook(lambda module, inputs, output, k=k: seen.update({k: output}))
    net.mix["semseg"].register_forward_pre_hook(lambda module, inputs: seen.update(total=inputs[0]))
    net.backbone = Fixed([VIT_WIDTH] * 4, maps)
    with torch.no_grad():
        outputs = net(torch.randn(1, 3, 96, 64))
    assert_close(seen["coarse"][0], F.avg_pool2d(maps[3], 2))  # a bilinear half is the mean of four
    assert seen["fine"][0] is net.backbone.maps[1] and seen["fine"][1].shape == (1, 36, 6, 4)
    assert seen["finest"][0] is net.backbone.maps[0] and seen["finest"][1].shape == (1, 18, 12, 8)
    assert_close(seen["total"], sum(F.interpolate(seen[k], size=(24, 16), mode="bilinear") for k in range(3)))
    assert outputs.final["semseg"].shape == (1, 5, 96, 64) and list(outputs.auxiliary[0]) == ["semseg", "edge"]


@pytest.mark.parametrize(
    ("backbone", "vit_maps", "says"),
    [
        (
            "xcit_nano_12_p8_224",
            "depths",
            r"a plain ViT with patches of 16 .* not maps of strides \[8, 8, 8, 8\]",
        ),
        (NARROW_VIT, "pyramid", r"not maps of strides \[4, 8, 16, 32\]. Choose for example vit_large_patch16_384"),
    ],
)
def test_depths_are_refused_of_other_maps(backbone, vit_maps, says):
    with pytest.raises(ValueError, match=says):
        on_depths(Backbone(backbone, vit_maps=vit_maps))
