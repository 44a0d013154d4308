"""Pictures: what is written is what was painted, and what is not valid decides nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.tasks.spec import TaskContext
from pipeline.visual.paint import INVALID, MEASURED, paint, write_png

CONTEXT = TaskContext()


def test_a_picture_is_read_with_its_own_colours(tmp_path):
    """By another library than wrote it: OpenCV's order of channels is its own."""
    picture = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
    write_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)


@pytest.mark.parametrize("task", MEASURED)
def test_the_middle_colour_is_that_of_what_is_shown(task):
    """The median of the valid values alone, however much of a picture has no label, and whatever stands there."""
    value, valid = np.array([[1.0, 2.0, 5.0, 1e6, 1e6, 1e6, 1e6]], np.float32), np.arange(7)[None] < 3
    picture = paint(task, value, valid, CONTEXT)
    np.testing.assert_array_equal(picture, paint(task, value, valid, replace(CONTEXT, middle=2.0)))
    assert (picture[~valid] == INVALID).all() and not (picture[valid] == INVALID).all(1).any()
