"""A trained network that is ready to predict: what `pipeline.load_model` returns.

Nothing here needs params.yaml, the data, DVC or MLflow. Of an exported folder it takes torch, timm, safetensors and
numpy; imports of anything else stand where it is first needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compute.device import NORMALIZATIONS, Device
from pipeline.core.errors import DataError, ParamsError
from pipeline.core.names import TASKS
from pipeline.networks.registry import build
from pipeline.networks.saved_weights import load_weights
from pipeline.tasks import get_task
from pipeline.tasks.spec import Task
from pipeline.tools.export.config import CONFIG, REMEDY, WEIGHTS, ModelConfig, read_config

Augmentation = Literal["flip"]
"""Of a photograph that is predicted: the raw predictions of it and of its changed copies are averaged."""


class Model:
    """A network in evaluation mode, with all that it takes to use it.

    network: (B, 3, H, W) normalised -> Outputs. tasks: those that it predicts. classes: {task: names by index}.
    config: architecture, input size, normalisation and origin. device: where it computes.
    """

    def __init__(self, network: nn.Module, config: ModelConfig, device: Device):
        self.config, self.device = config, device
        self.tasks = tuple(config.tasks)
        self.classes: Mapping[str, list[str]] = config.classes
        self.input_size = (config.input_size[0], config.input_size[1])
        self.network = device.network(network).eval()

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, tta: Augmentation | None = None) -> dict[str, np.ndarray]:
        """(H, W, 3) uint8 RGB -> by task (H, W), or (H, W, 3) for normals, at the image's size.

        Class indices, probabilities (edge, sal), metres (depth), unit vectors (normals: x right, y
        up, z towards the camera). The image is resized to the network's input size first, aspect not kept, as in
        training; predictions are resized back as evaluation does it. tta: "flip" averages the raw predictions of the
        image and of its mirror image, and takes twice the time; `evaluate` does not. Raises DataError for another kind
        of array, ParamsError for another `tta`.
        """
        if tta is not None and tta not in get_args(Augmentation):
            raise ParamsError(f"tta = {tta!r} is unknown; allowed: None, {', '.join(get_args(Augmentation))}")
        prepared = self.prepare(image)
        raw = self._raw(prepared)
        if tta == "flip":
            mirrored = self._raw(prepared.flip(-1))
            raw = {task: (raw[task] + get_task(task).on_flip(mirrored[task].flip(-1))) / 2 for task in self.tasks}
        size = (image.shape[0], image.shape[1])
        return {task: _as_map(get_task(task), raw[task], size) for task in self.tasks}

    def _raw(self, prepared: Tensor) -> dict[str, Tensor]:
        """What the network says of what `prepare` gave, not decoded: by task (1, C, h, w)."""
        with self.device.autocast():
            final = self.network(prepared).final
        return {task: final[task].float() for task in self.tasks}

    def prepare(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, 3, h, w), what the network takes: at its input size, normalised, on the device."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(f"an image is uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}")
        resized = torch.from_numpy(np.array(self._resized(image).transpose(2, 0, 1)))[None]
        return self.device.image(resized, NORMALIZATIONS[self.config.normalization])

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == self.input_size:
            return image
        try:
            from pipeline.loading.loader import resize_image
        except ModuleNotFoundError as error:
            raise DataError(
                f"{error.name} is not installed, and resizes an image of {image.shape[0]}x{image.shape[1]} to the "
                f"network's {self.input_size[0]}x{self.input_size[1]}: pip install opencv-python-headless, or resize it"
            ) from None
        return resize_image(image, self.input_size)


def _as_map(task: Task, raw: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(1, C, h, w) raw -> decoded, at (H, W): as pipeline/evaluation/scoring.py, which imports what scoring takes."""
    if not raw.isfinite().all():
        raise DataError(f"predictions of {task.name} are not finite: the network diverged, train it again")
    decoded = task.decode(raw)
    if decoded.shape[-2:] != size:
        if task.resize_prediction == "nearest":
            decoded = F.interpolate(decoded.float(), size=size, mode="nearest-exact").to(decoded.dtype)
        else:
            decoded = F.interpolate(decoded, size=size, mode="bilinear", align_corners=False)
    array = decoded[0].cpu().numpy()
    return array[0] if len(array) == 1 else array.transpose(1, 2, 0)


def open_model(folder: Path, device: str | None = None) -> Model:
    """See `pipeline.load_model`."""
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder of a network: name one that stages.export wrote, or models/<run>-<seed>"
        )
    if not (folder / CONFIG).is_file():
        return _trained_here(folder, device)
    config = read_config(folder / CONFIG)
    network = build_network(config, folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise DataError(f"{folder / WEIGHTS} is missing; {REMEDY}")
    load_weights(network, folder / WEIGHTS, config.weights_sha256, folder / CONFIG, REMEDY)
    return Model(network, config, choose_device(config, device))


def _trained_here(folder: Path, device: str | None) -> Model:
    try:
        from pipeline.tools.export.trained import open_trained, read_saved_model  # takes what reads params
    except ModuleNotFoundError as error:
        raise DataError(
            f"{folder} holds no {CONFIG}, and without {error.name} only exported folders can be read: install the "
            "pipeline's requirements, or export the network with `python -m stages.export`"
        ) from None
    return open_trained(read_saved_model(folder), device)


def build_network(config: ModelConfig, source: Path) -> nn.Module:
    """The network without its weights. Raises DataError for a config that this version can't build."""
    if unknown := (config.tasks.keys() | config.auxiliary_tasks.keys()) - set(TASKS):
        raise DataError(f"{source} is of tasks that this version does not know: {', '.join(sorted(unknown))}")
    if config.normalization not in NORMALIZATIONS:
        raise DataError(f"{source} says normalization = {config.normalization!r}, which this version does not know")
    try:
        return build(
            config.architecture,
            backbone=config.backbone,
            tasks=config.tasks,
            auxiliary_tasks=config.auxiliary_tasks,
            output_stride=config.output_stride,
            hrnet_upsampling=config.hrnet_upsampling,
            image_size=config.input_size,
            **config.options,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{source} describes a network that this version can't build ({reason})") from None


def choose_device(config: ModelConfig, name: str | None = None) -> Device:
    """The device of that name, or the default one, in the precision of the training's recipe; it sets nothing up."""
    name = name or os.environ.get("PIPELINE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ParamsError(f"device {name} can't be used here: {str(error).splitlines()[0]}") from None
    bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return Device(device, torch.bfloat16 if bfloat16 else torch.float32, config.channels_last)
