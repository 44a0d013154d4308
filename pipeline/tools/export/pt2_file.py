"""A network as a file of torch.export: it runs with torch alone, and refuses sizes that it was not compared for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pipeline.core.errors import DataError
from pipeline.tools.export.checked_file import checked_file
from pipeline.tools.export.config import CONFIG, ModelConfig
from pipeline.tools.export.graph import Graph
from pipeline.tools.export.model import Model
from pipeline.tools.export.sizes import Sizes, problems

SIZES = "sizes.txt"


def write_pt2(graph: Graph, config: ModelConfig, model: Model, file: Path) -> Path:
    """Write the file, with config.json and the range of sizes in its extra files, and compare it as it is loaded.

    Raises DataError where it can't be written, and where it doesn't predict what the network does.
    """
    with checked_file(file) as partial:
        with partial.open("wb") as written:
            extra = {CONFIG: config.as_json(), SIZES: str(graph.sizes), "outputs.txt": ",".join(graph.outputs)}
            torch.export.save(graph.program, written, extra_files=extra)
        with partial.open("rb") as read:
            module = torch.export.load(read).module()
        with torch.inference_mode():
            if wrong := next(problems(model, module, [model.input_size]), None):
                raise DataError(f"the file of {config.name} is not the network ({wrong}); export it as a folder")
            _see_it_refuse(module, graph.sizes, config)
    return file


def _see_it_refuse(module: nn.Module, sizes: Sizes, config: ModelConfig) -> None:
    """Raise DataError where the file takes a size outside its range: another torch may keep guards elsewhere."""
    low, high = sizes.smallest, sizes.largest
    step = max(sizes.multiple, 1)
    outside = [(low[0] - step, low[1]), (low[0], high[1] + step), (high[0] + step, low[1])]
    if step > 1:
        outside.append((low[0] + 1, low[1]))
    for size in outside:
        if min(size) < 1:
            continue
        try:
            module(torch.zeros(2, 3, *size))
        except Exception:  # whatever a guard raises
            continue
        raise DataError(
            f"the file of {config.name} would take {size[0]}x{size[1]}, for which it was not compared: torch "
            f"{torch.__version__} doesn't keep guards as this code expects; export it as a folder"
        )
