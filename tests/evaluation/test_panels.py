"""Panels: which samples are shown, and that the picture has their labels and predictions."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compute import distributed
from pipeline.compute.device import choose_device
from pipeline.data.store import DatasetInfo
from pipeline.evaluation.panels import Panels, panel_indices
from pipeline.evaluation.scoring import predict, score
from pipeline.networks.outputs import Outputs
from pipeline.visual.paint import palette
from tests.evaluation.test_scoring import RECIPE
from tests.support.tiny_training import SIZE, Tiny, make_store

CLASSES = ("a", "b", "c")


class Constant(nn.Module):
    """Says one class and one depth everywhere."""

    def __init__(self, klass: int):
        super().__init__()
        self.klass = klass

    def forward(self, image: torch.Tensor) -> Outputs:
        logits = torch.zeros(len(image), len(CLASSES), *image.shape[-2:])
        logits[:, self.klass] = 1
        return Outputs({"semseg": logits, "depth": torch.full((len(image), 1, *image.shape[-2:]), 2.0)}, [])


@pytest.fixture
def parts(tmp_path):
    store = make_store(tmp_path)
    info = DatasetInfo("own", ("semseg", "depth"), {"semseg": CLASSES}, 0.011, {"val": len(store)}, "d" * 64)
    recipe = RECIPE.model_copy(update={"input_size": SIZE})
    return store, info, recipe, choose_device("float32", True)


def test_the_picture_shows_image_label_and_prediction_of_each_task(parts):
    store, info, recipe, device = parts
    tasks = ("semseg", "depth")
    panels = Panels(store.ids, 3, tasks, info)
    for samples, predictions in predict(Constant(1), store, tasks, recipe, 4, device):
        panels.keep(samples, predictions)
    shown = [store[i] for i in panel_indices(len(store), 3)]
    assert [sample.id for sample, _ in panels.kept] == [sample.id for sample in shown]
    picture, (height, width) = panels.painted(), SIZE
    assert picture.shape == (3 * (height + 4), 5 * width, 3)
    assert np.array_equal(panels.painted(["depth"]), picture[:, [*range(width), *range(3 * width, 5 * width)]])
    for row, sample in zip(np.split(picture, 3), shown, strict=True):
        image, label, predicted, *_ = np.split(row[:height], 5, axis=1)
        assert np.array_equal(image, sample.image)
        assert np.array_equal(label, palette(3)[sample.labels["semseg"].value])
        assert (predicted == palette(3)[1]).all()


def test_predictions_of_single_images_are_those_of_the_split_and_the_latest_are_shown(parts):
    store, info, recipe, device = parts
    panels = Panels(store.ids, 2, ("semseg",), info)
    panels.predict(Constant(2), store, recipe, device)
    assert {int(value) for array in panels.arrays.values() for value in np.unique(array)} == {2}
    score(Constant(0), store, ("semseg",), info, recipe, 16, device, panels.keep)
    assert {int(value) for array in panels.arrays.values() for value in np.unique(array)} == {0}


def test_a_prediction_before_training_leaves_no_trace(parts):
    """A training that is resumed does without it, and ends with the same bits."""
    store, info, recipe, device = parts
    network = Tiny(dropout=0.5)
    network.body = nn.Sequential(network.body, nn.BatchNorm2d(8))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = torch.get_rng_state()
    Panels(store.ids, 2, ("semseg", "depth"), info).predict(network.train(), store, recipe, device)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_what_two_processes_kept_is_of_the_last_pass(parts, monkeypatch):
    """They took turns at the batches; the first prediction of each sample was made by both."""
    store, info, recipe, device = parts
    both = [Panels(store.ids, 4, ("semseg",), info) for _ in range(2)]
    for rank, panels in enumerate(both):
        panels.predict(Constant(2), store, recipe, device)
        panels.clear()
        for samples, predictions in predict(Constant(1), store, ("semseg",), recipe, 3, device, rank, 2):
            panels.keep(samples, predictions)
    assert all(0 < len(panels._kept) < 4 for panels in both)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather", lambda own: [panels._kept for panels in both])
    both[0].gather()
    assert [sample.id for sample, _ in both[0].kept] == both[0].ids
    assert {int(value) for array in both[0].arrays.values() for value in np.unique(array)} == {1}


def test_none_are_shown_where_none_are_asked_for(parts):
    store, info, recipe, device = parts
    panels = Panels(store.ids, 0, ("semseg",), info)
    panels.predict(Constant(2), store, recipe, device)
    assert panels.painted() is None and not panels.kept and not panels.arrays
