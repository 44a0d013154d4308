"""Networks whose graph holds for many image sizes: forms of their parts that do not branch on the size of a map.

torch.export follows a network for one size and writes down what every branch on a size assumed. The parts below ask
whether a map fits its windows, or make a Python number of a size; their forms here compute the same for every size.
They stand in for them in a copy of the network alone, and `sizes.py` compares what that computes with the network.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks import atrc
from pipeline.networks.sca import attention
from pipeline.networks.sca.attention import WindowBlock


class FreeWindowBlock(WindowBlock):
    """`WindowBlock` without a branch: it always pads, and shifts by picking rows and columns."""

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        window, sides = self.window, (height, width)
        rows, columns = ((side + window - 1) // window for side in sides)
        padded = (rows * window, columns * window)
        shifts = tuple(self._free_shift(side) for side in sides)
        places = [_rolled(side, shift, x.device) for side, shift in zip(padded, shifts, strict=True)]
        inside = [place < side for place, side in zip(places, sides, strict=True)]
        for axis, (place, side) in enumerate(zip(places, sides, strict=True), start=1):
            x = x.index_select(axis, place.clamp(max=side - 1))
        x = x * (inside[0][:, None, None] & inside[1][:, None])  # padding is zeros
        mask = None
        if self.shift or self.padding == "masked":
            wrapped = [
                (torch.arange(side, device=x.device) >= side - shift).long()
                for side, shift in zip(padded, shifts, strict=True)
            ]
            region = wrapped[0][:, None] + 2 * wrapped[1]
            if self.padding == "masked":
                region = region + 4 * (~(inside[0][:, None] & inside[1])).long()
            region = region.reshape(rows, window, columns, window).transpose(1, 2).reshape(rows * columns, window**2)
            mask = (region[:, :, None] != region[:, None, :]) * -100.0
        x = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        x = self.attention(x.reshape(batch * rows * columns, window**2, channels), mask)
        x = x.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
        x = x.reshape(batch, padded[0], padded[1], channels)
        for axis, (side, shift, kept) in enumerate(zip(padded, shifts, sides, strict=True), start=1):
            x = x.index_select(axis, _rolled(side, side - shift, x.device)[:kept])
        return x

    def _free_shift(self, side: int) -> int | torch.SymInt:
        if self.shift_small or not self.shift:
            return self.shift
        return self.shift * torch.sym_min(1, (side - 1) // self.window)


def _rolled(side: int, shift: int | torch.SymInt, device: torch.device) -> Tensor:
    """The indices 0 .. side - 1, rolled to begin at `shift`."""
    return torch.cat([torch.arange(shift, side, device=device), torch.arange(shift, device=device)])


class EvenStride(nn.Conv2d):
    """A strided convolution of maps with sides that its stride divides, without the padding that it never reaches.

    Its result then has side / stride pixels, a division without remainder, which torch.export's algebra resolves; half
    of a conversion's time went into 1 + (side - 1) // 2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H / stride, W / stride)."""
        padding: list[int] = []
        for kernel, stride, before in zip(self.kernel_size, self.stride, _sides(self.padding), strict=True):
            padding = [before, kernel - stride - before, *padding]  # F.pad begins with the last axis
        return F.conv2d(F.pad(x, padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    @staticmethod
    def stands_for(conv: nn.Conv2d) -> bool:
        """Whether `conv` is of that kind: its last taps of padding are out of reach."""
        return (
            not isinstance(conv.padding, str)
            and conv.padding_mode == "zeros"
            and set(conv.dilation) == {1}
            and all(
                stride > 1 and 0 <= kernel - stride - before < before
                for kernel, stride, before in zip(conv.kernel_size, conv.stride, conv.padding, strict=True)
            )
        )


def _sides(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str)
    return padding


def linear_attention(query: Tensor, key: Tensor, value: Tensor, floor: float = 1e-6) -> Tensor:
    """`pipeline.networks.sca.attention.linear_attention` in float32, of sizes that stay symbols."""
    height, width = query.shape[-2:]
    tokens = query.flatten(2).transpose(1, 2)
    key = key.flatten(2) / (key.shape[-2] * key.shape[-1])
    context = key @ value.flatten(2).transpose(1, 2)
    total = tokens @ key.sum(2, keepdim=True)
    return ((tokens @ context) / total.clamp(min=floor)).transpose(1, 2).unflatten(2, (height, width))


def free_form(network: nn.Module) -> nn.Module:
    """A copy of the network, on the CPU, of the forms above."""
    free = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    for module in free.modules():
        if type(module) is WindowBlock:
            module.__class__ = FreeWindowBlock
        elif type(module) is nn.Conv2d and EvenStride.stands_for(module):
            module.__class__ = EvenStride
    return free.eval()


@contextlib.contextmanager
def free_functions() -> Iterator[None]:
    """Within the block networks are followed with the functions above, and without autocast, which float32 has none of.

    Each such context would become a graph of its own in the exported one, which took a tenth of the time.
    """

    def nothing(*_: object, **__: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    with (
        mock.patch.object(attention, "linear_attention", linear_attention),
        mock.patch.object(atrc, "linear_attention", linear_attention),
        mock.patch.object(torch, "autocast", nothing),
    ):
        yield
