"""Scoring: at the label's own size, untouched by batch size, and what a constant predictor gets."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compute.device import choose_device
from pipeline.core import names
from pipeline.data.sample import Label, Sample
from pipeline.data.store import DatasetInfo, Store, write_split
from pipeline.evaluation.panels import panel_indices
from pipeline.evaluation.scoring import finite_or_none, predict, resize_prediction, score
from pipeline.evaluation.trivial import score_trivial
from pipeline.networks.registry import Outputs
from pipeline.params.load import parse_params
from pipeline.tasks import get_task

INPUT = (32, 48)
CLASSES = {"semseg": ("wall", "floor", "bed"), "human_parts": ("background", "head", "torso")}
ALL = names.DATASET_TASKS["rooms"]
RECIPE = parse_params(
    {
        "experiment": "test",
        "data": {"dataset": "rooms", "tasks": list(ALL)},
        "training": {"backbone": "none", "input_size": INPUT, "batch_size": 2, "epochs": 1, "lr": 0.1},
        "seeds": [0],
        "runs": {"all": {"architecture": "multi_task", "tasks": list(ALL)}},
    }
).training
INFO = DatasetInfo("rooms", ALL, CLASSES, 0.02, {"train": 5, "val": 5}, "digest")


def channels(task: str) -> int:
    return INFO.channels(task, get_task(task).channels)


class Pointwise(nn.Module):
    """Predictions from each pixel alone, so that any batch gives the same numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleDict({task: nn.Conv2d(3, channels(task), 1) for task in ALL})

    def forward(self, image):
        return Outputs({task: head(image) for task, head in self.heads.items()}, [])


@pytest.fixture
def store(tmp_path):
    return evaluation_store(tmp_path)


def evaluation_store(folder):
    rng = np.random.default_rng(0)

    def sample(i):
        height, width = 40 + 3 * i, 50 - 2 * i  # no two of one size, none of the input's
        labels = {}
        for task in ALL:
            if task in CLASSES:
                value = rng.integers(0, 3, (height, width), dtype=np.uint8)
            elif task in ("sal", "edge"):
                value = rng.integers(0, 2, (height, width), dtype=np.uint8)
            elif task == "depth":
                value = rng.uniform(1, 5, (height, width)).astype(np.float32)
            else:
                value = rng.normal(size=(height, width, 3)).astype(np.float32)
                value /= np.linalg.norm(value, axis=-1, keepdims=True)
            labels[task] = Label(value, rng.random((height, width)) < 0.9)
        return Sample(str(i), rng.integers(0, 256, (height, width, 3), dtype=np.uint8), labels)

    write_split(folder, (sample(i) for i in range(5)), ALL)
    return Store(folder, ALL)


def test_predictions_come_in_order_at_the_labels_size(store):
    device = choose_device("float32", True)
    seen = []
    for samples, predictions in predict(Pointwise(), store, ALL, RECIPE, 2, device):
        seen += [sample.id for sample in samples]
        for task, predicted in predictions.items():
            for sample, prediction in zip(samples, predicted, strict=True):
                channels = get_task(task).label_channels
                assert prediction.shape == (1, channels, *sample.labels[task].valid.shape)
    assert seen == store.ids


@pytest.mark.slow
def test_score_does_not_depend_on_batch_size(store):
    device = choose_device("float32", True)
    scores = [score(Pointwise(), store, ALL, INFO, RECIPE, size, device) for size in (1, 2, 5)]
    for other in scores[1:]:
        for task in ALL:
            for name, value in scores[0][task].items():
                assert other[task][name] == pytest.approx(value, rel=1e-6, nan_ok=True), (task, name)


def test_depth_rmse_is_that_of_all_valid_pixels_pooled(store):
    device = choose_device("float32", True)
    network = Pointwise()
    squares, count = 0.0, 0
    for samples, predictions in predict(network, store, ("depth",), RECIPE, 3, device):
        for sample, prediction in zip(samples, predictions["depth"], strict=True):
            label = sample.labels["depth"]
            error = prediction[0, 0].double().numpy().clip(min=0) - label.value  # below 0 counts as 0
            squares += (error[label.valid] ** 2).sum()
            count += label.valid.sum()
    scores = score(network, store, ("depth",), INFO, RECIPE, 3, device)
    assert scores["depth"]["rmse"] == pytest.approx(np.sqrt(squares / count), rel=1e-9)


def test_class_maps_are_never_mixed_when_resized():
    decoded = torch.tensor([[[[0, 2], [2, 0]]]], dtype=torch.uint8)
    resized = resize_prediction(get_task("semseg"), decoded, (7, 9))
    assert resized.shape == (1, 1, 7, 9) and resized.dtype == torch.uint8
    assert set(resized.unique().tolist()) == {0, 2}
    smooth = resize_prediction(get_task("sal"), torch.tensor([[[[0.0, 1.0]]]]), (7, 9))
    assert 0 < smooth[0, 0, 3, 4] < 1


@pytest.mark.parametrize("size", [(3, 4), (12, 16), (7, 9), (50, 5)])
def test_a_class_map_is_resized_to_the_pixel_under_each_centre(size):
    """As labels are: a map that is taken elsewhere is scored as if it were shifted."""
    decoded = torch.arange(6 * 8, dtype=torch.uint8).view(1, 1, 6, 8)
    expected = [
        [decoded[0, 0, _under(i, 6, size[0]), _under(j, 8, size[1])] for j in range(size[1])] for i in range(size[0])
    ]
    assert resize_prediction(get_task("semseg"), decoded, size)[0, 0].tolist() == torch.tensor(expected).tolist()


def _under(new: int, old_count: int, new_count: int) -> int:
    """Of `old_count` pixels in a row, the one that the centre of number `new` of `new_count` falls on."""
    return (2 * new + 1) * old_count // (2 * new_count)


def test_trivial_predictor_is_the_best_constant(store):
    scores, constants = score_trivial(store, store, ALL, INFO)
    depth = np.concatenate([label.value[label.valid] for label in store.labels("depth")]).astype(np.float64)
    assert float(constants["depth"]) == pytest.approx(depth.mean(), rel=1e-5)
    assert scores["depth"]["rmse"] == pytest.approx(depth.std(), rel=1e-4)
    semseg = np.concatenate([label.value[label.valid] for label in store.labels("semseg")])
    majority = np.bincount(semseg).argmax()
    assert int(constants["semseg"]) == majority
    assert scores["semseg"]["pixel_accuracy"] == pytest.approx(100 * (semseg == majority).mean())
    assert np.linalg.norm(constants["normals"]) == pytest.approx(1, abs=1e-5)
    assert set(scores) == set(ALL)


def test_undefined_scores_become_null():
    assert finite_or_none({"depth": {"rmse": float("nan"), "abs_rel": 0.5}}) == {
        "depth": {"rmse": None, "abs_rel": 0.5}
    }


def test_panels_are_spread_and_never_twice():
    assert panel_indices(100, 4) == [12, 37, 62, 87]
    assert panel_indices(2, 4) == [0, 1]
    assert panel_indices(5, 0) == []
