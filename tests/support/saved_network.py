"""A folder in models as training leaves it, with weights that nobody trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core import paths, provenance
from pipeline.core.integrity import file_sha256
from pipeline.data.store import DatasetInfo
from pipeline.networks.from_params import build_network
from pipeline.networks.saved_weights import save_weights
from pipeline.params.load import parse_params
from pipeline.params.schema import ResolvedRun
from pipeline.train.outputs import described
from tests.support.networks import normal_statistics
from tests.support.result_files import run_record

TASKS = ["semseg", "depth", "normals", "edge"]
CLASSES = {"semseg": ("floor", "wall", "bed"), "human_parts": ("background", "head")}


def save_network(
    architecture: str = "multi_task",
    tasks: list[str] | None = None,
    backbone: str = "test_convnext",
    input_size: tuple[int, int] = (64, 96),
    auxiliary_tasks: list[str] | None = None,
    **options: Any,
) -> tuple[ResolvedRun, DatasetInfo, nn.Module]:
    """Write models/net-0 in the working folder, which holds a dvc.yaml; returns what it was made from."""
    tasks, auxiliary = tasks or TASKS, auxiliary_tasks or []
    entry = {"architecture": architecture, "tasks": tasks, "auxiliary_tasks": auxiliary, "options": options}
    run = parse_params(
        {
            "experiment": "test",
            "data": {"dataset": "rooms", "tasks": [*tasks, *auxiliary]},
            "training": {"backbone": backbone, "input_size": input_size, "batch_size": 4, "epochs": 1, "lr": 1.0e-3},
            "seeds": [0],
            "runs": {"net": entry},
        }
    ).run("net")
    names = (*tasks, *auxiliary)
    info = DatasetInfo("rooms", names, {t: CLASSES[t] for t in names if t in CLASSES}, 0.01, {}, "d" * 64)
    torch.manual_seed(0)
    network = build_network(run, info)
    normal_statistics(network)
    save_weights(network, paths.weights_file("net", 0))
    inputs = provenance.collect_inputs("train", run.model_dump() | {"seed": 0, "start": {}}, info.digest)
    weights = file_sha256(paths.weights_file("net", 0))
    record = run_record(run="net", inputs=inputs.values, dataset=described(info, run), weights_sha256=weights)
    record.write(paths.run_file("net", 0))
    return run, info, network.eval()


def put_graph(folder: Path) -> None:
    """A dvc.yaml that names no code: what it lists is hashed."""
    (folder / "dvc.yaml").write_text("stages: {train: {deps: []}}\n")
