"""Choosing an epoch on held-out training samples: by the primary metric, by Δm over tasks, never by NaN."""

import math

import pytest
import torch
from torch import nn

from pipeline.core.errors import TrainingError
from pipeline.train.epoch_selection import Selection, mean_gain


def choose(tasks: tuple[str, ...], *epochs: dict[str, float]) -> tuple[int, float]:
    """The kept epoch and, to tell weights apart, the bias that the network had in it."""
    primary_metric = {"semseg": "mIoU", "depth": "rmse", "normals": "mean", "edge": "odsF"}
    network, selection = nn.Linear(1, 1), Selection(tasks)
    for epoch, scores in enumerate(epochs, start=1):
        nn.init.constant_(network.bias, epoch)
        selection.offer(epoch, {task: {primary_metric[task]: value} for task, value in scores.items()}, network)
    selection.restore(network)
    return selection.epoch, network.bias.item()


def test_one_task_keeps_its_best_headline():
    assert choose(("semseg",), {"semseg": 20.0}, {"semseg": 31.0}, {"semseg": 30.0}) == (2, 2.0)
    assert choose(("depth",), {"depth": 0.9}, {"depth": 0.6}, {"depth": 0.7}) == (2, 2.0)


def test_the_first_of_equals_is_kept():
    assert choose(("semseg",), {"semseg": 20.0}, {"semseg": 20.0}) == (1, 1.0)


def test_several_tasks_are_weighed_by_relative_gain():
    start = {"semseg": 20.0, "depth": 1.0}
    assert choose(("semseg", "depth"), start, {"semseg": 19.0, "depth": 0.9})[0] == 2  # -5 % and +10 %
    assert choose(("semseg", "depth"), start, {"semseg": 21.0, "depth": 1.1})[0] == 1  # +5 % and -10 %
    assert mean_gain({"semseg": 19.0, "depth": 0.9}, start) == pytest.approx((-5 + 10) / 2)


def test_anything_is_better_than_nothing():
    assert choose(("edge",), {"edge": 0.0}, {"edge": 0.0}, {"edge": 0.1})[0] == 3


def test_weights_are_copied_not_shared():
    network, selection = nn.Linear(1, 1), Selection(("semseg",))
    before = network.weight.detach().clone()
    selection.offer(1, {"semseg": {"mIoU": 1.0}}, network)
    with torch.no_grad():
        network.weight.add_(1)
    selection.restore(network)
    assert torch.equal(network.weight, before)


def test_an_undefined_headline_is_told():
    with pytest.raises(TrainingError, match=r"semseg mIoU is nan .*select_on"):
        Selection(("semseg",)).offer(1, {"semseg": {"mIoU": math.nan}}, nn.Linear(1, 1))
