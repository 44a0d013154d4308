"""Metrics against scikit-learn, torchmetrics and NumPy, and what every task's metric must be immune to."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from sklearn import metrics as sklearn
from torchmetrics import MeanAbsolutePercentageError, MeanSquaredError
from torchmetrics.classification import MulticlassJaccardIndex

from pipeline.tasks import TASKS, TaskContext

CONTEXT = TaskContext(classes=("background", "head", "torso", "arm", "never"), edge_max_dist=0.05)
EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
N, H, W = 6, 10, 12


def split(task, seed=0):
    """(prediction, target, valid) of N images, decoded; images differ in their share of valid pixels."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(channels=1):
        return torch.rand(N, channels, H, W, generator=generator)

    valid = uniform() < torch.linspace(0.2, 1, N).view(-1, 1, 1, 1)
    if task.channels is None:
        target = (uniform() * 4).byte()
        prediction = torch.where(uniform() > 0.4, target, (uniform() * 4).byte())
    elif task.categorical:
        target = (uniform() > 0.2).byte()
        target[..., ::2, :] = target[..., ::2] = 0  # single pixels, which thinning leaves alone
        prediction = (target * 0.4 + uniform() * 0.6).float()
    elif task.label_channels == 3:
        target = torch.nn.functional.normalize(uniform(3) - 0.5, dim=1)
        prediction = torch.nn.functional.normalize(target + uniform(3) - 0.5, dim=1)
    else:
        target = uniform() * 8 + 0.5
        prediction = target * (0.6 + uniform())
    return prediction, target, valid


def score(task, data, batch=N, context=CONTEXT):
    metric = task.metric(context)
    for part in zip(*(x.split(batch) for x in data), strict=True):
        metric.update(*part)
    return metric.compute()


def flat(data):
    prediction, target, valid = data
    return tuple(x.movedim(1, -1)[valid[:, 0]].squeeze(-1).double().numpy() for x in (prediction, target))


@EVERY
@pytest.mark.parametrize("batch", [1, 4])
def test_batch_size_cannot_move_a_score(task, batch):
    data = split(task)
    assert score(task, data, batch) == pytest.approx(score(task, data), rel=1e-12)


@EVERY
def test_perfect_prediction(task):
    prediction, target, valid = split(task)
    perfect = target.float() if task.categorical and task.channels else target
    best = 100 if task.higher_is_better else 0
    assert score(task, (perfect, target, valid))[task.primary_metric] == pytest.approx(best, abs=1e-4)
    worse = score(task, (prediction, target, valid))[task.primary_metric]
    assert worse < best - 1 if task.higher_is_better else worse > 0.1


@EVERY
def test_pixels_that_are_not_valid_do_not_count(task):
    prediction, target, valid = split(task)
    expected = score(task, (prediction, target, valid))
    nonsense = 255 if target.dtype == torch.uint8 else math.nan
    noise = prediction.flip(-1)
    damaged = torch.where(valid, prediction, noise), target.masked_fill(~valid, nonsense), valid
    assert score(task, damaged) == pytest.approx(expected, rel=1e-12)
    assert expected["images"] == N
    assert expected["valid_pixels"] == int(valid.sum())


@EVERY
def test_empty_image_changes_nothing_and_empty_split_is_nan(task):
    prediction, target, valid = split(task)
    longer = [torch.cat([x, x[:1]]) for x in (prediction, target, valid)]
    longer[2][-1] = False
    assert score(task, longer) == pytest.approx(score(task, (prediction, target, valid)), rel=1e-12)
    nothing = score(task, (prediction, target, torch.zeros_like(valid)))
    assert math.isnan(nothing[task.primary_metric])
    assert nothing["images"] == nothing["valid_pixels"] == 0


@EVERY
def test_reset_forgets_and_values_are_plain_numbers(task):
    metric = task.metric(CONTEXT)
    metric.update(*split(task, seed=1))
    metric.reset()
    metric.update(*split(task))
    result = metric.compute()
    assert result == score(task, split(task))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("name", [name for name in TASKS if name != "edge"])  # whose tolerance follows the diagonal
