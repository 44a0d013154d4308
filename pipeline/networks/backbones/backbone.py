"""Backbones: any timm feature extractor, convolutional or transformer, as maps of four scales."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import timm
import torch
from timm.models import FeatureInfo
from timm.models.hrnet import HighResolutionNetFeatures
from torch import Tensor, nn

from pipeline.compute.resize import resize
from pipeline.networks.backbones.plain_vit import VIT_MAPS, FourDepths, LastMap, PlainViT, nominal_stride
from pipeline.networks.backbones.pyramid import SimplePyramid
from pipeline.networks.blocks import set_momentum
from pipeline.networks.pairing import LoadReport, TimmOptions
from pipeline.networks.pretrained import load_pretrained

STRIDES = (4, 8, 16, 32)
OUTPUT_STRIDES = (32, 16, 8)
UPSAMPLINGS = ("bilinear", "nearest")
HRNET_MOMENTUM = 0.01  # of HRNet's batch norms in its authors' code and in all that use it; timm has torch's 0.1
RELEASED_VIT = "vit_large_patch16_384"  # InvPT's
SUITABLE = "hrnet_w18_small_v2, resnet50, convnext_tiny, swin_tiny_patch4_window7_224, vit_small_patch14_dinov2"

# What makes a model that expects one image size take any: the first of these that its constructor knows. Swin: masks
# for the size at hand, and windows of full size at the coarsest scale too; `_fit_shift` shifts them where there is more
# than one, which on the 224x224 of its training there is not.
# Plain ViT: position embeddings resampled in every forward pass.
ANY_SIZE: tuple[TimmOptions, ...] = (
    {"strict_img_size": False, "always_partition": True},
    {"dynamic_img_size": True},
    {},
)
# What timm raises for an option or an image that a model does not take. It has no error of its own, and every family
# fails in its own way: an unknown option (TypeError), no dilation or features (NotImplementedError, RuntimeError), a
# size (AssertionError, ValueError), a part that is missing (AttributeError, IndexError).
TIMM_ERRORS = (RuntimeError, AttributeError, NotImplementedError, TypeError, AssertionError, ValueError, IndexError)


class Backbone(nn.Module):
    """Image (B, 3, H, W) -> four maps (B, C_k, H' / stride_k, W' / stride_k), fine to coarse.

    H', W' are H, W rounded up to multiples of 32, and the image is first enlarged (bilinear) to them: HRNet accepts
    nothing else, and this way every map covers exactly the extent of the image, with no border to crop.

    A plain ViT has one map, of the stride of its patches; `SimplePyramid` makes the four maps of it, 256 channels
    each. A patch of 14 pixels (DINOv2) stands for one of 16: the image is resized to 14/16 of (H', W'), so that all
    sizes are those of any other backbone. `vit_maps: depths` takes the maps of four depths instead, all of the stride
    of its patches (`FourDepths`).

    name: a timm model. Tests run ResNet, RegNet, HRNet, ConvNeXt, EfficientNet, MobileNetV3, Swin (v1, v2), and plain
        ViT, DINOv2, DINOv3, EVA-02 and XCiT. Many more will do; one that does not is refused.
    pretrained: False, True (timm's hub) or the path of a weights file; see `pretrained.py`. The pyramid is always new.
    output_stride: 32, or 16 or 8 where timm's model can (ResNet, RegNet, ConvNeXt, EfficientNet, ...): no map is
        coarser, and the stages that would be are dilated (Chen et al., arXiv:1706.05587, section 3.1). The strides
        are then [4, 8, 8, 8] for 8: no map may be taken to be half as large as the one before.
    hrnet_upsampling: how an HRNet's exchange units bring coarser branches to finer ones: bilinear, as in all released
        multi-task networks on it, or nearest, as in timm and in the training on ImageNet. Other models have none.
    vit_maps: what is made of a plain ViT: pyramid or depths.
    image_size: with depths, the (H, W) that the ViT has position embeddings for, as in the released code of InvPT;
        None for the model's own. Images of other sizes get them resampled.

    Publishes `channels` and `strides` of the maps, and `load_report`, None without pretrained weights.
    Raises ValueError for an unknown name, for a model without such maps or with one image size only, and for an
    output stride or depths that it cannot have; TrainingError for weights that cannot be fetched or do not fit.
    """

    starts_itself = True  # timm's own initialisation, or pretrained weights: not a decoder's

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        output_stride: int = STRIDES[-1],
        hrnet_upsampling: str = UPSAMPLINGS[0],
        vit_maps: str = VIT_MAPS[0],
        image_size: Sequence[int] | None = None,
    ):
        super().__init__()
        if output_stride not in OUTPUT_STRIDES:
            raise ValueError(f"output_stride {output_stride!r}; allowed: {', '.join(map(str, OUTPUT_STRIDES))}.")
        if hrnet_upsampling not in UPSAMPLINGS:
            raise ValueError(f"hrnet_upsampling {hrnet_upsampling!r}; allowed: {', '.join(UPSAMPLINGS)}.")
        if vit_maps not in VIT_MAPS:
            raise ValueError(f"vit_maps {vit_maps!r}; allowed: {', '.join(VIT_MAPS)}.")
        source = _describe(name)
        options = source.options
        self.patch = source.patch
        self.strides = [min(stride, output_stride) for stride in STRIDES]
        self.pyramid: SimplePyramid | None = None
        if source.patch is None:
            if vit_maps == "depths":
                raise ValueError(f"vit_maps: depths takes a plain ViT, for example {RELEASED_VIT}, not {name!r}.")
            self.net: nn.Module = source.extractor(output_stride)
            self.channels: list[int] = cast(FeatureInfo, self.net.feature_info).channels()
            for block in self.net.modules():
                if hasattr(block, "target_shift_size"):
                    block.register_forward_pre_hook(_fit_shift)
            if isinstance(self.net, HighResolutionNetFeatures):
                set_momentum(self.net, HRNET_MOMENTUM)
                if hrnet_upsampling == "bilinear":
                    _upsample_bilinearly(self.net)
        elif output_stride != STRIDES[-1]:
            raise ValueError(f"{name!r} is a plain ViT: its output_stride is {STRIDES[-1]}, not {output_stride}.")
        else:
            options = self._make_plain_vit(name, source, vit_maps, image_size)
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self._check_maps(name)
        self.load_report: LoadReport | str | None = None
        if pretrained:
            self.load_report = load_pretrained(self.net, name, pretrained, options)

    def _make_plain_vit(
        self, name: str, source: _Source, vit_maps: str, image_size: Sequence[int] | None
    ) -> TimmOptions:
        """Set what a plain ViT is run by, and return the options that timm's model was made with."""
        assert source.patch is not None
        stride = nominal_stride(source.patch)
        if vit_maps == "pyramid":
            net = LastMap(_plain_vit(name, source.options))
            self.net = net
            self.pyramid = SimplePyramid(net.out_channels, stride, STRIDES)
            self.channels = self.pyramid.out_channels
            return source.options
        options = source.options if image_size is None else {**source.options, "img_size": self._net_size(image_size)}
        depths = FourDepths(_plain_vit(name, options))
        self.net = depths
        self.channels = [depths.out_channels] * len(STRIDES)
        self.strides = [stride] * len(STRIDES)
        return options

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.net(resize(image, self._net_size(image.shape[-2:])))
        maps = [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else maps
        return maps if self.pyramid is None else self.pyramid(maps[-1])

    def _net_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The size that an image of `size` is resized to before the model."""
        ratio = 1.0 if self.patch is None else self.patch / nominal_stride(self.patch)
        return tuple(round(math.ceil(side / STRIDES[-1]) * STRIDES[-1] * ratio) for side in size)

    def _check_maps(self, name: str) -> None:
        """Try it at a size that is nobody's default: what timm tells of a model does not say what sizes it takes."""
        height, width = 2 * STRIDES[-1], 3 * STRIDES[-1]
        self.eval()
        try:
            with torch.no_grad():
                found = [tuple(x.shape) for x in self(torch.zeros(1, 3, height, width))]
        except TIMM_ERRORS as error:
            raise ValueError(
                f"Backbone {name!r} does not take images of any size: timm's model fails for one of {height}x{width} "
                f"({_reason(error)}). Choose for example one of {SUITABLE}."
            ) from error
        self.train()
        wanted = [(1, c, height // s, width // s) for c, s in zip(self.channels, self.strides, strict=True)]
        if found != wanted:
            raise ValueError(
                f"Backbone {name!r} gives maps of {found} for an image of {height}x{width}, not {wanted}. "
                f"Choose for example one of {SUITABLE}."
            )


class SwinBlock(Protocol):
    """What `_fit_shift` uses of timm's Swin blocks, of which every version has its own class."""

    window_size: tuple[int, ...]
    target_shift_size: tuple[int, ...]
    shift_size: tuple[int, ...]


def _fit_shift(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Shift the windows of a Swin block (B, H, W, C) but along sides that fit in one window, as timm does for one size.

    timm decides that once, for the size that a model is made for; the same weights take any size here.
    """
    swin = cast(SwinBlock, block)
    sides = inputs[0].shape[1:3]
    each = zip(sides, swin.window_size, swin.target_shift_size, strict=True)
    swin.shift_size = tuple(shift if side > window else 0 for side, window, shift in each)


class BilinearUpsample(nn.Module):
    """(B, C, h, w) -> (B, C, factor * h, factor * w), corners not aligned."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return resize(x, [self.factor * side for side in x.shape[-2:]])


def _upsample_bilinearly(net: nn.Module) -> None:
    """Put bilinear for nearest upsampling wherever it is; the names of weights stay as they are."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Upsample):
                factor = child.scale_factor
                assert isinstance(factor, float), factor
                setattr(module, name, BilinearUpsample(int(factor)))


def _plain_vit(name: str, options: TimmOptions) -> PlainViT:
    """timm's model. Raises ValueError where it doesn't take the options."""
    try:
        return cast(PlainViT, timm.create_model(name, num_classes=0, **options))
    except TIMM_ERRORS as error:
        raise ValueError(f"timm can't make backbone {name!r} with {dict(options)} ({_reason(error)}).") from error


@dataclass(frozen=True)
class _Source:
    """How timm is asked for a backbone.

    options: the model's own. extraction: those of its feature extractor. patch: side of a plain ViT's patches in
    pixels; None for a model with maps of several strides.
    """

    name: str
    options: TimmOptions
    extraction: TimmOptions
    patch: int | None

    def extractor(self, output_stride: int) -> nn.Module:
        """timm's feature extractor. Raises ValueError if the model cannot be dilated to the output stride."""
        dilation: TimmOptions = {} if output_stride == STRIDES[-1] else {"output_stride": output_stride}
        try:
            return timm.create_model(self.name, features_only=True, **self.options, **self.extraction, **dilation)
        except TIMM_ERRORS as error:
            if not dilation:
                raise
            raise ValueError(
                f"Backbone {self.name!r} cannot have output_stride {output_stride} in timm ({_reason(error)}). "
                f"Set output_stride: {STRIDES[-1]}, or choose one that can be dilated, for example resnet50."
            ) from error


@functools.cache
def _describe(name: str) -> _Source:
    """Find out what the model offers from one without data: quick for large ones, and no random number is drawn."""
    _check_known(name)
    # HRNet's default features are those of its classification head; "" asks for its four branches themselves.
    extraction: TimmOptions = {"feature_location": ""} if name.startswith("hrnet") else {}
    info, options = _feature_info(name, extraction)
    strides = info.reduction()
    if len(strides) > 1 and len(set(strides)) == 1:
        return _Source(name, options, {}, patch=strides[0])
    deepest = dict(zip(strides, info.out_indices, strict=True))  # the last map of each stride wins
    if not set(STRIDES) <= set(deepest):
        raise ValueError(
            f"Backbone {name!r} has maps at strides {sorted(deepest)}; needed are {list(STRIDES)}, or a plain ViT's "
            f"single one. Choose for example one of {SUITABLE}."
        )
    indices = tuple(deepest[stride] for stride in STRIDES)
    return _Source(name, options, {**extraction, "out_indices": indices}, patch=None)


def _check_known(name: str) -> None:
    model, _, tag = name.partition(".")
    tags = timm.list_pretrained(f"{model}.*") if tag else []
    if timm.is_model(model) and (not tag or name in tags):
        return
    nearest = difflib.get_close_matches(name, tags or timm.list_models(), 3)
    hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
    raise ValueError(f"Unknown backbone {name!r}.{hint} Allowed: what timm.list_models() lists.")


def _feature_info(name: str, extraction: TimmOptions) -> tuple[FeatureInfo, TimmOptions]:
    """timm's description of the model's maps, and the options that make it take images of any size."""
    for options in ANY_SIZE:
        try:
            with torch.device("meta"):
                model = timm.create_model(name, features_only=True, **options, **extraction)
            return cast(FeatureInfo, model.feature_info), options
        except TIMM_ERRORS as error:
            if isinstance(error, TypeError) and options:  # the constructor does not know them: try the next
                continue
            raise ValueError(
                f"Backbone {name!r} cannot give intermediate features in timm ({_reason(error)}). "
                f"Choose for example one of {SUITABLE}."
            ) from error
    raise AssertionError("the last options are empty")


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
