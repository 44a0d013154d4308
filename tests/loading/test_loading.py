"""Resizing for training: nearest for values, whole lines for edges, area averages and cubics for images."""

import cv2
import numpy as np
import pytest

from pipeline.data.sample import Label
from pipeline.loading.loader import resize_image, resize_label

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


def cubic(image, size):
    """Cubic convolution (Keys, 1981, a = -0.75, as OpenCV has it) of (h, w, 3) by its formula, in float64."""

    def matrix(new, old):
        at = (np.arange(new) + 0.5) * old / new - 0.5
        weights = np.zeros((new, old))
        for k in range(-1, 3):
            x = np.abs(at - np.floor(at) - k)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            column = np.clip(np.floor(at).astype(int) + k, 0, old - 1)
            np.add.at(weights, (np.arange(new), column), np.where(x <= 1, near, far))
        return weights

    rows, columns = matrix(size[0], image.shape[0]), matrix(size[1], image.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns)


@pytest.mark.parametrize("size", [(96, 128), (64, 130), (512, 97)])
@pytest.mark.slow
def test_images_grow_by_cubic_convolution_without_wrapping_around(size):
    image = RNG.choice(np.array([0, 255], np.uint8), (64, 96, 3))  # overshoots at every edge
    grown = resize_image(image, size)
    expected = cubic(image, size)
    assert expected.min() < -20 and expected.max() > 275
    assert np.abs(grown - expected.clip(0, 255)).max() <= 1


def test_a_side_that_shrinks_is_averaged_while_the_other_grows():
    """A driving frame: stripes of one pixel become grey where pixels are averaged, and a pattern where they are not."""
    stripes = np.zeros((375, 1242, 3), np.uint8)
    stripes[:, ::2] = 255
    grey = resize_image(stripes, (384, 384)).astype(int)
    exact = np.zeros((384, 1242))
    for i in range(384):  # of each new pixel, how much of each old one it covers
        left, right = i * 1242 / 384, (i + 1) * 1242 / 384
        exact[i] = np.clip(np.minimum(np.arange(1242) + 1, right) - np.maximum(np.arange(1242), left), 0, None)
    mean = exact @ stripes[0, :, 0] / exact.sum(1)
    assert np.abs(grey - mean[None, :, None]).max() <= 1
    assert np.ptp(grey) < 100 and np.ptp(cv2.resize(stripes, (384, 384), interpolation=cv2.INTER_AREA)) > 250
    lying = resize_image(stripes.transpose(1, 0, 2), (384, 384))
    assert np.abs(lying - mean[:, None, None]).max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_no_line_is_lost_where_one_side_shrinks_and_the_other_grows(turned):
    """Every line of one pixel, upright and lying, one at a time; against the pixels that it overlaps."""
    shape = (375, 1242)
    for axis, at in [(0, 0), (0, 187), (0, 374), (1, 0), (1, 100), (1, 620), (1, 1241)]:
        value = np.zeros(shape, np.uint8)
        value[(at, slice(None)) if axis == 0 else (slice(None), at)] = 1
        label = Label(value.T if turned else value, np.ones_like(value.T if turned else value, bool))
        small = resize_label(label, (384, 384), "max")
        drawn = small.value.T if turned else small.value
        old = shape[axis]
        low, high = np.arange(384) * old / 384, (np.arange(384) + 1) * old / 384
        covered = (low < at + 1 - 1e-6) & (high > at + 1e-6)  # by area, along a side that shrinks
        centred = np.floor((np.arange(384) + 0.5) * old / 384) == at  # along one that grows
        expected = covered if old > 384 else centred
        assert expected.any() and small.valid.all()
        assert (drawn == (expected[:, None] if axis == 0 else expected[None])).all(), (axis, at)


def test_a_hole_stays_a_hole_where_one_side_shrinks_and_the_other_grows():
    value, valid = np.zeros((40, 120), np.uint8), np.ones((40, 120), bool)
    value[:, 61] = 1
    valid[:, 60:66] = False
    small = resize_label(Label(value, valid), (60, 40), "max")
    assert small.value.sum() == 0
    assert not small.valid[:, 20:22].any() and small.valid.sum() == 60 * 38
