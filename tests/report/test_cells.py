"""Cells of the report's tables, as a person would write them."""

from __future__ import annotations

import math

import pytest

from pipeline.report.cells import MISSING, bounds, count, number, shares, spread, table
from pipeline.results.comparison import Interval, Score

INTERVAL = Interval(
    low=-0.5, high=3.0, standard_error=0.875, image_share=0.25, seed_share=0.75, seeds=3, images=20, resamples=100
)


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (1.13, "1.130", "+1.13"),
        (-0.256, "-0.256", "-0.26"),
        (12.346, "12.35", "+12.35"),
        (-10.0, "-10.00", "-10.00"),
        (0.0, "0.000", "+0.00"),
        (None, MISSING, MISSING),
        (math.nan, MISSING, MISSING),
        (math.inf, MISSING, MISSING),
    ],
)
def test_three_decimals_below_ten_and_a_sign_where_it_is_a_gain(value, plain, signed):
    assert (number(value), number(value, sign=True)) == (plain, signed)


def test_a_mean_its_deviation_and_its_interval_have_as_many_digits():
    entry = Score("any", True, mean=1.2, std=0.34567, interval=INTERVAL)
    assert spread(entry) == "1.200 ± 0.346" and bounds(entry) == "1.200 (-0.500 to 3.000)"
    assert spread(entry, sign=True) == "+1.20 ± 0.35" and bounds(entry, sign=True) == "+1.20 (-0.50 to +3.00)"
    one = Score("any", True, mean=40.0)
    assert spread(one) == bounds(one) == "40.00"


def test_shares_are_in_per_cent():
    assert shares(INTERVAL) == ["0.875", "25 %", "75 %"] and shares(None) == [MISSING] * 3
    assert count(1234567.0) == "1,234,567" and count(None) == MISSING


def test_only_the_first_column_of_a_table_is_text():
    assert table(["run", "a", "b"], [["x", "1", "2"]]) == "| run | a | b |\n| --- | ---: | ---: |\n| x | 1 | 2 |"
