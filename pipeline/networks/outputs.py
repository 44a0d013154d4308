"""What every network returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Outputs:
    """Raw predictions (logits, metres, unnormalised vectors): decoding is the task's business.

    `final`: main task -> (B, C, H, W) at the size of the image.
    `auxiliary`: further predictions that only take part in the loss, possibly none: a list of
    {task: (B, C, h, w)}, each at its own size but covering the same extent as the image.
    """

    final: dict[str, Tensor]
    auxiliary: list[dict[str, Tensor]] = field(default_factory=list)
