"""What a tensor of a file must hold to be weights here; anything else is named, in a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_VARIANCE = "running_var"
_SHOWN = 3  # tensors that a message names


def not_plain(tensor: Tensor) -> str | None:
    """Why a tensor holds no plain numbers, one for each place; None where it does."""
    if tensor.is_quantized:
        return "is quantized"
    if tensor.is_meta:
        return "is on the meta device, which holds no values"
    if tensor.layout is not torch.strided:
        return f"has the layout {_short(tensor.layout)}"
    return None


def fault(sources: Sequence[str], given: Sequence[Tensor], value: Tensor, own: Tensor) -> str | None:
    """Why what was made of these tensors of a file can't be ours; None where it can.

    value: ours of theirs, of their type. own: a tensor of our network, for its type.
    """
    kind, kinds = ("floating", _FLOATS) if own.is_floating_point() else ("integer", _INTEGERS)
    for name, tensor in zip(sources, given, strict=True):
        if tensor.dtype not in kinds:
            return f"{name} is {_short(tensor.dtype)}, where the network has {kind} numbers"
        if name.endswith(_VARIANCE) and bool((tensor < 0).any()):
            return f"{name} has a variance below 0"
    if not value.to(own.dtype).isfinite().all():
        return f"{' and '.join(sources)} has values that are not finite in {_short(own.dtype)}"
    return None


def rounded(tensors: Iterable[Tensor]) -> list[str]:
    """A note for each type of floating numbers other than float32."""
    types = [tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.dtype != torch.float32]
    counts = {dtype: types.count(dtype) for dtype in dict.fromkeys(types)}
    return [
        f"{count} tensor{' is' if count == 1 else 's are'} {_short(dtype)} in the file, float32 here"
        for dtype, count in counts.items()
    ]


def first_few(names: Sequence[str]) -> str:
    """The first names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _short(value: torch.dtype | torch.layout) -> str:
    return str(value).removeprefix("torch.")
