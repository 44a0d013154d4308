"""The heads that the baselines may have, by the name that params use."""

from torch import nn

from pipeline.networks.backbones.backbone import Backbone
from pipeline.networks.heads.aspp import ASPPHead
from pipeline.networks.heads.multi_scale import MultiScaleHead

HEADS = ("multi_scale", "aspp")


def make_head(kind: str, backbone: Backbone, out_channels: int) -> nn.Module:
    """A head on the four maps of `backbone`: [[(B, C, h, w)] of each scale] -> (B, out, h', w').

    multi_scale: HRNet's, all maps mixed at the finest. aspp: DeepLabV3's, on the deepest map alone; made for a dilated
    backbone (`output_stride` 8 or 16). Branches of an HRNet that only finer maps need then learn nothing.
    """
    channels = [[c] for c in backbone.channels]
    if kind == "aspp":
        return ASPPHead(channels, out_channels, backbone.strides[-1])
    return MultiScaleHead(channels, out_channels)
