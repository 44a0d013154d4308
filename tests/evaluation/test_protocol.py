"""The protocol of scoring: what the metrics files say of it, and the known errors of the field that it is immune to."""

import json
import math
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compute.device import choose_device
from pipeline.core.errors import TrainingError
from pipeline.data.sample import Label, Sample
from pipeline.data.store import DatasetInfo, Store, write_split
from pipeline.evaluation.scoring import Scorer, score
from pipeline.metrics.edges import EdgeMetric
from pipeline.metrics.segmentation import SegmentationMetric
from pipeline.networks.registry import Outputs
from pipeline.tasks import TASKS, TaskContext

EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
CONTEXT = TaskContext(classes=("background", "head", "torso"), edge_max_dist=0.011)
FINITE = [name for name, task in TASKS.items() if task.channels is not None]  # class maps hold no NaN
INPUT = (24, 32)
RECIPE = SimpleNamespace(input_size=INPUT, normalization="imagenet")
INFO = DatasetInfo("rooms", tuple(TASKS), {"semseg": ("a", "b"), "human_parts": ("none", "some")}, 0.011, {}, "digest")


# What is said


def one_image(task, size=(6, 8)):
    """(prediction, target, valid) that are right: class 1, probability 1, 1 metre or one direction everywhere."""
    target = torch.ones(1, task.label_channels, *size, dtype=torch.uint8 if task.categorical else torch.float32)
    prediction = target.clone() if task.channels is None else target.float()
    return prediction, target, torch.ones(1, 1, *size, dtype=torch.bool)


@EVERY
def test_every_score_is_explained(task):
    metric = task.metric(CONTEXT)
    metric.update(*one_image(task))
    for name in metric.compute():
        stem = re.sub(r"_?[\d.]+$", "", name).partition("/")[0]
        if stem not in ("images", "valid_pixels", "IoU"):
            assert re.search(rf"\b{stem}(\b|_)", metric.protocol), f"{name} is not explained: {metric.protocol}"


def test_the_edge_variant_in_force_is_stated():
    strict, loose = EdgeMetric(0.0075).protocol, EdgeMetric(0.011, nms=True).protocol
    assert "0.0075 of the image diagonal" in strict and "no non-maximum suppression" in strict
    assert "0.011 of the image diagonal" in loose and "non-maxima across the ridge are suppressed" in loose
    for said in ("99 thresholds", "thinned (Guo and Hall", "one to one"):
        assert said in strict and said in loose


def test_the_rule_for_people_is_stated_with_the_classes_in_force():
    parts, semseg = (TASKS[name].metric(CONTEXT).protocol for name in ("human_parts", "semseg"))
    assert "nothing but background" in parts and "skipped" in parts
    assert "skipped" not in semseg
    assert "over all 3" in semseg


def test_a_scorer_takes_the_datasets_tolerance_and_the_variant_of_params():
    cpu = torch.device("cpu")
    assert "no non-maximum suppression" in Scorer(("edge",), INFO, cpu).protocol["edge"]
    scorer = Scorer(tuple(TASKS), INFO, cpu, edge_nms=True)
    assert set(scorer.protocol) == set(TASKS)
    assert scorer.protocol["edge"] == EdgeMetric(0.011, nms=True).protocol


@pytest.mark.parametrize("share", [0, -0.1, 1, 8.8, math.nan])
def test_a_tolerance_in_pixels_is_refused(share):
    with pytest.raises(ValueError, match="a share of the image diagonal is expected"):
        EdgeMetric(share)


# Traps


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_is_an_error_and_no_answer(name, nonsense):
    """NaN compares as false: it would be no edge, above every threshold of saliency, or void the split's RMSE."""
    prediction, target, valid = one_image(TASKS[name])
    prediction[0, -1, 2, 3] = nonsense
    with pytest.raises(TrainingError, match="NaN or infinite in 1 of 48 valid pixels"):
        TASKS[name].metric(CONTEXT).update(prediction, target, valid)
    valid[..., 2, 3] = False
    metric = TASKS[name].metric(CONTEXT)
    metric.update(prediction, target, valid)
    result = metric.compute()
    assert result["valid_pixels"] == 47
    assert all(map(math.isfinite, result.values()))


