"""Masked losses: (prediction, target, valid) -> scalar, over the valid pixels of the whole batch.

prediction (B, C, H, W) raw network output, target (B, Ct, H, W), valid (B, 1, H, W) bool. B batch, C
channels. Every loss computes in float32, also under autocast; never reads a target where it is not valid (it
may be NaN there); and is 0, with a graph and a zero gradient, where nothing is valid. Nothing waits for the
device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_IGNORE = -100


def _mean_over(error: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, C, H, W) over the channels of the valid pixels; 0 where there are none."""
    count = valid.sum() * error.shape[1]
    return error.masked_fill(~valid, 0).sum() / count.clamp(min=1)


def cross_entropy(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Softmax cross-entropy in nats. target (B, 1, H, W): class index, of any integer type."""
    index = target.long().masked_fill(~valid, _IGNORE).squeeze(1)
    total = F.cross_entropy(prediction.float(), index, ignore_index=_IGNORE, reduction="sum")
    return total / valid.sum().clamp(min=1)


def depth_l1(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error, in the target's unit (metres). target (B, 1, H, W)."""
    target = target.float().masked_fill(~valid, 0)
    return _mean_over((prediction.float() - target).abs(), valid)


def normals_l1(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of components between the prediction at unit length and the unit target.

    prediction, target (B, 3, H, W).
    """
    # The eps bounds the gradient, which is 1 / length, should a prediction come near zero.
    unit = F.normalize(prediction.float(), dim=1, eps=1e-6)
    return _mean_over((unit - target.float().masked_fill(~valid, 0)).abs(), valid)


def balanced_bce(prediction: Tensor, target: Tensor, valid: Tensor, positive_weight: float | None = None) -> Tensor:
    """Binary cross-entropy of logits x that balances the two classes.

        1/|V| Σ_V [ w · y · softplus(-x) + (1 - w) · (1 - y) · softplus(x) ],    V: the batch's valid pixels

    w: `positive_weight`, or by default the share of negatives among V (Xie and Tu, "Holistically-Nested Edge
    Detection", ICCV 2015, eq. 2). A batch of one class only then has loss 0. prediction, target (B, 1, H, W);
    a target above 0.5 is positive.
    """
    positive = (target > 0.5) & valid
    if positive_weight is None:
        share = positive.sum() / valid.sum().clamp(min=1)
        weight = torch.where(positive, 1 - share, share)
    else:
        weight = torch.where(positive, positive_weight, 1 - positive_weight)
    error = F.binary_cross_entropy_with_logits(prediction.float(), positive.float(), reduction="none")
    return _mean_over(weight * error, valid)
