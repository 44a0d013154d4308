"""Backbones: the same contract for every family of models, at any image size, and what is refused."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pipeline.networks.backbones.backbone import _describe
from pipeline.networks.backbones.pyramid import SimplePyramid
from pipeline.networks.registry import Backbone
from tests.support.narrow_vit import NARROW_VIT, WIDTH

pytestmark = pytest.mark.slow

STRIDES = [4, 8, 16, 32]
CONVOLUTIONAL = {
    "resnet18": [64, 128, 256, 512],
    "regnetx_002": [24, 56, 152, 368],
    "hrnet_w18_small": [16, 32, 64, 128],
    "convnext_atto": [40, 80, 160, 320],
    "tf_efficientnet_lite0": [24, 40, 112, 320],
    "mobilenetv3_small_050": [8, 16, 24, 288],
}
SWIN = {name: [96, 192, 384, 768] for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256")}
PLAIN = {
    name: [256] * 4
    for name in (
        "vit_tiny_patch16_224",
        "vit_small_patch14_dinov2",
        "vit_small_patch16_dinov3",
        "eva02_tiny_patch14_224",
        "xcit_nano_12_p8_224",  # a patch of 8 pixels
        "vit_tiny_r_s16_p8_224",  # and one of 32, behind convolutions
    )
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sizes(maps):
    return [tuple(x.shape) for x in maps]


@pytest.mark.parametrize(("name", "channels"), (CONVOLUTIONAL | SWIN | PLAIN).items())
def test_every_family_gives_four_maps_of_any_image_and_learns(name, channels):
    backbone = Backbone(name)
    assert backbone.channels == channels and backbone.strides == STRIDES and backbone.training
    for height, width in ((75, 91), (64, 96)):
        backbone.zero_grad()
        maps = backbone(torch.randn(1, 3, height, width))
        enlarged = [math.ceil(side / 32) * 32 for side in (height, width)]
        expected = [(1, c, enlarged[0] // s, enlarged[1] // s) for c, s in zip(channels, STRIDES, strict=True)]
        assert sizes(maps) == expected
        sum((x * torch.randn_like(x)).sum() for x in maps).backward()
        gradients = {key: p.grad for key, p in backbone.named_parameters()}
        assert not [key for key, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]


def test_the_largest_hrnet_has_the_published_widths():
    with torch.device("meta"):  # no memory, no arithmetic
        backbone = Backbone("hrnet_w48")
    assert backbone.channels == [48, 96, 192, 384]
    # 65.8 M in HRNet's table for segmentation, of which the head (1x1 convolutions 720 -> 720 -> 19) has 0.53 M.
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(65.3e6, rel=0.005)


def test_building_draws_the_same_numbers_and_moves_no_statistics():
    states = []
    for _ in range(2):
        _describe.cache_clear()
        for _ in range(2):  # the model is described once, and then known
            torch.manual_seed(7)
            states.append(Backbone("tf_efficientnet_lite0").state_dict())
    assert all(torch.equal(states[0][key], other[key]) for other in states[1:] for key in states[0])
    fresh = timm.create_model("tf_efficientnet_lite0", features_only=True).state_dict()
    statistics = [key for key in fresh if "running" in key or "num_batches" in key]
    assert statistics and all(torch.equal(states[0][f"net.{key}"], fresh[key]) for key in statistics)


# ---- dilation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_computes_the_same_maps_more_densely(output_stride):
    """Without its strides, a stage computes all the positions that the strided one skipped: the a trous algorithm."""
    plain = Backbone("resnet18").double().eval()
    dilated = Backbone("resnet18", output_stride=output_stride).double().eval()
    dilated.load_state_dict(plain.state_dict())
    assert dilated.strides == [min(stride, output_stride) for stride in STRIDES]
    image = torch.randn(1, 3, 96, 128, dtype=torch.double)
    with torch.no_grad():
        sparse, dense = plain(image), dilated(image)
    for x, y, stride, kept in zip(sparse, dense, STRIDES, dilated.strides, strict=True):
        assert y.shape[-2:] == (96 // kept, 128 // kept)
        assert_close(y[:, :, :: stride // kept, :: stride // kept], x)


@pytest.mark.parametrize("name", ["regnetx_002", "convnext_atto", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_other_families_can_be_dilated(name):
    maps = Backbone(name, output_stride=8)(torch.randn(2, 3, 75, 91))
    assert [x.shape[-2:] for x in maps] == [(24, 24), (12, 12), (12, 12), (12, 12)]


# ---- transformers against timm's own models for one size ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("swin_tiny_patch4_window7_224", [224, 448, 224]),  # its last map is one window, then four, then one
        ("swinv2_tiny_window8_256", [256, 512]),
    ],
)
def test_swin_is_timms_standard_model_for_each_size(name, sides):
    backbone = Backbone(name).eval()
    for side in sides:
        fixed = timm.create_model(name, features_only=True, img_size=side).eval()
        fixed.load_state_dict(backbone.net.state_dict())
        image = torch.randn(1, 3, side, side)
        with torch.no_grad():
            for ours, theirs in zip(backbone(image), fixed(image), strict=True):
                assert_close(ours, theirs.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "side"),
    [("vit_tiny_patch16_224", 224), ("vit_small_patch14_dinov2", 96)],
)
def test_a_plain_vits_map_is_its_normalised_tokens(name, side):
    backbone = Backbone(name).eval()
    patches = side // 16  # also for a patch of 14: the image is resized to as many of them
    pixels = patches * backbone.patch
    dynamic = {} if side == 224 else {"dynamic_img_size": True}
    fixed = timm.create_model(name, num_classes=0, **dynamic).eval()
    fixed.load_state_dict(backbone.net.model.state_dict())
    image = torch.randn(1, 3, side, side)
    resized = F.interpolate(image, size=(pixels, pixels), mode="bilinear", align_corners=False)
    with torch.no_grad():
        tokens = fixed.forward_features(resized)[:, -(patches**2) :]
        maps = backbone(image)
    assert_close(backbone.pyramid(tokens.transpose(1, 2).unflatten(2, (patches, patches))), maps)


@pytest.mark.parametrize(("name", "side"), [(NARROW_VIT, 64), ("vit_small_patch14_dinov2", 96)])
def test_four_depths_are_what_comes_out_of_those_blocks(name, side):
    """The last one through the final norm, the others not."""
    backbone = Backbone(name, vit_maps="depths", image_size=(side, side)).eval()
    model, patches = backbone.net.model, side // 16
    assert backbone.strides == [16] * 4 and backbone.channels == [model.num_features] * 4
    found = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: found.append(output[:, -(patches**2) :]))
    model.norm.register_forward_hook(lambda module, inputs, output: found.append(output.flatten(1, 2)))
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, side, side))
    depth = len(model.blocks)
    taken = {6: (0, 2, 3), 12: (2, 5, 8)}[depth]  # after 1, 3 and 4 of 6, and 3, 6 and 9 of 12
    expected = [*(found[index] for index in taken), F.layer_norm(found[depth - 1], (model.num_features,), eps=1e-6)]
    assert_close([x.flatten(2).transpose(1, 2) for x in maps], expected)


def test_depths_have_position_embeddings_for_the_image_size():
    made = {size: Backbone(NARROW_VIT, vit_maps="depths", image_size=size) for size in (None, (96, 128), (90, 100))}
    positions = {size: each.net.model.pos_embed.shape[1] - 1 for size, each in made.items()}
    assert positions == {None: 4 * 4, (96, 128): 6 * 8, (90, 100): 6 * 8}  # 90x100 is enlarged to 96x128
    other = Backbone("vit_small_patch14_dinov2", vit_maps="depths", image_size=(64, 96))
    assert other.net.model.pos_embed.shape[1] - 1 == 4 * 6
    assert sizes(made[96, 128](torch.randn(1, 3, 64, 32))) == [(1, WIDTH, 4, 2)] * 4


# ---- the simple feature pyramid ----------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_pyramid_sizes(stride):
    pyramid = SimplePyramid(24, stride, STRIDES, 6)
    maps = pyramid(torch.randn(2, 24, 64 // stride * 2, 64 // stride * 4))
    assert sizes(maps) == [(2, 6, 128 // s, 256 // s) for s in STRIDES]
    assert [x.shape[1] for x in maps] == pyramid.out_channels


def test_pyramid_written_out():
    pyramid = SimplePyramid(12, 16, STRIDES, 5)
    x = torch.randn(2, 12, 4, 6)

    def norm(y, layer):
        return F.layer_norm(y.permute(0, 2, 3, 1), (y.shape[1],), layer.weight, layer.bias, 1e-6).permute(0, 3, 1, 2)

    def end(y, conv1, norm1, conv3, norm3):
        y = norm(F.conv2d(y, conv1.weight), norm1)
        return norm(F.conv2d(y, conv3.weight, padding=1), norm3)

    up, up_norm, _, again, *rest = pyramid[0]
    y = F.gelu(norm(F.conv_transpose2d(x, up.weight, up.bias, stride=2), up_norm))
    finest = end(F.conv_transpose2d(y, again.weight, again.bias, stride=2), *rest)
    up, *rest = pyramid[1]
    finer = end(F.conv_transpose2d(x, up.weight, up.bias, stride=2), *rest)
    pooled = x.unflatten(3, (3, 2)).unflatten(2, (2, 2)).amax((3, 5))
    assert_close(pyramid(x), [finest, finer, end(x, *pyramid[2]), end(pooled, *list(pyramid[3])[1:])])


def test_pyramid_keeps_places():
    """A change at one token shows at the pixels that it covers, and at most one 3x3 convolution beyond."""
    pyramid = SimplePyramid(8, 16, STRIDES, 4).eval()
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[..., 4, 2] += 5
    for before, after, stride in zip(pyramid(x), pyramid(changed), STRIDES, strict=True):
        rows, columns = (before != after).any(1)[0].nonzero().T
        for found, token in ((rows, 4), (columns, 2)):
            first, last = token * 16 // stride, (token * 16 + 15) // stride
            assert (found.min(), found.max()) == (first - 1, last + 1)


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "output_stride", "says"),
    [
        ("resnet81", 32, "Unknown backbone 'resnet81'. Nearest: .*resnet18"),
        ("resnet18.a1", 32, r"Unknown backbone 'resnet18\.a1'\. Nearest: .*resnet18\.a1_in1k"),
        ("resnet18", 4, "output_stride 4; allowed: 32, 16, 8"),
        ("hrnet_w18_small", 8, "'hrnet_w18_small' cannot have output_stride 8 in timm"),
        ("swin_tiny_patch4_window7_224", 16, "'swin_tiny_patch4_window7_224' cannot have output_stride 16"),
        ("vit_tiny_patch16_224", 16, "'vit_tiny_patch16_224' is a plain ViT: its output_stride is 32"),
        ("nest_tiny", 32, r"'nest_tiny' has maps at strides \[4, 8, 16\]; needed are \[4, 8, 16, 32\]"),
        ("mixer_s32_224", 32, "'mixer_s32_224' does not take images of any size.*Choose for example one of"),
        ("efficientformerv2_s0", 32, "'efficientformerv2_s0' does not take images of any size"),
    ],
)
def test_unsuitable_backbones_are_refused_by_name(name, output_stride, says):
    with pytest.raises(ValueError, match=says):
        Backbone(name, output_stride=output_stride)


def test_depths_of_what_has_none_are_refused_by_name():
    with pytest.raises(ValueError, match="vit_maps: depths takes a plain ViT, for example vit_large_patch16_384, not"):
        Backbone("hrnet_w18_small", vit_maps="depths")
    with pytest.raises(ValueError, match="vit_maps 'depth'; allowed: pyramid, depths"):
        Backbone(NARROW_VIT, vit_maps="depth")
    with pytest.raises(ValueError, match="'vit_narrow' is a plain ViT: its output_stride is 32"):
        Backbone(NARROW_VIT, output_stride=16, vit_maps="depths")