def test_images_may_differ_in_size(name):
    """Cutting the frame off an image is the same as marking it as not valid."""
    prediction, target, valid = split(TASKS[name])
    metric, framed = TASKS[name].metric(CONTEXT), valid.clone()
    for i in range(N):
        framed[i, :, H - i :] = framed[i, ..., : 2 * i] = False
        inner = (slice(i, i + 1), slice(None), slice(0, H - i), slice(2 * i, None))
        metric.update(prediction[inner], target[inner], valid[inner])
    assert metric.compute() == pytest.approx(score(TASKS[name], (prediction, target, framed)), rel=1e-12)


# Class maps


def test_semseg_equals_scikit_learn_and_torchmetrics():
    data = split(TASKS["semseg"])
    prediction, target = flat(data)
    result = score(TASKS["semseg"], data)
    iou = 100 * sklearn.jaccard_score(target, prediction, average=None, labels=range(4))
    assert [result[f"IoU/{name}"] for name in CONTEXT.classes[:4]] == pytest.approx(iou)
    assert result["mIoU"] == pytest.approx(iou.mean())
    assert result["pixel_accuracy"] == pytest.approx(100 * sklearn.accuracy_score(target, prediction))
    macro = MulticlassJaccardIndex(num_classes=5, ignore_index=255)  # drops a class that occurs nowhere, as mIoU does
    for p, t, v in zip(*data, strict=True):
        macro.update(p, t.masked_fill(~v, 255))
    assert result["mIoU"] == pytest.approx(100 * macro.compute().item())
    # The class that occurs nowhere: dropped, or 0 in the released code's convention.
    assert "IoU/never" not in result
    assert result["mIoU_absent_zero"] == pytest.approx(iou.sum() / 5)


def test_class_that_is_only_predicted_counts_as_zero():
    target = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    prediction = torch.tensor([0, 0, 0, 4], dtype=torch.uint8).view(1, 1, 2, 2)
    result = score(TASKS["semseg"], (prediction, target, torch.ones(1, 1, 2, 2, dtype=torch.bool)))
    assert result["IoU/never"] == 0
    assert result["mIoU"] == pytest.approx(75 / 2)


@pytest.mark.parametrize("name", ["semseg", "human_parts"])
def test_undecoded_ignore_code_is_an_error(name):
    target = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    with pytest.raises(ValueError, match="label 255 is not one of 5 classes"):
        score(TASKS[name], (target, target, torch.ones(1, 1, 2, 2, dtype=torch.bool)))


def test_human_parts_skips_images_of_background_or_nothing():
    prediction, target, valid = split(TASKS["human_parts"])
    target[1] = 0  # background only
    target[2] = target[2].masked_fill(valid[2], 0)  # people only where the label is void
    valid[3] = False
    kept = [0, 4, 5]
    expected = score(TASKS["semseg"], (prediction[kept], target[kept], valid[kept]))
    result = score(TASKS["human_parts"], (prediction, target, valid), batch=2)
    assert result == expected
    p, t = flat((prediction[kept], target[kept], valid[kept]))
    assert result["mIoU"] == pytest.approx(100 * sklearn.jaccard_score(t, p, average="macro", labels=range(4)))
    assert (result["images"], result["valid_pixels"]) == (3, int(valid[kept].sum()))


def test_a_predicted_class_that_is_not_there_is_an_error_and_no_other_class():
    target = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="prediction 5 is not one of 5 classes"):
        score(TASKS["semseg"], (target + 5, target, torch.ones(1, 1, 2, 2, dtype=torch.bool)))


# Depth


def test_depth_equals_torchmetrics_and_scikit_learn():
    data = split(TASKS["depth"])
    p, t = flat(data)
    ratio = np.maximum(p / t, t / p)
    assert score(TASKS["depth"], data) == pytest.approx(
        {
            "rmse": MeanSquaredError(squared=False)(torch.tensor(p), torch.tensor(t)).item(),
            "log_rmse": sklearn.root_mean_squared_error(np.log(t), np.log(p)),
            "abs_err": sklearn.mean_absolute_error(t, p),
            "abs_rel": MeanAbsolutePercentageError()(torch.tensor(p), torch.tensor(t)).item(),
            **{f"delta{i}": 100 * np.mean(ratio < 1.25**i) for i in (1, 2, 3)},
            "images": N,
            "valid_pixels": len(p),
        }
    )
    assert score(TASKS["depth"], data)["rmse"] == pytest.approx(sklearn.root_mean_squared_error(t, p))


