"""Runs that start from trained single-task networks: which these are, and what is refused."""

from __future__ import annotations

import pytest

from pipeline.core.errors import ParamsError
from pipeline.params.load import parse_params
from pipeline.params.rules import single_task_sources
from tests.support.params_tree import message, put, some_params


@pytest.fixture
def fused() -> dict:
    """`stitched` starts from the runs semseg and depth."""
    raw = some_params()
    raw["runs"]["semseg"] = {"architecture": "single_task", "tasks": ["semseg"]}
    raw["runs_from_single_task"] = {"stitched": {"architecture": "cross_stitch", "tasks": ["semseg", "depth"]}}
    return raw


def test_a_run_from_single_task_is_a_run_like_any_other(fused):
    put(fused, "runs_from_single_task.stitched.training", {"lr": 1e-2})
    params = parse_params(fused)
    run = params.run("stitched")
    assert (run.training.lr, run.training.epochs) == (1e-2, 3)
    assert run.from_single_task and not params.run("both").from_single_task
    assert list(params.all_runs) == ["depth", "both", "semseg", "stitched"]
    assert (run.key, params.run("both").key) == ("runs_from_single_task.stitched", "runs.both")
    assert run.stage("train", 1) == "train_from_single_task@stitched-1"
    assert params.run("both").stage("evaluate", 0) == "evaluate@both-0"
    with pytest.raises(ParamsError, match="unknown run 'stiched'; did you mean 'stitched'"):
        params.run("stiched")


def test_it_starts_from_the_single_task_runs_that_fit(fused):
    put(fused, "runs.wide", {"architecture": "single_task", "tasks": ["depth"], "training": {"backbone": "wide"}})
    put(fused, "runs.aspp", {"architecture": "single_task", "tasks": ["depth"], "options": {"head": "aspp"}})
    put(fused, "runs.edge", {"architecture": "single_task", "tasks": ["edge"], "training": {"epochs": 9}})
    put(fused, "runs_from_single_task.stitched.auxiliary_tasks", ["edge"])
    sources = single_task_sources(parse_params(fused), "stitched")
    assert sources == {"semseg": "semseg", "depth": "depth", "edge": "edge"}


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "runs.stitched",
            {"architecture": "single_task", "tasks": ["edge"]},
            "stitched: runs has this name too; rename",
        ),
        (
            "runs_from_single_task.stitched.architecture",
            "multi_task",
            "stitched.architecture: multi_task can't start from single-task networks; allowed: cross_stitch, nddr_cnn. "
            "Move it to runs",
        ),
        (
            "runs_from_single_task.stitched.auxiliary_tasks",
            ["edge"],
            "stitched.auxiliary_tasks: runs has no single_task run of edge to start from; add one, or move this run",
        ),
        (
            "runs.depth.training",
            {"backbone": "wide", "normalization": "half"},
            "stitched.tasks: runs has no single_task run of depth to start from (depth: backbone wide, not "
            "hrnet_w18_small, normalization half, not imagenet); add one",
        ),
        ("runs.depth.training", {"output_stride": 16}, "(depth: output_stride 16, not 32)"),
        ("runs.depth.options", {"head": "aspp"}, "(depth: options.head aspp, not multi_scale)"),
        (
            "runs.again",
            {"architecture": "single_task", "tasks": ["depth"]},
            "stitched.tasks: runs has several networks of depth to start from, depth, again; keep one of them",
        ),
        ("runs_from_single_task.stitched.tasks", ["sal", "depth"], "stitched.tasks: sal is not in data.tasks"),
        ("runs_from_single_task.stitched.training", {"epoch": 1}, "stitched.training.epoch: unknown key; did you mean"),
        (
            "runs_from_single_task.stitched.option",
            {},
            "unknown key; did you mean runs_from_single_task.stitched.options",
        ),
    ],
)
def test_what_it_cannot_start_from_is_named(fused, path, value, says):
    put(fused, path, value)
    assert says in message(fused)
    assert message(fused).startswith("params.yaml: runs_from_single_task.stitched")
