"""The names that params.yaml may use, as plain tuples.

Checking params must not import torch, which takes seconds: so the names are listed here. A test asserts that
they equal the real registries: TASKS, DATASETS and ARCHITECTURES of `pipeline.tasks`, `.datasets`, `.networks`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

TASKS = ("semseg", "human_parts", "sal", "depth", "disparity", "normals", "edge")
_LAYOUT_TASKS = tuple(task for task in TASKS if task != "disparity")

# Dataset -> the tasks that it has labels for.
DATASET_TASKS = {
    "rooms": _LAYOUT_TASKS,
    "ccp": ("human_parts", "sal", "edge"),
    "nyud": ("semseg", "depth", "normals", "edge"),
    "pascal_context": ("semseg", "human_parts", "sal", "normals", "edge"),
    "nyuv2_288": ("semseg", "depth", "normals"),
    "cityscapes_128": ("semseg", "disparity"),
    "folder": _LAYOUT_TASKS,  # those that its dataset.yaml lists
}
DATASETS = tuple(DATASET_TASKS)
WITHOUT_ARCHIVE = ("rooms", "folder")
WITH_TEST_SPLIT = ("folder",)  # where dataset.yaml lists one

SINGLE_TASK = "single_task"

# Architecture -> {option: allowed values, the default first}. Those of sequential_attention switch parts off,
# or choose between the paper's figure and its released code where they differ (default: released).
ARCHITECTURE_OPTIONS: dict[str, dict[str, tuple[str | bool | int | float, ...]]] = {
    SINGLE_TASK: {"head": ("multi_scale", "aspp")},
    "multi_task": {"head": ("multi_scale", "aspp")},
    "sequential_attention": {
        "ctam_reduction": ("shared", "per_task"),
        "fpma_mask": ("channels", "tasks"),
        "csam_attention": ("shared", "per_source"),
        "window_padding": ("attended", "masked"),
        "small_map_shift": (True, False),
        "att_drop_path": (0.2, 0.0),
        "att": (True, False),
        "ctam": (True, False),
        "fpma": (True, False),
        "csam": (True, False),
    },
    "mti_net": {"mask": ("channels", "tasks")},
    "pad_net": {"distillation": ("C", "C_target_gate", "B", "A")},
    "cross_stitch": {"stitch": ("channel", "layer"), "own_share": (0.9, 0.8)},
    "nddr_cnn": {"shortcut": (False, True)},
    "mtan": {},
    "atrc": {"deep_supervision": (False, True), "dropout": (0.05, 0.0)},
    "invpt": {"width": (128, 64, 256, 512)},
}
ARCHITECTURES = tuple(ARCHITECTURE_OPTIONS)

# Architecture -> (fewest, most) tasks it can hold, auxiliary ones included; None: no limit.
TASK_COUNT: dict[str, tuple[int, int | None]] = {
    SINGLE_TASK: (1, 1),
    "multi_task": (2, None),
    "sequential_attention": (2, None),
    "mti_net": (2, None),
    "pad_net": (2, None),
    "cross_stitch": (2, None),
    "nddr_cnn": (2, None),
    "mtan": (2, None),
    "atrc": (2, None),
    "invpt": (2, None),
}

# The mappings in params.yaml that declare runs: those that start afresh, and those that start from trained networks.
RUN_FAMILIES = ("runs", "runs_from_single_task")

# Encoder-fusion networks, which may start from trained single-task networks, as their papers do.
FROM_SINGLE_TASK = ("cross_stitch", "nddr_cnn")


# A run's name becomes a file name (<run>-<seed>.json), a DVC stage (train@<run>-<seed>) and part of a key (`dvc exp
# run -S runs.<run>.training.lr=...`): no dots, no spaces, no capitals (some file systems ignore case).
RUN_NAME_RULE = "a letter, then a-z, 0-9, _ and single inner -, at most 60 in all"


def is_run_name(name: object) -> bool:
    """Whether params.yaml may call a run so."""
    return isinstance(name, str) and len(name) <= 60 and bool(re.fullmatch(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*", name))


def nearest(name: object, known: Iterable[object]) -> str | None:
    """The known name that looks most like `name`, or None when nothing comes near."""
    close = difflib.get_close_matches(str(name), [str(each) for each in known], n=1, cutoff=0.6)
    return close[0] if close else None


def unknown(kind: str, name: object, known: Iterable[object]) -> str:
    """The message for an unknown name: the nearest known one, if any, and everything that is allowed."""
    known = list(known)
    near = nearest(name, known)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}Allowed: {', '.join(map(str, known)) or 'none'}"
