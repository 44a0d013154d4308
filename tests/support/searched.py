"""A project whose data are prepared but for the val split, with a network that trains in a second: to be searched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.core import paths
from pipeline.data.sample import Label, Sample
from pipeline.data.store import write_split
from tests.support.mlflow_store import put_empty_store

CODE = Path(__file__).parents[2]
SIZE = (32, 32)
PARAMS = """\
# An experiment.

experiment: tiny    # its name
data: {dataset: rooms, tasks: [semseg, depth], rooms: {train: 15, val: 4, size: [32, 32]}}
training:           # common
  backbone: test_resnet
  input_size: [32, 32]
  batch_size: 4
  epochs: 2         # few
  lr: 1.0e-6        # much too small
  precision: float32

evaluation: {batch_size: 4}
search:
  space: {training.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, training.optimizer: [adam, adamw]}
  trials: 4
seeds: [0]
runs:
  pair:             # both
    architecture: multi_task
    tasks: [semseg, depth]
  depth: {architecture: single_task, tasks: [depth]}     # one
"""
INFO = {
    "dataset": "rooms", "tasks": ["semseg", "depth"], "classes": {"semseg": ["a", "b", "c"]}, "edge_max_dist": 0.01,
    "splits": {"train": 15, "val": 4}, "digest": "d" * 64, "skipped": {}, "published": False,
}  # fmt: skip


def samples(count: int) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    valid = np.ones(SIZE, bool)
    for i in range(count):
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        semseg, depth = (image[..., 0] // 86).astype(np.uint8), image[..., 1].astype(np.float32) / 64 + 0.1
        yield Sample(str(i), image, {"semseg": Label(semseg, valid), "depth": Label(depth, valid)})


def make_project(folder: Path) -> Path:
    """Code, params, the train split, and an empty store."""
    for part in ("pipeline", "stages"):
        shutil.copytree(CODE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CODE / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(PARAMS)
    write_split(folder / paths.PREPARED / "train", samples(15), ["semseg", "depth"])
    paths.write_json(folder / paths.PREPARED / "dataset.json", INFO)
    put_empty_store(folder)
    return folder
