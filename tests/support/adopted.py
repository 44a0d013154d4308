"""Files and runs for tests of adoption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from pipeline.adopt.checkpoint import Checkpoint
from pipeline.core import names
from pipeline.data.store import DatasetInfo
from pipeline.params.load import parse_params
from pipeline.params.schema import ResolvedRun
from tests.support.narrow_hrnet import NARROW

TASKS = tuple(task for task in names.TASKS if task != "disparity")


def file_of(tensors: Mapping[str, Tensor], ordered: bool = True) -> Checkpoint:
    """The checkpoint, as it is read."""
    return Checkpoint(Path("checkpoints/file.pth"), "0" * 64, dict(tensors), ordered)


def info_of(outputs: Mapping[str, int]) -> DatasetInfo:
    """A dataset with as many classes as the tasks have channels, {task: channels}."""
    classes = {t: tuple(str(i) for i in range(n)) for t, n in outputs.items() if t in ("semseg", "human_parts")}
    return DatasetInfo("rooms", TASKS, classes, 0.01, {"train": 2, "val": 2}, "d" * 64)


def run_of(
    architecture: str,
    tasks: Sequence[str],
    auxiliary: Sequence[str] = (),
    backbone: str = NARROW,
    options: Mapping[str, object] | None = None,
    **training: object,
) -> ResolvedRun:
    run = {
        "architecture": architecture, "tasks": list(tasks), "auxiliary_tasks": list(auxiliary),
        "options": dict(options or {}),
    }  # fmt: skip
    raw = {
        "data": {"dataset": "rooms", "tasks": list(TASKS)},
        "training": {"backbone": backbone, "input_size": [64, 96], "batch_size": 2, "epochs": 1, "lr": 1.0, **training},
        "seeds": [0],
        "runs": {"published": run},
    }
    return parse_params(raw).run("published")
