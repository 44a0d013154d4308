"""Compiled thinning, matching and counts against their plain form, on shapes that are hard for one of them."""

import time

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import thin as skimage_thin

from benchmarks.edges import predict
from pipeline.datasets.rooms.dataset import render_frame
from pipeline.metrics.bit_maps import count, pack, unpack
from pipeline.metrics.boundaries import count_boundaries
from pipeline.metrics.matching import Matching, match
from pipeline.metrics.thinning import thin
from tests.reference import boundaries as plain
from tests.support import forked

SIZES = [(1, 1), (1, 70), (70, 1), (2, 2), (3, 64), (17, 63), (12, 65), (31, 128), (40, 53)]


def shapes(size):
    """Masks by name: solid, thin, periodic and random ones."""
    y, x = np.indices(size)
    generator = np.random.default_rng(sum(size))
    noise = generator.random(size)
    radius = np.hypot(y - size[0] / 2, x - size[1] / 2)
    return {
        "nothing": np.zeros(size, bool),
        "everything": np.ones(size, bool),
        "checkerboard": (y + x) % 2 == 0,
        "checkerboard of threes": (y // 3 + x // 3) % 2 == 0,
        "grid": (y % 5 == 0) | (x % 7 == 0),
        "stripes": x % 3 > 0,
        "loops": radius % 6 < 2.5,
        "one-pixel noise": noise < 0.1,
        "thick noise": noise < 0.8,
        "blobs": ndimage.gaussian_filter(noise, 2) > 0.5,
        "frame": (y == 0) | (x == 0) | (y == size[0] - 1) | (x == size[1] - 1),
    }


def assert_equal_counts(*arguments):
    ours, expected = count_boundaries(*arguments), plain.count_boundaries(*arguments)
    assert ours.predicted.tolist() == expected.predicted.tolist()
    assert ours.matched.tolist() == expected.matched.tolist()
    assert ours.labelled == expected.labelled


@pytest.mark.parametrize("size", SIZES)
def test_a_bit_map_holds_the_mask_in_a_frame_of_zeros(size):
    for mask in shapes(size).values():
        bits = pack(mask)
        assert bits.shape == (size[0] + 2, -(-size[1] // 64) + 2)
        assert not (bits[[0, -1]].any() or bits[:, [0, -1]].any())
        assert (unpack(bits, size[1]) == mask).all()
        assert count(bits) == mask.sum()
    one = np.zeros(size, bool)
    one[0, -1] = True
    column = size[1] - 1
    assert int(pack(one)[1, 1 + column // 64]) & (2**64 - 1) == 1 << column % 64


@pytest.mark.parametrize("size", SIZES)
def test_thinning_equals_the_plain_form_and_scikit_image(size):
    for name, mask in shapes(size).items():
        thinned = thin(mask)
        assert thinned.dtype == bool
        assert (thinned == plain.thin(mask)).all(), name
        assert (thinned == skimage_thin(mask)).all(), name


@pytest.mark.parametrize("max_dist", [0.2, 1.0, 2**0.5, 3.7, 9.0])
def test_matching_equals_the_plain_form(max_dist):
    masks = shapes((14, 66))
    for name, label in masks.items():
        reach = plain.reachable(label, max_dist)
        for other, boundary in masks.items():
            assert match(boundary, label, max_dist) == plain.match(boundary, reach), (name, other)


def test_a_tolerance_above_the_image_pairs_all_that_one_side_has():
    masks = shapes((14, 66)).values()
    for label in masks:
        for boundary in masks:
            assert match(boundary, label, 400.0) == min(boundary.sum(), label.sum())


def test_maps_that_change_between_matches_are_matched_as_if_each_were_the_first():
    generator = np.random.default_rng(0)
    label = generator.random((30, 70)) < 0.2
    matching, reach = Matching(pack(label), 3.3), plain.reachable(label, 3.3)
    for _ in range(30):
        boundary = generator.random(label.shape) < generator.uniform(0, 0.5)
        assert matching.update(pack(boundary)) == plain.match(boundary, reach)


def test_a_chain_of_pairs_as_long_as_the_image_is_shifted_pixel_by_pixel():
    """Longer than what a search may forget: its last pixel finds a partner only where all others change theirs."""
    label = np.zeros((3, 2000), bool)
    label[1, 1:] = True
    boundary = np.roll(label, -1, axis=1)
    matching = Matching(pack(label), 1.0)
    inner = boundary & label
    assert matching.update(pack(inner)) == inner.sum()
    assert matching.update(pack(boundary)) == 1999


@pytest.mark.parametrize("nms", [False, True])
@pytest.mark.parametrize("size", [(1, 70), (2, 2), (12, 65), (31, 40)])
def test_counts_equal_the_plain_form(size, nms):
    generator = np.random.default_rng(sum(size))
    masks = list(shapes(size).values())
    for i, label in enumerate(masks):
        shape = masks[(i + 3) % len(masks)].astype(float)
        probability = 0.8 * ndimage.gaussian_filter(shape, i % 3) + 0.2 * generator.random(size)
        valid = generator.random(size) < 0.9 if i % 2 else np.ones(size, bool)
        probability = np.round(probability.astype(np.float32), 1)  # few levels: the plain form is slow
        assert_equal_counts(probability, label, valid, (0.0075, 0.02, 0.2)[i % 3], nms)


@pytest.mark.parametrize("nms", [False, True])
def test_counts_of_soft_predictions_of_rooms_equal_the_plain_form(nms):
    label = render_frame(0, "val", 0, (120, 160))[0].labels["edge"].value > 0
    valid = np.ones_like(label)
    valid[:, :20] = False
    assert_equal_counts(predict(label, np.random.default_rng(0)), label, valid, 0.011, nms)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "stripes", "crossed lines", "huge tolerance"])
def test_no_image_takes_for_ever(name):
    """SciPy's `maximum_bipartite_matching` takes over a minute for an ordinary image of this size."""
    generator = np.random.default_rng(0)
    y, x = np.indices((480, 640))
    noise = generator.random(y.shape).astype(np.float32)
    probability, label, max_dist = {
        "noise": (noise, generator.random(y.shape) < 0.25, 0.011),
        "stripes": (np.where(x % 3 == 0, noise / 2 + 0.4, 0), (x % 3 == 1) & (x < 600), 0.011),
        "crossed lines": (np.where(x % 3 == 0, noise, 0), y % 3 == 0, 0.011),
        "huge tolerance": (ndimage.gaussian_filter(noise, 3), noise > 0.95, 0.5),
    }[name]
    start = time.process_time()
    counts = count_boundaries(probability.astype(np.float32), label, np.ones_like(label), max_dist)
    assert time.process_time() - start < 60
    assert (counts.matched <= np.minimum(counts.predicted, counts.labelled)).all()


@pytest.mark.slow
def test_what_scores_no_edges_does_not_import_numba():
    assert forked.imports("pipeline.evaluation.evaluate_run") and forked.imports("pipeline.train.train_run")
    assert forked.imports("pipeline.report.markdown") and not forked.imports("numba")
