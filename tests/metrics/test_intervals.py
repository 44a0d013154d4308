"""Intervals over images and seeds: parts of the variance, quantiles, what would be needed, and what they cover."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from pipeline.comparison.estimate import degrees_of_freedom, half_width, interval
from pipeline.metrics.resampling import draw, resampled_scores, score, scores_without_each


def normal(rng, *shape):
    return rng.standard_normal(shape)


def mean_of_images(images_sd, seed_sd, both_sd, images, seeds, rng, resamples=2000):
    """Values by seed, and their resamples, of scores that are plain means over images."""
    values = 5 + images_sd * normal(rng, 1, images) + seed_sd * normal(rng, seeds, 1)
    return parts(values + both_sd * normal(rng, seeds, images), resamples)


def parts(values, resamples):
    """Means over images, of resamples, and without each image."""
    images = values.shape[1]
    without = (values.sum(1, keepdims=True) - values) / (images - 1)
    return values.mean(1).tolist(), values @ draw(images, resamples).T / images, without


def alike(resampled, images=50):
    """Values without each image, of images that weigh alike."""
    return np.tile([0.1, -0.1], images // 2) + np.zeros((len(resampled), 1))


@pytest.mark.slow
def test_variances_are_those_of_the_crossed_effects():
    """The parts of many experiments against what they were made with."""
    rng = np.random.default_rng(0)
    found = [interval(*mean_of_images(3, 0.5, 2, 40, 4, rng, 500)) for _ in range(300)]
    assert np.mean([each.image_variance for each in found]) == pytest.approx(9 / 40, rel=0.06)
    assert np.mean([each.interaction for each in found]) == pytest.approx(4 / 40 / 4, rel=0.06)
    assert np.mean([each.seed_variance for each in found]) == pytest.approx(0.25 / 4 + 4 / 40 / 4, rel=0.15)
    spread = np.var([each.mean for each in found], ddof=1)
    assert np.mean([each.standard_error**2 for each in found]) == pytest.approx(spread, rel=0.2)


def test_one_part_alone_has_its_own_quantile():
    assert half_width(4, 0, 30, 3) == pytest.approx(2 * stats.t.ppf(0.975, 30))
    assert half_width(0, 9, 30, 3) == pytest.approx(3 * stats.t.ppf(0.975, 2))
    assert half_width(4, 0, 30, 1) == half_width(4, 0, 30, 3)
    between = (4 * stats.t.ppf(0.975, 30) + 9 * stats.t.ppf(0.975, 2)) / 13
    assert half_width(4, 9, 30, 3) == pytest.approx(between * math.sqrt(13))
    assert half_width(0, 0, 30, 3) == 0


def test_one_seed_is_the_t_interval_of_the_images():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(30)
    got = interval(*parts(values[None], 20_000))
    low, high = stats.t.interval(0.95, got.degrees, values.mean(), stats.sem(values))
    assert (got.low, got.high) == pytest.approx((low, high), rel=0.02)
    assert (got.seeds, got.seed_variance, got.seeds_needed) == (1, 0, None)


def test_degrees_of_freedom_are_those_of_the_sample_variance():
    """Against the spread of the sample variance itself: normal effects, and a few images that weigh much."""
    rng = np.random.default_rng(6)
    for values in (rng.standard_normal((2000, 100)), rng.gamma(4, size=(2000, 100))):
        found = values.var(1, ddof=1)
        known = 2 * found.mean() ** 2 / found.var(ddof=1)
        assert np.median([degrees_of_freedom(-each) for each in values]) == pytest.approx(known, rel=0.4)
    assert degrees_of_freedom(np.array([0.0] * 99 + [1.0])) == pytest.approx(200 / 97, rel=0.02)
    assert degrees_of_freedom(np.zeros(10)) == 9
    assert degrees_of_freedom(np.array([1.0, -1.0, 1.0, -1.0])) == 3


@pytest.mark.parametrize("labelled", [2, 3, 5])
def test_images_without_a_label_count_for_nothing(labelled):
    """Of 96 images a few have a label: as many know the variance, however many there are."""
    rng, weights, held = np.random.default_rng(0), draw(96, 1000), 0
    for _ in range(200):
        where = np.isin(np.arange(96), rng.choice(96, labelled, replace=False))
        values = {"total": np.where(where, rng.normal(5, 1, 96), 0.0), "pixels": where.astype(np.int64)}
        resampled, without = resampled_scores(weights, values, "mean"), scores_without_each(values, "mean")
        got = interval([score(values, "mean")], resampled[None], without[None][:, where], labelled)
        held += got.low < 5 < got.high
        assert got.images == labelled and got.degrees <= labelled - 1
    assert held >= 0.9 * 200


def test_verdicts_follow_the_interval():
    steady = np.random.default_rng(2).normal(0, 0.1, (2, 500))
    assert interval([3.0, 3.1], steady + 3, alike(steady)).verdict == "better"
    assert interval([-3.0, -3.1], steady - 3, alike(steady)).verdict == "worse"
    assert interval([3.0, -2.0], steady, alike(steady)).verdict == "not distinguishable"
    equal = interval([0.0, 0.0], np.zeros((2, 500)), np.zeros((2, 50)))
    assert (equal.low, equal.high, equal.verdict) == (0, 0, "not distinguishable")
    assert equal.seeds_needed is None and equal.images_needed is None


def test_what_would_be_needed_is_enough_and_one_less_is_not():
    rng = np.random.default_rng(3)
    resampled = 1 + rng.normal(0, 0.2, (1, 1000)) + rng.normal(0, 0.1, (3, 1000))
    got = interval([0.2, 1.0, 1.8], resampled, alike(resampled, 100))
    assert got.verdict == "not distinguishable"
    needed = got.seeds_needed
    halves = [half_width(got.image_variance, got.seed_variance * 3 / each, 99, each) for each in (needed - 1, needed)]
    assert halves[1] < got.mean <= halves[0]
    resampled = 0.5 + rng.normal(0, 0.5, (1, 1000))
    single = interval([0.5], resampled, alike(resampled, 100))
    scale = (single.standard_error * 1.96 / 0.5) ** 2
    assert 100 * scale <= single.images_needed <= 100 * scale * 1.06


def test_no_number_of_seeds_makes_up_for_few_images():
    rng = np.random.default_rng(4)
    resampled = 1 + rng.normal(0, 1, 1000) + np.zeros((3, 1))
    got = interval([0.9, 1.0, 1.1], resampled, alike(resampled, 100))
    assert got.seeds_needed is None and got.images_needed > 300
    seeds = interval([-8.0, 1.0, 10.0], 1 + rng.normal(0, 0.01, (3, 1000)), alike(resampled, 100))
    assert seeds.images_needed is None and seeds.seeds_needed > 100


def test_resamples_without_a_score_are_left_out():
    resampled = np.random.default_rng(5).normal(size=(2, 1000))
    resampled[0, :400] = np.nan
    without = alike(resampled)
    assert interval([1.0, 2.0], resampled, without).resamples == 600
    assert interval([1.0, math.nan], resampled, without) is None
    assert interval([1.0, 2.0], resampled, without[:, :1]) is None
    assert interval([1.0, 2.0], resampled, np.where(np.arange(50) == 7, np.nan, without)) is None
    resampled[1, 400:600] = np.inf
    assert interval([1.0, 2.0], resampled, without) is None


# -- coverage (the whole table: python -m benchmarks.coverage) -----------------------------------------------


@pytest.mark.parametrize("scenario", coverage.SCENARIOS[::4], ids=lambda scenario: scenario.name)
def test_the_truth_of_the_simulation_is_that_of_many_images(scenario):
    """Sums expected in closed form against those of 20,000 images, for seeds that change nothing."""
    still = coverage.Scenario(scenario.name, 0.0, scenario.both)
    kept = coverage.sample(still, 20_000, 1, np.random.default_rng(0))
    for task in coverage.TASKS:
        ours, theirs = (coverage.score(kept[task, side, 0], coverage.TASKS[task]) for side in (True, False))
        gain = 100 * (ours / theirs - 1) * (1 if coverage.HIGHER[task] else -1)
        assert gain == pytest.approx(coverage.truth(still)[task], abs=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", coverage.SCENARIOS[1:4], ids=lambda scenario: scenario.name)
def test_intervals_hold_the_truth_as_often_as_they_say(scenario):
    """Of 100 experiments; a normal quantile leaves out up to a quarter of the truths with two seeds."""
    found = coverage.coverage(scenario, 40, 100, 200, seeds=(2, 4))
    for what in ("Δm", *coverage.TASKS):
        for seeds in (2, 4):
            assert found[what, seeds][0] >= 88, (what, seeds, found[what, seeds])
    assert np.mean([percent for percent, _ in found.values()]) == pytest.approx(96, abs=2.5)
