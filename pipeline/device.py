"""Where and how a network runs: device, precision, memory format. The device never comes from params.yaml."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import ParamsError


@dataclass(frozen=True)
class Device:
    """The device that computes, the type its matrix products run in, and how images lie in memory."""

    torch_device: torch.device
    dtype: torch.dtype
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def description(self) -> str:
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        return f"CPU, {torch.get_num_threads()} threads"

    def autocast(self) -> AbstractContextManager:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.torch_device.type, self.dtype)

    def network(self, network: nn.Module) -> nn.Module:
        return network.to(self.torch_device, memory_format=self.memory_format)

    def image(self, image: Tensor, normalization: Normalization) -> Tensor:
        """(B, 3, H, W) uint8 or float in 0..255 -> normalised float32 on the device, in its memory format."""
        image = image.to(self.torch_device, torch.float32, non_blocking=True)
        return normalization(image).contiguous(memory_format=self.memory_format)


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation that the backbone's weights were trained with, for images in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=image.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=image.device).view(1, 3, 1, 1) * 255
        return (image - mean) / std


NORMALIZATIONS = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def choose_device(precision: str, channels_last: bool) -> Device:
    """The first CUDA device if there is one, else the CPU; the environment variable PIPELINE_DEVICE names another.

    precision `auto` is bfloat16 on a CUDA device that has it and float32 elsewhere.
    """
    name = os.environ.get("PIPELINE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ParamsError(f"PIPELINE_DEVICE={name} can't be used here: {str(error).splitlines()[0]}") from None
    if precision == "auto":
        bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if bfloat16 else torch.float32
    else:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    return Device(device, dtype, channels_last)
