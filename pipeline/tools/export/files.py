"""From a trained network to the kind of file that somebody asks for."""

from __future__ import annotations

from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.tools.export.folder import export_folder
from pipeline.tools.export.onnx_file import require_packages, write_onnx
from pipeline.tools.export.pt2_file import write_pt2
from pipeline.tools.export.sizes import Sizes
from pipeline.tools.export.trained import Trained, open_trained

WRITERS = {"onnx": write_onnx, "pt2": write_pt2}


def export_to(trained: Trained, kind: str, out: Path | None) -> tuple[Path, Sizes | None]:
    """Write the network as a `folder`, an `onnx` or a `pt2` file; where, and for which sizes that holds.

    out: None: in exports, by the network's name. Raises DataError for a network that there is no such file of.
    """
    name = trained.config.name
    if kind == "folder":
        return export_folder(trained, out or paths.EXPORTS / name), None
    file = out or paths.EXPORTS / f"{name}.{kind}"
    if file.exists() and not (file.is_file() and file.suffix == f".{kind}"):
        raise DataError(f"{file} exists and is no .{kind} file: name another with --out")
    if kind == "onnx":
        require_packages()
    from pipeline.tools.export.graph import export_graph  # imports torch.export and all that it follows with

    model = open_trained(trained.saved, "cpu")
    graph = export_graph(model)
    return WRITERS[kind](graph, trained.config, model, file), graph.sizes
