"""The wide end of `MultiScaleHead`, a band of rows at a time: its form for processors.

At 1080 channels a map of stride 4 is larger than any cache, so every operation on it waits for memory. Here the mix
of the scales, batch norm, ReLU and the prediction, and all their gradients, are taken band by band in buffers that
the cache holds; of the wide maps only the mix itself is written out, once, and only for training. It is many lines
for the five that it stands for (the other branch of `MultiScaleHead.forward`): the price of speed and memory, see
benchmarks/README.md. On a GPU it has no point, and torch.compile fuses those five lines by itself.

Shapes: B batch, C channels, H, W at the finest scale; h, w at a coarser one; P channels of the mix; O predicted.
Inside, maps are (B, H, W, channels): in channels-last memory that is how they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from pipeline.compute.resize import interpolation

BAND = 2**20  # elements of the mix in one band


def mix_and_predict(
    finest: Tensor, coarser: Sequence[Tensor], weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, predict: nn.Conv2d
) -> Tensor:
    """predict(relu(norm(conv2d(finest, weight, bias) + the coarser maps, upsampled))): (B, O, H, W).

    finest (B, C, H, W); coarser: maps (B, P, h, w), mixed already; weight (P, C, 1, 1). In training the running
    statistics of `norm` move, as they would if it were called.
    """
    parameters = (weight.flatten(1), bias, norm.weight, norm.bias, predict.weight.flatten(1), predict.bias)
    return _MixAndPredict.apply(norm, torch.is_grad_enabled(), finest, *parameters, *coarser)


@dataclass(frozen=True)
class Band:
    """Some rows of the finest map, and the rows of each coarser map that they lie between.

    upsample: (rows, source rows of all coarser maps together), the vertical half of the bilinear interpolation.
    """

    rows: slice
    sources: tuple[slice, ...]
    upsample: Tensor

    def between(self, coarser: Sequence[Tensor], image: int, width: int) -> Tensor:
        """The source rows, resized to the width: (source rows, W * P)."""
        rows = [x[image : image + 1, :, source] for x, source in zip(coarser, self.sources, strict=True)]
        resized = [F.interpolate(x, (x.shape[2], width), mode="bilinear", align_corners=False) for x in rows]
        return torch.cat([x.permute(0, 2, 3, 1).flatten(0, 1).flatten(1) for x in resized])

    def add_gradient(self, gradient: Tensor, into: Sequence[Tensor], image: int, width: int) -> None:
        """The adjoint of `between`: gradient (source rows, W * P) is added to `into`, maps (B, h, w, P)."""
        counts = [source.stop - source.start for source in self.sources]
        for rows, source, total in zip(gradient.split(counts), self.sources, into, strict=True):
            wide = rows.unflatten(1, (width, -1))[None].permute(0, 3, 1, 2)  # (1, P, source rows, W)
            shape = [1, wide.shape[1], len(rows), total.shape[2]]
            narrow = torch.ops.aten.upsample_bilinear2d_backward(wide, [len(rows), width], shape, False)
            total[image, source] += narrow[0].permute(1, 2, 0)


def cut(height: int, rows: int, coarser: Sequence[Tensor]) -> list[Band]:
    """`height` rows in bands of `rows`, the last maybe shorter; coarser: maps (B, P, h, w)."""
    matrices = [interpolation(x.shape[2], height, x.dtype, x.device) for x in coarser]
    bands = []
    for start in range(0, height, rows):
        band = slice(start, min(start + rows, height))
        parts = [matrix[band] for matrix in matrices]
        reached = [part.any(0).nonzero() for part in parts]
        sources = tuple(slice(int(r.min()), int(r.max()) + 1) for r in reached)
        columns = [part[:, source] for part, source in zip(parts, sources, strict=True)]
        bands.append(Band(band, sources, torch.cat(columns, 1) if columns else torch.empty(0)))
    return bands


class _Context(FunctionCtx):
    """What `_MixAndPredict` keeps from forward to backward; torch's stub of a context lacks `saved_tensors`, too."""

    saved_tensors: tuple[Tensor, ...]
    places: list[tuple[int, Band]]
    size: int
    trains: bool
    shapes: list[torch.Size]


