"""The project that faults are tried on: one run of each kind of stage, on a dataset with an archive, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.nyud_archive import TOP, nyud_files, write_tgz
from tests.support.project import Project

FRAMES = 12
ARCHIVE = "archives/own.tgz"
EXPERIMENT = "faults"
RUN = "semseg-0"

PARAMS = {
    "experiment": EXPERIMENT,
    "data": {
        "dataset": "nyud", "tasks": ["semseg", "depth"], "limit": None, "archive": ARCHIVE, "folder": "data/own",
    },
    "training": {
        "backbone": "test_resnet", "input_size": [32, 64], "batch_size": 4, "epochs": 2, "lr": 1.0e-3,
        "validate_every": 1, "hrnet_upsampling": "bilinear",
        "augmentation": {"flip": 0.5, "scale": [1.0, 1.2], "scale_mode": "choice", "rotation": 0.0},
    },
    "evaluation": {
        "batch_size": 4, "panels": 1, "select_on": "train_holdout", "edge_nms": False, "allow_different": [],
        "split": "val",
    },
    "checkpoint_minutes": 0.0001,  # every step
    "seeds": [0],
    "runs": {"semseg": {"architecture": "single_task", "tasks": ["semseg"]}},
    "runs_from_single_task": {},
    "tuned": {},
}  # fmt: skip
STITCHED = {
    "runs": PARAMS["runs"] | {"depth": {"architecture": "single_task", "tasks": ["depth"]}},
    "runs_from_single_task": {"stitched": {"architecture": "cross_stitch", "tasks": ["semseg", "depth"]}},
}


@dataclass(frozen=True)
class Example:
    """A project and its stages in their order; DVC reads and writes the lock file of few stages sooner.

    until: what else has to run for what a stage leaves to be seen, where that is more than the stage. has_store:
    MLflow's database is there from the start: to make it takes five thousand calls, which would hide a training's own.
    """

    name: str
    params: dict[str, Any]
    stages: tuple[str, ...]
    until: dict[str, str]
    has_store: bool = True

    def make(self, folder: Path) -> Project:
        """The project before its first stage."""
        folder.mkdir()
        project = Project(folder, self.params)
        (folder / ARCHIVE).parent.mkdir()
        write_tgz(frames(), folder / ARCHIVE)
        return project


ONE = Example(
    "one",
    PARAMS,
    ("download", "prepare", "selection", "adoption", "train@semseg-0", "evaluate@semseg-0", "compare", "report"),
    {"download": "prepare", "train@semseg-0": "evaluate@semseg-0", "compare": "report"},
)
FROM_SINGLE_TASK = Example(
    "from_single_task",
    PARAMS | STITCHED,
    (
        *("train@depth-0", "train@semseg-0", "evaluate@semseg-0", "evaluate@depth-0"),
        *("single_task_weights@stitched-0", "train_from_single_task@stitched-0"),
        *("evaluate_from_single_task@stitched-0", "compare", "report"),
    ),
    {"train_from_single_task@stitched-0": "evaluate_from_single_task@stitched-0", "compare": "report"},
    has_store=False,
)
# Where each stage is tried. train@depth-0: from a fresh clone on, everything before it included.
EXAMPLE_OF = {stage: ONE for stage in ONE.stages} | {
    stage: FROM_SINGLE_TASK
    for stage in FROM_SINGLE_TASK.stages
    if "single_task" in stage or stage in ("train@depth-0", "compare")
}


def frames() -> dict[str, bytes]:
    """A NYUD_MT archive of FRAMES training frames: the same three over and over, under other ids."""
    files = dict(nyud_files())
    for i in range(3, FRAMES):
        twin = f"/{i % 3:04d}."
        files |= {name.replace(twin, f"/{i:04d}."): content for name, content in nyud_files().items() if twin in name}
    ids = "".join(f"{i:04d}\n" for i in range(FRAMES))
    return files | {f"{TOP}/gt_sets/train.txt": ids.encode()}
