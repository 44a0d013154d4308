"""Masked losses: (prediction, target, valid) -> scalar, over the valid pixels of the whole batch.

prediction (B, C, h, w) raw network output, target (B, Ct, H, W), valid (B, 1, H, W) bool. B batch, C channels. A
prediction of another size covers the same extent and is brought to the target's bilinearly. Every loss computes in
float32, also under autocast; never reads a target where it is not valid (it may be NaN there); and is 0, with a graph
and a zero gradient, where nothing is valid. Nothing waits for the device.

Where several processes share a batch, the whole batch is that of all, and each process returns its part of the loss:
the sum over its own pixels by the count of all valid ones. The parts add up to the loss, and their gradients to its.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from pipeline.compute import distributed
from pipeline.compute.resize import resize

_IGNORE = -100
_CPU_CHUNK = 2**18  # logits that the cache of a processor holds
_GPU_CHUNK = 2**26  # logits at the target's size, 256 MB a map: enough work for each kernel, little of the memory


def _mean_over(error: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, C, H, W) over the channels of the valid pixels; 0 where there are none."""
    count = distributed.all_reduce_sum(valid.sum()) * error.shape[1]
    return error.masked_fill(~valid, 0).sum() / count.clamp(min=1)


def cross_entropy(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Softmax cross-entropy in nats. target (B, 1, H, W): class index, of any integer type."""
    index = target.long().masked_fill(~valid, _IGNORE).squeeze(1)
    return _SummedCrossEntropy.apply(prediction.float(), index) / distributed.all_reduce_sum(valid.sum()).clamp(min=1)


class _Context(FunctionCtx):
    """What torch gives to `forward` and `backward`; its stub lacks these two."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]


class _SummedCrossEntropy(torch.autograd.Function):
    """F.cross_entropy(resized logits, index, reduction="sum"), with the gradient taken along, a few images at a time.

    Of all the maps at full resolution (logits, log-probabilities, gradients: 49 MB each for one image of 480x640 and
    40 classes) none outlives its images; what is kept for the backward pass has the size of the prediction.
    """

    @staticmethod
    def forward(ctx: _Context, prediction: Tensor, index: Tensor) -> Tensor:
        total = prediction.new_zeros(())
        gradient = torch.empty_like(prediction) if ctx.needs_input_grad[0] else None
        size = index.shape[-2:]
        images = 1 if prediction.device.type == "cpu" else max(1, _GPU_CHUNK // (prediction.shape[1] * size.numel()))
        for i in range(0, len(prediction), images):
            with torch.enable_grad():
                x = prediction[i : i + images].detach().requires_grad_()
                logits = resize(x, size)
            loss, d_logits = _softmax_and_gradient(logits.detach(), index[i : i + images], gradient is not None)
            total += loss
            if gradient is not None:
                assert d_logits is not None
                part = torch.autograd.grad(logits, x, d_logits)[0] if logits is not x else d_logits
                gradient[i : i + images] = part
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, outer: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * outer, None


def _softmax_and_gradient(logits: Tensor, index: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
    """Summed cross-entropy of (B, C, H, W) logits at (B, H, W) indices, and its gradient softmax(logits) - one_hot."""
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])  # (N, C): a view of channels-last memory
    index = index.flatten()[:, None]
    size = max(1, _CPU_CHUNK // pixels.shape[1]) if pixels.device.type == "cpu" else len(pixels)
    total = pixels.new_zeros(())
    gradient = torch.empty_like(pixels) if differentiate else None
    for start in range(0, len(pixels), size):
        chunk, of = pixels[start : start + size], index[start : start + size]
        log_probability = F.log_softmax(chunk, 1)
        ignored, of = of == _IGNORE, of.clamp(min=0)
        # Not F.nll_loss: on CUDA it adds up in one block of threads.
        picked = log_probability.gather(1, of)
        total -= picked.masked_fill(ignored, 0).sum()
        if gradient is not None:
            d = torch.exp(log_probability, out=gradient[start : start + size])
            d.scatter_(1, of, picked.exp() - 1).masked_fill_(ignored, 0)
    if gradient is not None:
        gradient = gradient.view(len(logits), *logits.shape[-2:], -1).permute(0, 3, 1, 2)
    return total, gradient


def depth_l1(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error, in the target's unit (metres). target (B, 1, H, W)."""
    prediction, target = resize(prediction.float(), target.shape[-2:]), target.float().masked_fill(~valid, 0)
    return _mean_over((prediction - target).abs(), valid)


def normals_l1(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of components between the prediction at unit length and the unit target.

    prediction (B, 3, h, w), target (B, 3, H, W).
    """
    # The eps bounds the gradient, which is 1 / length, should a prediction come near zero.
    unit = F.normalize(resize(prediction.float(), target.shape[-2:]), dim=1, eps=1e-6)
    return _mean_over((unit - target.float().masked_fill(~valid, 0)).abs(), valid)


def balanced_bce(prediction: Tensor, target: Tensor, valid: Tensor, positive_weight: float | None = None) -> Tensor:
    """Binary cross-entropy of logits x that balances the two classes.

        1/|V| Σ_V [ w · y · softplus(-x) + (1 - w) · (1 - y) · softplus(x) ],    V: the batch's valid pixels

    w: `positive_weight`, or by default the share of negatives among V (Xie and Tu, "Holistically-Nested Edge
    Detection", ICCV 2015, eq. 2). A batch of one class only then has loss 0. prediction (B, 1, h, w), target
    (B, 1, H, W); a target above 0.5 is positive.
    """
    positive = (target > 0.5) & valid
    if positive_weight is None:
        positives, count = distributed.all_reduce_sum(torch.stack([positive.sum(), valid.sum()]))
        share = positives / count.clamp(min=1)
        weight = torch.where(positive, 1 - share, share)
    else:
        weight = torch.where(positive, positive_weight, 1 - positive_weight)
    logits = resize(prediction.float(), target.shape[-2:])
    error = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
    return _mean_over(weight * error, valid)
