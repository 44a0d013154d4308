"""Multi-task dense prediction: datasets, tasks, networks, training, evaluation and comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.tools.export.model import Model

__all__ = ["load_model"]


def load_model(path: str | Path, device: str | None = None) -> Model:
    """The trained network in a folder that `stages.export` wrote, or in models/<run>-<seed>.

    `load_model(path)(image)` maps an image (H, W, 3) uint8 RGB to {task: map} in labels' units, at the image's size.
    device: as torch names it; None: PIPELINE_DEVICE, else the first CUDA device, else the CPU. An exported folder takes
    torch, timm, safetensors and numpy alone, and OpenCV where an image is not of the network's input size.
    Raises DataError for a folder that is incomplete, damaged, of something else or of a newer version.
    """
    from pipeline.tools.export.model import open_model  # imports torch: not before somebody asks

    return open_model(Path(path), device)
