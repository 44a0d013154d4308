"""Drawings and error maps: well-formed, at the right places, and wrong pixels are the bright ones."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.core.names import TASKS
from pipeline.data.sample import Label
from pipeline.visual import figures
from pipeline.visual.charts import Line, Whisker, curves, in_order, interval_bar, key, whiskers
from pipeline.visual.embedded import data_uri
from pipeline.visual.error_maps import ERROR_MAPS, paint_errors, scale_colours
from pipeline.visual.paint import INVALID
from pipeline.visual.svg import RUN_STYLES, Axis, around, mark, shown

HOSTILE = '<run> & "co"'


def parsed(drawing):
    return ElementTree.fromstring(drawing)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (-1.2, 1.3, [-1, -0.5, 0, 0.5, 1]), (0.001, 0.0042, [0.001, 0.002, 0.003, 0.004])],
)
def test_ticks_are_round_and_few(low, high, expected):
    assert Axis(low, high, 0, 100).ticks() == pytest.approx(expected)


def test_an_axis_maps_and_holds_what_lies_beyond_at_its_ends():
    axis = Axis(-10, 10, 100, 200)
    assert [axis(each) for each in (-10, 0, 5, 10, 99, -99)] == [100, 150, 175, 200, 200, 100]
    assert around([]) == (0.0, 1.0) and around([5.0, 5.0])[0] < 5 < around([5.0, 5.0])[1]
    assert [shown(each) for each in (-0.0, -2.5, 1e6)] == ["0", "−2.5", "1e+06"]


def test_charts_are_well_formed_whatever_a_run_is_called():
    rows = [Whisker(HOSTILE, i, 1.0, -1.0, 99.0, [0.5, 1.5], f"{HOSTILE} 1") for i in range(RUN_STYLES + 1)]
    lines = [Line(HOSTILE, i, [1, 2, 3], [1.0, 2.0, float("nan")], ([0, 1, 1], [2, 3, 3])) for i in range(9)]
    for drawing in (
        whiskers(HOSTILE, rows, (-2, 3), "%"),
        curves(HOSTILE, lines, "epoch"),
        curves(HOSTILE, [], "epoch", zero=True),
        in_order(HOSTILE, [3.0, -1.0, 0.0]),
        in_order(HOSTILE, []),
    ):
        root = parsed(drawing)
        assert root.find("title").text == HOSTILE == root.attrib["aria-label"]
    for drawing in (interval_bar(1.0, None, None, (0, 2), 8), key(12), *(mark(i, 1, 1) for i in range(9))):
        parsed(drawing)


def test_a_whisker_stands_at_its_numbers():
    root = parsed(whiskers("", [Whisker("a", 0, 1.0, -1.0, 9.0, [0.0], "")], (-2.0, 4.0), "%"))
    place = Axis(-2.0, 4.0, 14, 346)
    (circle,) = root.iter("circle")
    assert float(circle.attrib["cx"]) == pytest.approx(place(1.0), abs=0.06)
    own = [each.attrib for each in root.iter("line") if each.attrib["class"] == "line run0"]
    ends = [(float(each["x1"]), float(each["x2"])) for each in own]
    assert ends == [pytest.approx((place(-1), place(4)), abs=0.06), pytest.approx((place(-1), place(-1)), abs=0.06)]


def test_gains_are_above_the_line_and_losses_below():
    root = parsed(in_order("", [-2.0, 1.0, 3.0]))
    found = {each.attrib["class"]: each.attrib["d"] for each in root.iter("path")}
    heights = {name: [float(y) for y in re.findall(r" ([\d.]+)", drawn)] for name, drawn in found.items()}
    zero = heights["gain"][0]
    assert heights["loss"][0] == zero and max(heights["gain"]) == zero == min(heights["loss"])
    assert (zero - min(heights["gain"])) / (max(heights["loss"]) - zero) == pytest.approx(3 / 2, abs=0.02)


def test_runs_have_colours_on_both_pages():
    assert len(figures.PALETTE) == len(figures.DARK_PALETTE) == RUN_STYLES
    assert len({*figures.PALETTE, *figures.DARK_PALETTE}) == 2 * RUN_STYLES


def test_every_task_has_an_error_map_that_is_dark_where_it_is_right():
    assert list(ERROR_MAPS) == list(TASKS)
    rng = np.random.default_rng(0)
    for task in TASKS:
        value = rng.uniform(0.2, 1, (4, 5, 3) if task == "normals" else (4, 5)).astype(np.float32)
        other = -value if task == "normals" else 1 - value + (value == 0.5)
        valid = np.ones((4, 5), bool)
        valid[0] = False
        right, wrong = (paint_errors(task, each, Label(value, valid)) for each in (value, other))
        assert (right[0] == INVALID).all() and (wrong[0] == INVALID).all()
        assert (right[1:].sum(-1) < 10).all(), task
        assert (wrong[1:].astype(int).sum(-1) >= right[1:].sum(-1)).all() and wrong[1:].max() > 100, task
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in scale_colours(task))


def test_errors_of_normals_are_angles_and_those_of_depth_relative():
    up, tilted = np.array([[[0.0, 0, 1]]], np.float32), np.array([[[0.0, 1, 1]]], np.float32)
    assert ERROR_MAPS["normals"].error(tilted, up).item() == pytest.approx(45)
    assert ERROR_MAPS["depth"].error(np.full((1, 1), 3.0), np.full((1, 1), 2.0)).item() == pytest.approx(0.5)
    assert ERROR_MAPS["semseg"].error(np.array([[1, 2]]), np.array([[1, 1]])).tolist() == [[0, 1]]


def test_pictures_are_embedded_to_the_bit_and_photographs_are_shrunk():
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)

    def read(uri):
        content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    np.testing.assert_array_equal(read(data_uri(picture, 40)), picture)
    assert read(data_uri(picture, 20)).shape == (15, 20, 3)
    smooth = np.repeat(np.linspace(0, 255, 100, dtype=np.uint8)[:, None, None], 3, 2).repeat(80, 1)
    small = read(data_uri(smooth, 50, photograph=True))
    assert small.shape == (50, 40, 3) and np.abs(small[:, 20, 0] - np.linspace(1, 254, 50)).max() < 12
