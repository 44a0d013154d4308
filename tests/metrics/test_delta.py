import math
import statistics

import pytest

from pipeline.metrics.delta import multi_task_performance, relative_gain, spread

# By hand: mIoU 40 against 32 is +25 %, RMSE 0.6 against 0.8 is +25 % (lower is better), a mean error of 22
# against 20 is -10 %; their mean is 40 / 3.
SCORES = {"semseg": 40.0, "depth": 0.6, "normals": 22.0}
BASELINES = {"semseg": 32.0, "depth": 0.8, "normals": 20.0}
HIGHER = {"semseg": True, "depth": False, "normals": False}


def test_hand_computed_case():
    assert multi_task_performance(SCORES, BASELINES, HIGHER) == pytest.approx(40 / 3)


def test_published_case():
    """NYUD-v2, HRNet-18, MTI-Net: Δm +9.53 is printed by Jeong & Yoon, CVPR 2024, table 1."""
    scores = {"semseg": 38.67, "depth": 0.594, "normals": 20.52}
    baselines = {"semseg": 33.18, "depth": 0.667, "normals": 20.75}
    assert multi_task_performance(scores, baselines, HIGHER) == pytest.approx(9.53, abs=0.02)


@pytest.mark.parametrize(
    ("score", "baseline", "higher", "gain"),
    [(30, 20, True, 50), (10, 20, True, -50), (30, 20, False, -50), (10, 20, False, 50), (20, 20, False, 0)],
)
def test_positive_is_better(score, baseline, higher, gain):
    assert relative_gain(score, baseline, higher) == pytest.approx(gain)


def test_only_the_scored_tasks_count():
    only = {"depth": 0.6}
    assert multi_task_performance(only, BASELINES, HIGHER) == pytest.approx(25)


@pytest.mark.parametrize(("score", "baseline"), [(1, 0), (1, -1), (math.nan, 1), (1, math.nan), (math.inf, 1)])
def test_an_undefined_gain_is_refused(score, baseline):
    with pytest.raises(ValueError, match=r"above 0|finite"):
        relative_gain(score, baseline, True)


def test_no_task_is_refused():
    with pytest.raises(ValueError, match="at least one task"):
        multi_task_performance({}, {}, {})


def test_spread_is_the_sample_deviation():
    values = [1.0, 2.0, 4.0]
    mean, std, n = spread(values)
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert std == pytest.approx(math.sqrt(sum((v - 7 / 3) ** 2 for v in values) / 2))
    assert std != pytest.approx(statistics.pstdev(values))


def test_one_seed_has_no_spread():
    assert spread([3.0]) == (3.0, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        spread([])
