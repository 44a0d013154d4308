"""A network with random weights in models/, as training leaves it, in a project of params and a digest alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from pipeline.core import paths, provenance
from pipeline.core.integrity import file_sha256
from pipeline.data.store import read_info
from pipeline.networks.from_params import build_network
from pipeline.networks.saved_weights import save_weights
from pipeline.params.load import load_params
from pipeline.train.outputs import described
from tests.support.result_files import run_record


def rooms_info(tasks: list[str]) -> dict[str, Any]:
    """What dataset.json says of rooms with these tasks, of three classes."""
    return {
        "dataset": "rooms", "tasks": tasks, "classes": {"semseg": ["floor", "wall", "bed"]}, "edge_max_dist": 0.01,
        "splits": {"train": 8, "val": 4}, "digest": "d" * 64, "skipped": {}, "published": False,
    }  # fmt: skip


def save_run(root: Path, run: str, params: dict[str, Any], info: dict[str, Any]) -> nn.Module:
    """models/<run>-0 and what it takes to read it, below `root`, the working folder; returns the network."""
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(Path(__file__).parents[2] / "dvc.yaml", root)
    paths.write_json(paths.PREPARED / "dataset.json", info)
    torch.manual_seed(0)
    resolved, dataset = load_params().run(run), read_info()
    network = build_network(resolved, dataset)
    save_weights(network, paths.weights_file(run, 0))
    inputs = provenance.collect_inputs("train", resolved.model_dump() | {"seed": 0, "start": {}}, dataset.digest)
    weights = file_sha256(paths.weights_file(run, 0))
    record = run_record(run=run, inputs=inputs.values, dataset=described(dataset, resolved), weights_sha256=weights)
    record.write(paths.run_file(run, 0))
    return network
