"""odsF against scikit-image's thinning and a plain search for the largest matching."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.morphology import thin as skimage_thin

from pipeline.metrics import edges
from pipeline.metrics.boundaries import count_boundaries, suppress_non_maxima
from pipeline.metrics.matching import match
from pipeline.metrics.thinning import thin


def scene(size, seed=0, boxes=6):
    """A boundary map of overlapping boxes, and a blurred, noisy prediction of it."""
    generator = np.random.default_rng(seed)
    regions = np.zeros(size, int)
    for box in range(boxes):
        y, x = generator.integers(size[0]), generator.integers(size[1])
        h, w = generator.integers(3, size[0] // 2, 2)
        regions[y : y + h, x : x + w] = box + 1
    label = np.zeros(size, bool)
    label[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    label[1:] |= regions[1:] != regions[:-1]
    probability = ndimage.gaussian_filter(label.astype(float), 1.5) + 0.1 * generator.random(size)
    return (probability / probability.max()).astype(np.float32), thin(label)


def assignment_count(a, b, max_dist):
    """Largest number of pairs within reach, by the Hungarian method on the full matrix."""
    a, b = np.argwhere(a), np.argwhere(b)
    near = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)) <= max_dist
    return int(near[linear_sum_assignment(near, maximize=True)].sum())


@pytest.mark.parametrize("seed", range(8))
def test_thin_equals_scikit_image(seed):
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.random((40, 53)), generator.uniform(0.3, 3))
    mask = noise > np.quantile(noise, generator.uniform(0.1, 0.9))
    assert (thin(mask) == skimage_thin(mask)).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_dist", [0.5, 1, 2.3])
def test_match_is_the_largest_there_is(seed, max_dist):
    generator = np.random.default_rng(seed)
    boundary, label = generator.random((2, 14, 17)) > 0.75
    assert match(boundary, label, max_dist) == assignment_count(boundary, label, max_dist)


def test_counts_equal_a_plain_search_at_every_threshold():
    probability, label = scene((20, 26))
    valid = np.ones_like(label)
    valid[:, :5] = False
    counts = count_boundaries(probability, label, valid, max_dist=0.05)
    assert counts.labelled == (label & valid).sum()
    for k in range(1, 100):
        boundary = skimage_thin((probability >= np.float32(k / 100)) & valid)
        assert counts.predicted[k - 1] == boundary.sum()
        assert counts.matched[k - 1] == assignment_count(boundary, label & valid, 0.05 * np.hypot(20, 26))


def test_threshold_includes_equality():
    probability = np.zeros((9, 9), np.float32)
    probability[4] = 0.3
    counts = count_boundaries(probability, probability > 0, np.ones((9, 9), bool), 0.01)
    assert counts.predicted.tolist() == [9] * 30 + [0] * 69
    assert counts.matched.tolist() == [9] * 30 + [0] * 69


@pytest.mark.parametrize("shift", [(0, 0), (0, 1), (2, 3), (0, 7), (-6, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_a_shifted_copy_matches_as_much_as_a_plain_search_finds(seed, shift):
    _, label = scene((40, 48), seed)
    copy = np.zeros_like(label)
    moved = np.argwhere(label) + shift
    moved = moved[((moved >= 0) & (moved < label.shape)).all(1)]
    copy[tuple(moved.T)] = True
    pairs = match(copy, label, 4.0)
    assert pairs == assignment_count(copy, label, 4.0)
    if np.hypot(*shift) <= 4:
        assert pairs == copy.sum()


def update(metric, *images):
    probability, label, valid = (torch.from_numpy(np.stack(x))[:, None] for x in zip(*images, strict=True))
    metric.update(probability, label.byte(), valid)
    return metric.compute()


@pytest.mark.parametrize("nms", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_thinned_boundary_map_scored_against_itself(seed, nms):
    _, label = scene((48, 64), seed)
    result = update(edges.EdgeMetric(0.0075, nms), (label.astype(np.float32), label, np.ones_like(label)))
    assert result["odsF"] == result["precision"] == result["recall"] == 100


def test_tolerance_decides_whether_a_shifted_line_matches():
    label = np.zeros((30, 40), bool)  # diagonal 50
    label[10, 5:35] = True
    shifted = np.roll(label, 2, axis=0).astype(np.float32)
    everywhere = np.ones_like(label)
    assert update(edges.EdgeMetric(1.9 / 50), (shifted, label, everywhere))["odsF"] == 0
    assert update(edges.EdgeMetric(2.0 / 50), (shifted, label, everywhere))["odsF"] == 100


def test_a_doubled_line_matches_once():
    label = np.zeros((30, 40), bool)
    label[10, 5:35] = True
    doubled = (label | np.roll(label, 3, axis=0)).astype(np.float32)
    result = update(edges.EdgeMetric(0.2), (doubled, label, np.ones_like(label)))
    assert (result["precision"], result["recall"]) == (50, 100)


def test_counts_are_pooled_before_the_best_threshold_is_chosen():
    images = [(*scene((32, 40), seed, boxes), np.ones((32, 40), bool)) for seed, boxes in ((0, 1), (1, 8), (2, 4))]
    parts = [count_boundaries(*image, 0.02) for image in images]
    matched, predicted = (sum(getattr(part, name) for part in parts) for name in ("matched", "predicted"))
    labelled = sum(part.labelled for part in parts)
    precision, recall = matched / np.maximum(predicted, 1), matched / labelled
    f_score = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    result = update(edges.EdgeMetric(0.02), *images)
    best = f_score.argmax()
    assert result["odsF"] == pytest.approx(100 * f_score[best])
    assert result["threshold"] == pytest.approx((best + 1) / 100)
    assert (result["precision"], result["recall"]) == pytest.approx((100 * precision[best], 100 * recall[best]))


def test_threads_do_not_change_the_score():
    images = [(*scene((32, 40), seed), np.ones((32, 40), bool)) for seed in range(4)]
    alone = update(edges.EdgeMetric(0.02, workers=1), *images)
    assert update(edges.EdgeMetric(0.02, workers=2), *images) == alone


def test_tensors_may_change_once_they_are_given():
    image = (*scene((32, 40)), np.ones((32, 40), bool))
    metric = edges.EdgeMetric(0.02, workers=1)
    busy = threading.Event()
    edges._pool(1).submit(busy.wait)  # the image has to wait for its turn
    tensors = [torch.from_numpy(np.array(x))[None, None] for x in image]
    metric.update(*tensors)
    for tensor in tensors:
        tensor.zero_()
    busy.set()
    assert metric.compute() == update(edges.EdgeMetric(0.02), image)


def test_an_image_that_failed_is_never_left_out_of_a_score(monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError("no memory")

    metric = edges.EdgeMetric(0.02, workers=1)
    image = (*scene((32, 40)), np.ones((32, 40), bool))
    with monkeypatch.context() as patch:
        patch.setattr(edges, "count_boundaries", fail)
        metric.update(*(torch.from_numpy(x)[None, None] for x in image))
    for _ in range(2):
        with pytest.raises(MemoryError):
            metric.compute()
    metric.reset()
    assert update(metric, image) == update(edges.EdgeMetric(0.02), image)


def test_a_forked_process_has_threads_of_its_own():
    image = (*scene((32, 40)), np.ones((32, 40), bool))
    alone = update(edges.EdgeMetric(0.02, workers=2), image)
    child = os.fork()
    if not child:
        os._exit(0 if update(edges.EdgeMetric(0.02, workers=2), image) == alone else 1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_non_maximum_suppression_changes_the_score_of_a_blurred_prediction():
    image = (*scene((48, 64), 1), np.ones((48, 64), bool))
    plain, suppressed = (update(edges.EdgeMetric(0.02, nms), image) for nms in (False, True))
    expected = count_boundaries(*image, 0.02, nms=True)
    f_score = 2 * expected.matched / (expected.predicted + expected.labelled)
    assert suppressed["odsF"] == pytest.approx(100 * f_score.max())
    assert suppressed["odsF"] != plain["odsF"]


def test_nothing_scored_has_no_threshold_either():
    label = np.ones((9, 9), bool)
    result = update(edges.EdgeMetric(0.02), (label.astype(np.float32), label, ~label))
    assert all(np.isnan(result[name]) for name in ("odsF", "precision", "recall", "threshold"))


def test_an_image_without_an_edge_counts_against_precision_only():
    image = (*scene((48, 64), 1), np.ones((48, 64), bool))
    empty = (image[0], np.zeros_like(image[1]), image[2])
    alone, among = count_boundaries(*image, 0.02), count_boundaries(*empty, 0.02)
    assert among.labelled == among.matched.sum() == 0
    f_score = 2 * alone.matched / (alone.predicted + among.predicted + alone.labelled)
    assert update(edges.EdgeMetric(0.02), image, empty)["odsF"] == pytest.approx(100 * f_score.max())


@pytest.mark.parametrize("degrees", range(0, 180, 15))
def test_non_maximum_suppression_keeps_the_crest(degrees):
    y, x = np.mgrid[-20:21, -20:21]
    across = x * np.sin(np.radians(degrees)) + y * np.cos(np.radians(degrees))
    kept = suppress_non_maxima(np.exp(-(across**2) / 8).astype(np.float32)) > 0.05
    inner = np.hypot(x, y) < 15
    assert kept[(np.abs(across) < 0.3) & inner].all()
    assert not kept[(np.abs(across) > 1.5) & inner].any()