class _MixAndPredict(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        norm: nn.BatchNorm2d,
        differentiable: bool,
        finest: Tensor,
        weight: Tensor,
        bias: Tensor,
        gamma: Tensor,
        beta: Tensor,
        predict: Tensor,
        predict_bias: Tensor,
        *coarser: Tensor,
    ) -> Tensor:
        x = finest.permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = x.shape
        size = max(1, BAND // (width * len(weight)))
        bands = cut(height, size, coarser)
        keep = differentiable or norm.training  # else one image's band at a time is enough
        mixed = x.new_empty(batch, height, width, len(weight)) if keep else x.new_empty(1, size, width, len(weight))
        out = x.new_empty(batch, height, width, len(predict))

        def mix(image: int, band: Band) -> Tensor:
            place = mixed[image, band.rows] if keep else mixed[0, : band.rows.stop - band.rows.start]
            place = place.view(-1, len(weight))
            torch.addmm(bias, x[image, band.rows].view(-1, channels), weight.t(), out=place)
            if coarser:
                place.view(-1, width * len(weight)).addmm_(band.upsample, band.between(coarser, image, width))
            return place

        def decide(image: int, band: Band, m: Tensor) -> None:
            z = torch.addcmul(shift, m, scale).relu_()
            torch.addmm(predict_bias, z, predict.t(), out=out[image, band.rows].view(-1, len(predict)))

        places = [(image, band) for image in range(batch) for band in bands]
        if norm.training:
            mean, var = _moments(mix(*place) for place in places)
            _move(norm, mean, var, batch * height * width)
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            mean, var = norm.running_mean, norm.running_var
        inverse = (var + norm.eps).rsqrt()
        scale = gamma * inverse
        shift = beta - mean * scale
        for image, band in places:
            decide(image, band, mixed[image, band.rows].view(-1, len(weight)) if norm.training else mix(image, band))
        if differentiable:
            ctx.save_for_backward(x, mixed, weight, predict, mean.clone(), inverse, scale, shift)
            ctx.places, ctx.size, ctx.trains, ctx.shapes = places, size, norm.training, [y.shape for y in coarser]
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mixed, weight, predict, mean, inverse, scale, shift = ctx.saved_tensors
        batch, height, width, wide = mixed.shape
        gradient = gradient.permute(0, 2, 3, 1).contiguous()

        def norm_gradient(m: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
            """The output of norm and ReLU again, and the gradient before the ReLU; (pixels, P)."""
            z = torch.addcmul(shift, m, scale).relu_()
            return z, torch.ops.aten.threshold_backward(g @ predict, z, 0)

        d_predict, d_beta, d_product = (torch.zeros_like(like) for like in (predict, shift, shift))
        pixels = ctx.size * width
        for m, g in zip(mixed.view(-1, wide).split(pixels), gradient.view(-1, len(predict)).split(pixels), strict=True):
            z, d_norm = norm_gradient(m, g)
            d_predict.addmm_(g.t(), z)
            d_beta += d_norm.sum(0)
            d_product += d_norm.mul_(m).sum(0)
        d_gamma = (d_product - mean * d_beta) * inverse
        # d_mixed = scale * d_norm + slope * mixed + offset; the last two are there because the batch's own mean and
        # variance depend on the mix, too.
        n = batch * height * width
        slope = -scale * inverse * d_gamma / n
        offset = -scale * d_beta / n - slope * mean
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        d_coarser = [x.new_zeros(b, h, w, c) for b, c, h, w in ctx.shapes]
        for image, band in ctx.places:
            m, g = mixed[image, band.rows].view(-1, wide), gradient[image, band.rows].view(-1, len(predict))
            z, d_norm = norm_gradient(m, g)
            d_mixed = d_norm.mul_(scale)
            if ctx.trains:
                d_mixed += torch.addcmul(offset, m, slope, out=z)
            own = x[image, band.rows].view(-1, x.shape[3])
            torch.mm(d_mixed, weight, out=d_x[image, band.rows].view_as(own))
            d_weight.addmm_(d_mixed.t(), own)
            if d_coarser:
                band.add_gradient(band.upsample.t() @ d_mixed.view(-1, width * wide), d_coarser, image, width)
        d_bias = torch.zeros_like(d_beta) if ctx.trains else scale * d_beta  # batch norm takes a constant away
        first = (d_x.permute(0, 3, 1, 2), d_weight, d_bias, d_gamma, d_beta, d_predict, gradient.sum((0, 1, 2)))
        return None, None, *first, *(d.permute(0, 3, 1, 2) for d in d_coarser)


def _moments(bands: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the rows of all (rows, P), merged as by Chan, Golub and LeVeque (1979)."""
    count = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    for band in bands:
        own = band.mean(0)
        delta, share = own - mean, len(band) / (count + len(band))
        squares = squares + (band - own).square_().sum(0) + delta.square() * (count * share)
        mean = mean + delta * share
        count += len(band)
    assert isinstance(mean, Tensor) and isinstance(squares, Tensor), "no band"
    return mean, squares / count


def _move(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """What a call of `norm` on `count` pixels does to its running statistics."""
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    assert norm.running_mean is not None and norm.running_var is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * (count / max(1, count - 1)), norm.momentum)
