"""Resizing for training: nearest for values, whole lines for edges, area averages for images."""

import numpy as np
import pytest

from pipeline.datasets.loading import resize_image, resize_label
from pipeline.datasets.sample import Label

RNG = np.random.default_rng(0)


def test_nearest_takes_the_pixel_under_the_centre():
    value = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    label = Label(value, value % 2 == 0)
    half = resize_label(label, (3, 4))
    np.testing.assert_array_equal(half.value, value[1::2, 1::2])
    np.testing.assert_array_equal(half.valid, label.valid[1::2, 1::2])
    double = resize_label(label, (12, 16))
    np.testing.assert_array_equal(double.value, value.repeat(2, 0).repeat(2, 1))
    assert resize_label(label, (6, 8)) is label


@pytest.mark.parametrize("size", [(7, 9), (13, 40), (64, 64)])
def test_nearest_never_invents_a_value(size):
    label = Label(RNG.choice([0.0, 3.5, 9.0], (23, 31)).astype(np.float32), RNG.random((23, 31)) < 0.5)
    resized = resize_label(label, size)
    assert resized.value.shape == resized.valid.shape == size
    assert set(np.unique(resized.value)) <= {0.0, 3.5, 9.0}


def test_a_thin_line_survives_shrinking():
    value = np.zeros((80, 60), np.uint8)
    value[:, 31] = 1
    value[17, :] = 1
    label = Label(value, np.ones_like(value, bool))
    small = resize_label(label, (16, 12), "max")
    assert small.value[:, 6].all() and small.value[3].all()
    assert small.value.sum() == 16 + 12 - 1
    assert resize_label(label, (16, 12)).value.sum() < 16  # what nearest would have left of it


def test_a_line_under_a_hole_is_no_label():
    value, valid = np.zeros((40, 40), np.uint8), np.ones((40, 40), bool)
    value[:, 21] = 1
    valid[:, 20:24] = False
    small = resize_label(Label(value, valid), (10, 10), "max")
    assert small.value.sum() == 0 and not small.valid[:, 5].any()


def test_images_shrink_by_area_and_keep_their_mean():
    image = RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    small = resize_image(image, (16, 24))
    blocks = image.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 1
    assert resize_image(image, (64, 96)) is image
