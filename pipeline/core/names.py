"""The names that params.yaml may use, as plain tuples.

Checking params must not import torch, which takes seconds: so the names are listed here. A test asserts that
they equal the real registries: TASKS, DATASETS and ARCHITECTURES of `pipeline.tasks`, `.datasets`, `.networks`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

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
        "scale_channels": ("backbone", 64, 128, 256),
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
    "invpt": {"width": (128, 64, 256, 512), "vit_maps": ("pyramid", "depths")},
}
ARCHITECTURES = tuple(ARCHITECTURE_OPTIONS)

# Architecture -> (fewest, most) tasks it can hold, auxiliary ones included; None: no limit.
TASK_COUNT: dict[str, tuple[int, int | None]] = dict.fromkeys(ARCHITECTURES, (2, None)) | {SINGLE_TASK: (1, 1)}


class Range(NamedTuple):
    """The finite numbers that an option takes: from `low` (itself too, unless `above`) to `high`."""

    low: float
    high: float = float("inf")
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value is one of them."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high and value < float("inf")

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'of at least'} {self.low:g}"
        return f"a number {low}" if self.high == float("inf") else f"a number {low} and at most {self.high:g}"


FIXED = "fixed"  # by task_weights alone

# Method by which a run balances its tasks -> {option: what it takes}. Defaults: pipeline/balancing.
BALANCING: dict[str, dict[str, Range]] = {
    FIXED: {},
    # By the losses' values:
    "uw": {},
    "dwa": {"temperature": Range(0, above=True)},
    "rlw": {},
    "gls": {},
    "imtl_l": {},
    "famo": {"lr": Range(0), "weight_decay": Range(0)},
    "stch": {"mu": Range(0, above=True)},
    # By the tasks' gradients:
    "gradnorm": {"alpha": Range(0), "lr": Range(0, above=True)},
    "mgda": {},
    "pcgrad": {},
    "gradvac": {"beta": Range(0, 1)},
    "graddrop": {"leak": Range(0, 1)},
    "cagrad": {"c": Range(0)},
    "imtl_g": {},
    "nash_mtl": {"max_norm": Range(0)},
    "aligned_mtl": {},
    "fairgrad": {"alpha": Range(0, above=True)},
    "sdmgrad": {"preference": Range(0)},
    "modo": {"gamma": Range(0, above=True), "rho": Range(0)},
    "upgrad": {},
}
BY_LOSSES = ("uw", "dwa", "rlw", "gls", "imtl_l", "famo", "stch")
BY_GRADIENTS = tuple(method for method in BALANCING if method not in (FIXED, *BY_LOSSES))
TWO_BATCHES = ("sdmgrad", "modo")  # they compare gradients of two halves of the batch, for `accumulate` to make
NO_CUDA_GRAPH = ("gls",)

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
