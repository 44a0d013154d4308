"""Where and how a network runs: device, precision, memory format. The device never comes from params.yaml."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.compute import distributed
from pipeline.core.errors import ParamsError


@dataclass(frozen=True)
class Device:
    """The device that computes, the type its matrix products run in, and how images lie in memory.

    tf32: what is float32 all the same is multiplied with TF32's 10 bits of mantissa, where the device has that.
    cpu_threads: on a CPU, how many torch computes with, which decides how sums round; None on any other device.
    """

    torch_device: torch.device
    dtype: torch.dtype
    channels_last: bool
    tf32: bool = False
    cpu_threads: int | None = None

    @property
    def memory_format(self) -> torch.memory_format:
        """How (B, C, H, W) tensors lie in memory."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def has_fused_optimizers(self) -> bool:
        """Whether torch's Adam, AdamW and SGD have a form for it that takes one pass over memory."""
        return self.torch_device.type in ("cpu", "cuda")

    def uses_cuda_graph(self, wanted: bool | str) -> bool:
        """Whether `training.cuda_graph`, auto, true or false, asks for steps that are captured in a CUDA graph.

        Never but on CUDA. auto leaves it out where several processes train: what they tell each other in a step goes
        through threads of their own. Raises ParamsError for true there.
        """
        count = distributed.world_size()
        if wanted is True and count > 1:
            raise ParamsError(f"training.cuda_graph: true is for one process; got {count}: set it to auto or false")
        return bool(wanted) and self.torch_device.type == "cuda" and count == 1

    @property
    def description(self) -> str:
        """The processor, for people."""
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        return f"CPU, {self.cpu_threads} {'thread' if self.cpu_threads == 1 else 'threads'}"

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass; it does nothing in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.torch_device.type, self.dtype)

    def network(self, network: nn.Module) -> nn.Module:
        """The network on the device, its weights in the memory format."""
        return network.to(  # type: ignore[call-overload]  # torch's stub lacks memory_format
            self.torch_device, memory_format=self.memory_format
        )

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
        """(B, 3, H, W) in 0..255 -> normalised."""
        return (image - _channels(self.mean, image)) / _channels(self.std, image)


def _channels(values: tuple[float, float, float], image: Tensor) -> Tensor:
    """(1, 3, 1, 1), in 0..255, filled in on the device: a copy from the host would make the host wait."""
    return torch.cat([image.new_full((1, 1, 1, 1), value) for value in values], 1) * 255


NORMALIZATIONS = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # 0..1 as it is, as MTAN and LibMTL read it
}


_TORCHS_OWN_THREADS = torch.get_num_threads()  # by OMP_NUM_THREADS or the cores, before anything is set here


def use_cpu_threads(count: int | None) -> int:
    """Let torch compute with `count` threads on the CPU, whatever OMP_NUM_THREADS says; None: as many as by itself.

    Returns the number. It holds for the thread that calls this and for what torch shares out from there. Products and
    convolutions begun in other Python threads would follow OMP_NUM_THREADS (seen with torch 2.15): none are, since
    backward passes on a CPU run in the thread that asks for them, and loader threads only resize, by cv2, and copy.
    """
    torch.set_num_threads(count or _TORCHS_OWN_THREADS)
    return torch.get_num_threads()


def choose_device(
    precision: str, channels_last: bool, deterministic: bool = False, cpu_threads: int | None = None
) -> Device:
    """The first CUDA device if there is one, else the CPU; the environment variable PIPELINE_DEVICE names another.

    Of several processes on one machine, each takes the CUDA device of its own number, unless the variable says which.

    precision `auto` is bfloat16 on a CUDA device that has it and float32 elsewhere; what stays float32 on CUDA may then
    be multiplied as TF32. deterministic: CUDA gives the same bits each time, or raises RuntimeError. cpu_threads: see
    `use_cpu_threads`; on CUDA it changes nothing. All are set for the whole process.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    name = os.environ.get("PIPELINE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device == torch.device("cuda") and "LOCAL_RANK" in os.environ:  # torchrun's: one GPU for each process
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # or some of torch would open, and ask, the first one
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ParamsError(f"PIPELINE_DEVICE={name} can't be used here: {str(error).splitlines()[0]}") from None
    if precision == "auto":
        bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if bfloat16 else torch.float32
    else:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    threads = use_cpu_threads(cpu_threads) if device.type == "cpu" else None
    tf32 = device.type == "cuda" and precision == "auto"
    chosen = Device(device, dtype, channels_last, tf32=tf32, cpu_threads=threads)
    _set_up(chosen, deterministic)
    return chosen


def _set_up(device: Device, deterministic: bool) -> None:
    # The older of torch's two interfaces to TF32: torch 2.11 to 2.15 refuse to read one after the other was written,
    # and torch.compile reads this one. A CPU is left alone: it may know such types too, in another library.
    if device.torch_device.type == "cuda":
        torch.set_float32_matmul_precision("high" if device.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = device.tf32
    # With this switch torch takes the slower forms that add up in a fixed order, and refuses what has none:
    # tests/compute/test_gpu.py takes a step of every network and kills trainings with it on.
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
