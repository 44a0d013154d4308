"""What each image adds to a primary metric's sums: scores and resampled scores are those of the metric itself."""

import math

import numpy as np
import pytest
import torch

from pipeline.metrics.resampling import (
    FORMULAS,
    RESAMPLES,
    draw,
    resampled_performance,
    resampled_scores,
    score,
    scores_of_each,
    scores_without_each,
)
from pipeline.tasks import TASKS
from tests.metrics.test_metrics import CONTEXT, EVERY, H, N, W, split


def holed(task, seed=0):
    """A split with an image without a label, one of background alone, and one where nothing is salient."""
    prediction, target, valid = split(task, seed)
    valid[1] = False
    if task.categorical:
        target[2] = 0
    return prediction, target, valid


def scored(task, data):
    metric = task.metric(CONTEXT)
    metric.update(*data)
    return metric


def primary(task, data):
    return scored(task, data).compute()[task.primary_metric]


@EVERY
def test_the_score_follows_from_the_statistics(task):
    for data in (split(task), holed(task)):
        metric = scored(task, data)
        assert {len(array) for array in metric.statistics.values()} == {N}
        assert {array.dtype.name for array in metric.statistics.values()} <= {"int64", "float64"}
        assert score(metric.statistics, metric.formula) == pytest.approx(primary(task, data), rel=1e-12)


@EVERY
def test_the_score_of_each_image_is_that_of_a_split_of_it_alone(task):
    """Brute force. Where the metric chooses a threshold, an image alone would choose its own: no worse one."""
    data = holed(task)
    metric = scored(task, data)
    found = scores_of_each(metric.statistics, metric.formula)
    alone = np.array([primary(task, tuple(each[i : i + 1] for each in data)) for i in range(N)])
    assert np.array_equal(np.isnan(found), np.isnan(alone)) and np.isnan(found).any() and np.isfinite(found).any()
    if metric.formula.startswith("best_"):
        assert (found[np.isfinite(found)] <= alone[np.isfinite(alone)] + 1e-9).all()
    else:
        assert found == pytest.approx(alone, rel=1e-12, nan_ok=True)


def test_images_share_the_threshold_that_is_best_for_the_split():
    """By hand: of two thresholds the second is best in sum, the first for the first image."""
    iou = {"value": np.array([[0.9, 0.8], [0.1, 0.6]]), "scored": np.array([1, 1])}
    assert scores_of_each(iou, "best_mean") == pytest.approx([80, 60])
    edges = {
        "matched": np.array([[4, 3], [0, 4]]),
        "predicted": np.array([[4, 4], [4, 4]]),
        "labelled": np.array([4, 4]),
        "scored": np.array([1, 1]),
    }
    assert scores_of_each(edges, "best_f_measure") == pytest.approx([75, 100])


@EVERY
@pytest.mark.parametrize("seed", range(2))
def test_whole_weights_are_images_repeated(task, seed):
    """Brute force: the metric itself over the images of a resample, repeated as often as they were drawn."""
    data = holed(task)
    metric = scored(task, data)
    weights = draw(N, 5, seed)
    for weight, got in zip(weights, resampled_scores(weights, metric.statistics, metric.formula), strict=True):
        drawn = torch.from_numpy(np.repeat(np.arange(N), weight.astype(int)))
        expected = primary(task, tuple(each[drawn] for each in data))
        assert got == pytest.approx(expected, rel=1e-12, nan_ok=True)


@EVERY
def test_an_image_left_out_is_one_that_was_never_there(task):
    data = holed(task)
    metric = scored(task, data)
    for i, got in enumerate(scores_without_each(metric.statistics, metric.formula)):
        rest = tuple(torch.cat([each[:i], each[i + 1 :]]) for each in data)
        assert got == pytest.approx(primary(task, rest), rel=1e-12)


@EVERY
def test_nothing_to_score_is_not_a_score(task):
    prediction, target, valid = split(task)
    metric = scored(task, (prediction, target, torch.zeros_like(valid)))
    assert math.isnan(score(metric.statistics, metric.formula))
    assert all((array == 0).all() for array in metric.statistics.values())


@EVERY
def test_a_batch_cannot_move_a_bit_and_reset_forgets(task):
    data = split(task)
    whole, parts = scored(task, data), task.metric(CONTEXT)
    parts.update(*split(task, seed=1))
    parts.reset()
    for part in zip(*(each.split(4) for each in data), strict=True):
        parts.update(*part)
    assert parts.compute() == whole.compute()
    for name, array in whole.statistics.items():
        assert np.array_equal(parts.statistics[name], array)


def test_images_of_background_alone_add_nothing_to_human_parts():
    task = TASKS["human_parts"]
    kept = scored(task, holed(task)).statistics
    assert [int(each) for each in kept["labelled"].sum(1) > 0] == [1, 0, 0, 1, 1, 1]
    assert kept["predicted"][2].sum() == 0


def test_formulas_are_those_of_the_metrics():
    assert {task.metric(CONTEXT).formula for task in TASKS.values()} == set(FORMULAS)


def test_a_draw_is_always_the_same_and_as_large_as_the_split():
    weights = draw(7)
    assert weights.shape == (RESAMPLES, 7) and RESAMPLES >= 2000
    assert (weights.sum(1) == 7).all() and (weights == draw(7)).all()
    assert weights.mean() == 1 and weights.var() == pytest.approx(6 / 7, rel=0.05)  # binomial (7, 1/7)
    assert draw(3, 4).tolist() == [
        [1, 0, 2],
        [0, 0, 3],
        [0, 2, 1],
        [1, 1, 1],
    ]  # pinned: another stream would move every interval


def test_sums_do_not_depend_on_the_order_of_images():
    """They are exact, so how a library cuts up a product of matrices moves no bit."""
    rng = np.random.default_rng(0)
    kept = {"squared": rng.lognormal(8, 3, 500), "pixels": rng.integers(1, 300_000, 500)}
    weights, order = draw(500, 200), rng.permutation(500)
    shuffled = {name: array[order] for name, array in kept.items()}
    plain = np.sqrt((weights @ kept["squared"]) / (weights @ kept["pixels"]))
    got = resampled_scores(weights, kept, "root_mean_square")
    assert np.array_equal(got, resampled_scores(weights[:, order], shuffled, "root_mean_square"))
    assert got == pytest.approx(plain, rel=1e-10)


def test_performance_by_hand():
    scores = {"a": np.array([60.0, 50.0]), "b": np.array([2.0, 3.0])}
    baselines = {"a": np.array([50.0, 0.0]), "b": np.array([2.5, 3.0])}
    got = resampled_performance(scores, baselines, {"a": True, "b": False})
    assert got[0] == pytest.approx(20)  # 20 % more and 20 % less
    assert math.isnan(got[1])


def test_images_of_any_size_are_kept_in_order():
    task = TASKS["depth"]
    prediction, target, valid = split(task)
    metric = task.metric(CONTEXT)
    for i in range(N):
        inner = (slice(i, i + 1), slice(None), slice(0, H - i), slice(0, W))
        metric.update(prediction[inner], target[inner], valid[inner])
    pixels = [int(valid[i, 0, : H - i].sum()) for i in range(N)]
    assert metric.statistics["pixels"].tolist() == pixels