def test_a_depth_below_zero_counts_as_zero():
    """By hand: -3, 2 and 5 m predicted for 1, 2 and 4 m; the errors are 1, 0 and 1 m."""
    prediction, target = (torch.tensor(x).view(1, 1, 1, 3) for x in ([-3.0, 2.0, 5.0], [1.0, 2.0, 4.0]))
    result = score(TASKS["depth"], (prediction, target, torch.ones(1, 1, 1, 3, dtype=torch.bool)))
    assert result["rmse"] == pytest.approx(math.sqrt(2 / 3))
    assert result["abs_rel"] == pytest.approx((1 + 1 / 4) / 3)
    assert result["log_rmse"] == pytest.approx(math.sqrt((math.log(1e-3) ** 2 + math.log(1.25) ** 2) / 3))
    assert result["delta1"] == pytest.approx(100 / 3)  # 5 / 4 is not below 1.25
    assert result["delta2"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("name", ["depth", "disparity"])
def test_absolute_and_relative_errors_equal_scikit_learn(name):
    data = split(TASKS[name])
    got = score(TASKS[name], data)
    prediction, target = flat(data)
    assert got["abs_err"] == pytest.approx(sklearn.mean_absolute_error(target, prediction))
    assert got["abs_rel"] == pytest.approx(sklearn.mean_absolute_percentage_error(target, prediction))
    assert got["rmse"] == pytest.approx(sklearn.root_mean_squared_error(target, prediction))


def test_disparity_has_no_metres_and_rejects_missing_labels():
    metric = TASKS["disparity"].metric(CONTEXT)
    assert "no metres" in metric.protocol and "in metres" not in metric.protocol
    map_of = torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="4 valid disparity labels are not positive"):
        metric.update(map_of, 0 * map_of, map_of.bool())


def test_depth_survives_predictions_below_zero_and_rejects_missing_labels():
    prediction, target, valid = split(TASKS["depth"])
    assert all(map(math.isfinite, score(TASKS["depth"], (prediction - 5, target, valid)).values()))
    with pytest.raises(ValueError, match="not positive"):
        score(TASKS["depth"], (prediction, target * 0, valid))


# Normals


def test_normals_equal_the_least_rotation_that_scipy_finds():
    data = split(TASKS["normals"])
    p, t = flat(data)
    pairs = zip(p, t, strict=True)
    angle = np.degrees([Rotation.align_vectors(label, predicted)[0].magnitude() for predicted, label in pairs])
    result = score(TASKS["normals"], data)
    assert result.pop("median") == pytest.approx(np.sort(angle)[(len(angle) - 1) // 2], abs=6e-4)
    assert result == pytest.approx(
        {
            "mean": angle.mean(),
            "rmse": np.sqrt((angle**2).mean()),
            **{f"within_{limit:g}": 100 * (angle < limit).mean() for limit in (11.25, 22.5, 30)},
            "images": N,
            "valid_pixels": len(angle),
        },
        abs=1e-4,
    )
    assert result["rmse"] > result["mean"] + 1


@pytest.mark.parametrize("degrees", [0, 1e-4, 90, 180])
def test_normals_known_angle_whatever_the_length(degrees):
    angle = torch.tensor(math.radians(degrees), dtype=torch.float64)
    prediction = 0.2 * torch.stack([angle.sin(), 0 * angle, angle.cos()]).view(1, 3, 1, 1)
    target = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1)
    result = score(TASKS["normals"], (prediction, target, torch.ones(1, 1, 1, 1, dtype=torch.bool)))
    assert result["mean"] == pytest.approx(degrees, abs=1e-9)
    assert result["median"] == pytest.approx(degrees, abs=6e-4)


def test_a_prediction_without_direction_is_not_right():
    target = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1)
    result = score(TASKS["normals"], (torch.zeros_like(target), target, torch.ones(1, 1, 1, 1, dtype=torch.bool)))
    assert result["mean"] == pytest.approx(90)


