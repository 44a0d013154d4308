"""Backbones cut into stages, between which encoder-fusion networks exchange features."""

from __future__ import annotations

import pytest
import torch

from pipeline.networks.backbones.stages import split
from pipeline.networks.cross_stitch import CrossStitch
from pipeline.networks.registry import Backbone
from tests.support.networks import (
    normal_statistics,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


BRANCHES = [(16, 32), (16, 32, 64), (16, 32, 64, 128)]
SPLITS = [  # name, image, (channels, stride) after the stem, channels after each stage and before its last block
    ("hrnet_w18_small", (75, 91), None, [(128,), *BRANCHES], [(64,), *BRANCHES]),
    ("hrnet_w18_small_v2", (64, 64), None, None, None),  # several modules in a stage
    ("resnet18", (75, 91), (64, 4), [(64,), (128,), (256,), (512,)], [(64,), (128,), (256,), (512,)]),
    ("regnetx_002", (64, 64), (32, 2), [(24,), (56,), (152,), (368,)], None),
    ("tf_efficientnet_lite0", (75, 91), (32, 2), [(24,), (40,), (112,), (320,)], [(24,), (40,), (112,), (192,)]),
    ("convnext_atto", (75, 91), (40, 4), [(40,), (80,), (160,), (320,)], [(40,), (80,), (160,), (320,)]),
    # Its maps are (B, H, W, C).
    ("swin_tiny_patch4_window7_224", (224, 224), (96, 4), [(96,), (192,), (384,), (768,)], None),
    ("vgg11", (64, 64), None, [(256,), (512,), (512,), (512,)], None),  # no stage of blocks: no stem before it
]


@pytest.mark.parametrize(("name", "size", "stem", "outputs", "inner"), SPLITS)
def test_stages_in_order_are_the_backbone(backbones, name, size, stem, outputs, inner):
    backbone = backbones(name)
    normal_statistics(backbone)
    stages = split(backbone.eval())
    image = torch.randn(1, 3, *size)
    found = []
    with torch.no_grad():
        maps = stages.start(image)
        sides = maps[0].shape[-2:]
        maps = stages.stem(backbone, maps)
        described = stages.after_stem
        assert (None if described is None else (*described.channels, *described.strides)) == stem
        if stem:
            assert tuple(maps[0].shape[1:]) == (stem[0], sides[0] // stem[1], sides[1] // stem[1])
        for stage, (before, after) in enumerate(zip(stages.inner, stages.outputs, strict=True)):
            for step, described in ((stages.trunk, before), (stages.last, after)):
                maps = step(backbone, stage, maps)
                expected = [
                    (c, sides[0] // s, sides[1] // s) for c, s in zip(*described.__dict__.values(), strict=True)
                ]
                assert [tuple(x.shape[1:]) for x in maps] == expected
            found.append(maps)
        whole = backbone(image)
    assert all(torch.equal(a, b) for a, b in zip(stages.pyramid(found), whole, strict=True))
    assert outputs is None or [maps.channels for maps in stages.outputs] == outputs
    assert inner is None or [maps.channels for maps in stages.inner] == inner


@pytest.mark.parametrize(
    ("name", "why"), [("twins_svt_small", "module after module"), ("selecsls42", "more than one map")]
)
def test_backbone_that_cannot_be_split_is_refused(name, why):
    with pytest.raises(ValueError, match=f"{why}.*resnet18"):
        CrossStitch(Backbone(name), {"semseg": 5, "depth": 1}, {})
