"""A network as a file of torch.export: it runs with torch alone, and refuses sizes that it was not compared for."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.tools.export.config import CONFIG, ModelConfig
from pipeline.tools.export.graph import Graph
from pipeline.tools.export.model import Model
from pipeline.tools.export.sizes import problems

SIZES = "sizes.txt"


def write_pt2(graph: Graph, config: ModelConfig, model: Model, file: Path) -> Path:
    """Write the file, with config.json and the range of sizes in its extra files, and compare it as it is loaded.

    Raises DataError where it can't be written, and where it doesn't predict what the network does.
    """
    partial = file.with_name(f".{file.name}{paths.PARTIAL}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as written:
            extra = {CONFIG: config.as_json(), SIZES: str(graph.sizes), "tasks.txt": ",".join(graph.tasks)}
            torch.export.save(graph.program, written, extra_files=extra)
        with partial.open("rb") as read:
            module = torch.export.load(read).module()
        with torch.inference_mode():
            if wrong := next(problems(model, module, [model.input_size]), None):
                raise DataError(f"the file of {config.name} is not the network ({wrong}); export it as a folder")
        os.replace(partial, file)
    except OSError as error:
        raise DataError(f"{file} can't be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return file