@pytest.mark.parametrize("predicted", [0.0, 1.0])
def test_a_valid_label_without_direction_is_an_error(predicted):
    target = torch.zeros(1, 3, 1, 1)
    with pytest.raises(ValueError, match="a valid normal has length 0"):
        score(TASKS["normals"], (target + predicted, target, torch.ones(1, 1, 1, 1, dtype=torch.bool)))


# Saliency


def per_image(prediction, target, valid):
    """IoU, precision, recall of scikit-learn, each (images, 15)."""
    rows = []
    for p, t, v in zip(prediction.numpy(), target.numpy(), valid.numpy(), strict=True):
        for threshold in np.linspace(0.2, 0.9, 15):
            a, b = p[v] > np.float32(threshold), t[v] == 1
            scores = ((sklearn.jaccard_score, 1.0), (sklearn.precision_score, 0.0), (sklearn.recall_score, 0.0))
            rows.append([score(b, a, zero_division=empty) for score, empty in scores])
    return np.array(rows).reshape(-1, 15, 3).transpose(2, 0, 1)


@pytest.mark.slow
def test_saliency_equals_scikit_learn():
    data = split(TASKS["sal"])
    data[1][2] = 0  # an image with nothing salient
    iou, precision, recall = (x.mean(0) for x in per_image(*data))
    result = score(TASKS["sal"], data)
    assert result["mIoU"] == pytest.approx(100 * iou.max())
    assert result["maxF"] == pytest.approx(100 * (2 * precision * recall / (precision + recall)).max())
    p, t = flat(data)
    pooled = [
        sklearn.fbeta_score(t, p.astype(np.float32) >= np.float32(k / 20), beta=math.sqrt(0.3), zero_division=0)
        for k in range(1, 20)
    ]
    assert result["maxF_pooled"] == pytest.approx(100 * max(pooled))


def test_saliency_thresholds_are_strict_per_image_and_inclusive_pooled():
    everywhere = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    at_lowest = torch.tensor([0.2, 0.2, 0, 0]).view(1, 1, 2, 2)
    target = (at_lowest > 0).byte()
    result = score(TASKS["sal"], (at_lowest, target, everywhere))
    assert result["mIoU"] == 0  # 0.2 is not above 0.2
    assert result["maxF_pooled"] == 100
    above = score(TASKS["sal"], (at_lowest * 1.01, target, everywhere))
    assert above["mIoU"] == 100


@pytest.mark.parametrize("k", range(1, 20))
def test_a_probability_at_a_threshold_passes_it_only_when_pooled(k):
    metric = TASKS["sal"].metric(CONTEXT)
    at = torch.full((1, 1, 1, 1), np.float32(k / 20).item())
    metric.update(at, torch.ones(1, 1, 1, 1, dtype=torch.uint8), torch.ones(1, 1, 1, 1, dtype=torch.bool))
    below = [threshold for threshold in np.linspace(0.2, 0.9, 15) if threshold < k / 20 - 1e-9]
    assert (metric.iou.sum(), metric.pooled_hit.sum()) == (len(below), k)


def test_nothing_salient_and_nothing_predicted_is_right_for_iou_alone():
    """By hand: the IoU of the empty image is 1, its precision and recall are 0, as published."""
    everywhere = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    prediction, target = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    empty = score(TASKS["sal"], (prediction[:1], target[:1], everywhere[:1]))
    assert (empty["mIoU"], empty["maxF"]) == (100, 0)
    prediction[1, 0, 0], target[1, 0, 0, 0] = 0.95, 1  # two pixels predicted, one of them right, none missed
    result = score(TASKS["sal"], (prediction, target, everywhere))
    precision, recall = (0 + 1 / 2) / 2, (0 + 1) / 2
    assert result["mIoU"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert result["maxF"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