def test_more_classes_than_a_class_map_can_hold_are_refused():
    names = [str(i) for i in range(459)]
    assert SegmentationMetric(names[:256]).compute()["images"] == 0
    with pytest.raises(ValueError, match="459 classes"):
        SegmentationMetric(names)


class Fixed(nn.Module):
    """The same raw maps for whatever image: tells what scoring does to a prediction."""

    def __init__(self, **maps):
        super().__init__()
        self.maps = {task: torch.as_tensor(array)[None] for task, array in maps.items()}

    def forward(self, image):
        return Outputs({task: array.expand(len(image), -1, -1, -1) for task, array in self.maps.items()})


def store(folder, labels):
    """A prepared split of one task: `labels` is {task: [Label, ...]}, of any sizes."""
    (task, of) = next(iter(labels.items()))
    samples = (Sample(str(i), np.zeros((*label.valid.shape, 3), np.uint8), {task: label}) for i, label in enumerate(of))
    write_split(folder, samples, (task,))
    return Store(folder, (task,))


def scores_of(network, split, task, batch_size):
    return score(network, split, (task,), INFO, RECIPE, batch_size, choose_device("float32", False))[task]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_depth_is_scored_at_each_labels_own_size(tmp_path, batch_size):
    """Against OpenCV's resize of the same map and NumPy's RMSE, with untouched labels of three sizes."""
    rng = np.random.default_rng(0)
    low = rng.uniform(1, 5, (1, *INPUT)).astype(np.float32)
    labels, squares = [], []
    for height, width in ((40, 50), (24, 32), (61, 37)):
        value, valid = rng.uniform(1, 5, (height, width)).astype(np.float32), rng.random((height, width)) < 0.7
        labels.append(Label(value, valid))
        resized = cv2.resize(low[0].astype(np.float64), (width, height), interpolation=cv2.INTER_LINEAR)
        squares.append((resized - value)[valid] ** 2)
    result = scores_of(Fixed(depth=low), store(tmp_path, {"depth": labels}), "depth", batch_size)
    assert result["rmse"] == pytest.approx(np.sqrt(np.concatenate(squares).mean()), rel=1e-5)
    assert (result["images"], result["valid_pixels"]) == (3, sum(int(label.valid.sum()) for label in labels))


@pytest.mark.parametrize("size", [INPUT, (48, 64)])
def test_probabilities_are_not_rounded_to_uint8(tmp_path, size):
    """0.2005 is above 0.2; rounded to 51/255, as the field stores predictions, it would not be."""
    probability = np.full((1, *INPUT), 0.2005, np.float32)
    salient = Label(np.ones(size, np.uint8), np.ones(size, bool))
    logits = np.log(probability / (1 - probability))
    assert scores_of(Fixed(sal=logits), store(tmp_path, {"sal": [salient]}), "sal", 1)["mIoU"] == 100


def test_a_sigmoid_is_applied_once(tmp_path):
    """Once, 0.25 parts 0.26 from 0.24. Twice, they would be 0.565 and 0.560, which no threshold tells apart."""
    value = np.zeros(INPUT, np.uint8)
    value[:, :16] = 1
    label = Label(value, np.ones(INPUT, bool))
    probability = np.where(value, 0.26, 0.24).astype(np.float32)[None]
    result = scores_of(Fixed(sal=np.log(probability / (1 - probability))), store(tmp_path, {"sal": [label]}), "sal", 1)
    assert result["mIoU"] == result["maxF_pooled"] == 100


def test_an_image_without_people_counts_for_nothing(tmp_path):
    rng = np.random.default_rng(1)
    everywhere = np.ones(INPUT, bool)
    people = Label(rng.integers(0, 2, INPUT, dtype=np.uint8), everywhere)
    nobody, void = Label(np.zeros(INPUT, np.uint8), everywhere), Label(people.value, ~everywhere)
    network = Fixed(human_parts=rng.normal(size=(2, *INPUT)).astype(np.float32))
    alone = scores_of(network, store(tmp_path / "a", {"human_parts": [people]}), "human_parts", 3)
    among = scores_of(network, store(tmp_path / "b", {"human_parts": [nobody, people, void]}), "human_parts", 3)
    assert json.dumps(alone) == json.dumps(among)
    assert (among["images"], among["valid_pixels"]) == (1, people.valid.sum())
