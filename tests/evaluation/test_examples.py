"""Images chosen by their scores, and which class is taken for which."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from pipeline.compute.device import choose_device
from pipeline.core import paths
from pipeline.core.errors import DataError
from pipeline.evaluation.confusion import confusion_file, read_confusion, write_confusion
from pipeline.evaluation.examples import chosen, chosen_of, predictions_of_chosen
from pipeline.evaluation.scoring import Scorer, as_map, score_with
from pipeline.evaluation.statistics import SplitStatistics
from tests.evaluation.test_scoring import ALL, INFO, RECIPE, Pointwise, evaluation_store

CPU = choose_device("float32", True)


@pytest.mark.parametrize(
    ("scores", "higher", "expected"),
    [
        ([3, 1, 2], True, (1, 2, 0)),
        ([3, 1, 2], False, (0, 2, 1)),
        ([4, 1, 2, 3], True, (1, 2, 0)),  # of 2 and 3 the worse
        ([4, 1, 2, 3], False, (0, 3, 1)),
        ([math.nan, 5, math.nan], True, (1, 1, 1)),
        ([2, 7, 7, 2, 5], True, (0, 4, 1)),  # of equals the first
        ([2, 7, 7, 2, 5], False, (1, 4, 0)),
    ],
)
def test_worst_median_and_best(scores, higher, expected):
    found = chosen(np.array(scores, float), higher)
    assert (found["worst"], found["median"], found["best"]) == expected


def test_nothing_is_chosen_where_nothing_is_scored():
    assert chosen(np.full(3, np.nan), True) == {}


@pytest.fixture
def scored(in_tmp):
    """Store, statistics, confusion matrices, and all predictions of a network that looks at single pixels."""
    store = evaluation_store(in_tmp / "val")
    scorer = Scorer(ALL, INFO, torch.device("cpu"))
    everything = {}

    def keep(samples, predictions):
        for task, of in predictions.items():
            everything.update({(s.id, task): as_map(each) for s, each in zip(samples, of, strict=True)})

    score_with(scorer, Pointwise(), store, ALL, RECIPE, 2, CPU, keep)
    statistics = SplitStatistics(store.ids, scorer.statistics, scorer.formulas)
    return store, statistics, scorer.confusions, everything


def test_what_is_predicted_once_more_is_what_was_scored(scored):
    store, statistics, _, everything = scored
    examples = chosen_of(statistics)
    assert set(examples) == set(ALL)
    found = {
        (id_, task): array for id_, task, array in predictions_of_chosen(Pointwise(), store, examples, RECIPE, 3, CPU)
    }
    assert set(found) == {(store.ids[i], task) for task, ranks in examples.items() for i in ranks.values()}
    for key, array in found.items():
        np.testing.assert_allclose(array, everything[key], rtol=1e-5, atol=1e-6)


def test_confusion_is_scikit_learns_and_fits_its_statistics_alone(scored):
    store, statistics, confusions, everything = scored
    assert set(confusions) == {"semseg", "human_parts"}
    labels = [store[i].labels["semseg"] for i in range(len(store))]
    predictions = [everything[id_, "semseg"] for id_ in store.ids]
    value, prediction = (
        np.concatenate([each[label.valid] for each, label in zip(of, labels, strict=True)])
        for of in ([label.value for label in labels], predictions)
    )
    assert np.array_equal(confusions["semseg"], confusion_matrix(value, prediction, labels=[0, 1, 2]))
    write_confusion("both", 0, confusions)
    assert all(np.array_equal(each, confusions[t]) for t, each in read_confusion("both", 0, statistics).items())
    write_confusion("both", 0, {"semseg": confusions["semseg"].T, "human_parts": confusions["human_parts"]})
    with pytest.raises(DataError, match="semseg has other pixels"):
        read_confusion("both", 0, statistics)
    write_confusion("both", 0, {"semseg": confusions["semseg"]})
    with pytest.raises(DataError, match="human_parts has other pixels"):
        read_confusion("both", 0, statistics)
    confusion_file("both", 0).unlink()
    with pytest.raises(DataError, match=r"confusion.json is missing"):
        read_confusion("both", 0, statistics)
    assert confusion_file("both", 0).parent == paths.panel_dir("both", 0)
