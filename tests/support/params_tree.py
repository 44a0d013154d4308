"""Params to change and to spoil, for the tests of params."""

from __future__ import annotations

import pytest

from pipeline.core.errors import ParamsError
from pipeline.params.load import parse_params


def some_params() -> dict:
    """A valid tree of two runs, as YAML gives it."""
    return {
        "data": {"dataset": "rooms", "tasks": ["semseg", "depth", "edge"]},
        "training": {
            "backbone": "hrnet_w18_small",
            "input_size": [64, 96],
            "batch_size": 4,
            "epochs": 3,
            "lr": 1e-3,
            "task_weights": {"depth": 2.0},
            "augmentation": {"flip": 0.25},
        },
        "seeds": [0, 1],
        "runs": {
            "depth": {"architecture": "single_task", "tasks": ["depth"]},
            "both": {
                "architecture": "sequential_attention",
                "tasks": ["semseg", "depth"],
                "auxiliary_tasks": ["edge"],
                "options": {"ctam_reduction": "per_task", "att": False},
                "training": {"lr": 1e-4, "task_weights": {"semseg": 3.0}, "augmentation": {"scale": [1, 2]}},
            },
        },
    }


def put(tree: dict, path: str, value: object) -> None:
    """Set a value by its dotted key."""
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def message(raw: dict) -> str:
    """What refuses the tree."""
    with pytest.raises(ParamsError) as caught:
        parse_params(raw, "params.yaml")
    return str(caught.value)
