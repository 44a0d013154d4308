"""Metrics against scikit-learn, torchmetrics and NumPy, and what every task's metric must be immune to."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, fbeta_score, jaccard_score
from torchmetrics import MeanSquaredError

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
    assert score(task, (perfect, target, valid))[task.headline] == pytest.approx(best, abs=1e-4)
    worse = score(task, (prediction, target, valid))[task.headline]
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
    assert math.isnan(nothing[task.headline])
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


# Class maps


def test_semseg_equals_scikit_learn():
    data = split(TASKS["semseg"])
    prediction, target = flat(data)
    result = score(TASKS["semseg"], data)
    iou = 100 * jaccard_score(target, prediction, average=None, labels=range(4))
    assert [result[f"IoU/{name}"] for name in CONTEXT.classes[:4]] == pytest.approx(iou)
    assert result["mIoU"] == pytest.approx(iou.mean())
    assert result["pixel_accuracy"] == pytest.approx(100 * accuracy_score(target, prediction))
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
    assert score(TASKS["human_parts"], (prediction, target, valid), batch=2) == expected


# Depth


def test_depth_equals_numpy_and_torchmetrics():
    data = split(TASKS["depth"])
    p, t = flat(data)
    ratio = np.maximum(p / t, t / p)
    assert score(TASKS["depth"], data) == pytest.approx(
        {
            "rmse": MeanSquaredError(squared=False)(torch.tensor(p), torch.tensor(t)).item(),
            "log_rmse": np.sqrt(np.mean((np.log(p) - np.log(t)) ** 2)),
            "abs_rel": np.mean(np.abs(p - t) / t),
            **{f"delta{i}": 100 * np.mean(ratio < 1.25**i) for i in (1, 2, 3)},
            "images": N,
            "valid_pixels": len(p),
        }
    )


def test_depth_survives_predictions_below_zero_and_rejects_missing_labels():
    prediction, target, valid = split(TASKS["depth"])
    assert all(map(math.isfinite, score(TASKS["depth"], (prediction - 5, target, valid)).values()))
    with pytest.raises(ValueError, match="not positive"):
        score(TASKS["depth"], (prediction, target * 0, valid))


# Normals


def test_normals_equal_numpy():
    data = split(TASKS["normals"])
    p, t = flat(data)
    angle = np.degrees(np.arccos(np.clip((p * t).sum(1), -1, 1)))
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


# Saliency


def per_image(prediction, target, valid):
    """IoU, precision, recall, each (images, 15), from the definition."""
    rows = []
    for p, t, v in zip(prediction.numpy(), target.numpy(), valid.numpy(), strict=True):
        for threshold in np.linspace(0.2, 0.9, 15):
            a, b = p[v] > np.float32(threshold), t[v] == 1
            hit, n_a, n_b, union = (a & b).sum(), a.sum(), b.sum(), (a | b).sum()
            rows.append((1, 1, 1) if union == 0 else (hit / union, hit / max(n_a, 1), hit / max(n_b, 1)))
    return np.array(rows).reshape(-1, 15, 3).transpose(2, 0, 1)


def test_saliency_equals_the_definition():
    data = split(TASKS["sal"])
    data[1][2] = 0  # an image with nothing salient
    iou, precision, recall = (x.mean(0) for x in per_image(*data))
    result = score(TASKS["sal"], data)
    assert result["mIoU"] == pytest.approx(100 * iou.max())
    assert result["maxF"] == pytest.approx(100 * (2 * precision * recall / (precision + recall)).max())
    p, t = flat(data)
    pooled = [
        fbeta_score(t, p.astype(np.float32) >= np.float32(k / 20), beta=math.sqrt(0.3), zero_division=0)
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


def test_nothing_salient_and_nothing_predicted_is_right():
    data = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.ones(1, 1, 2, 2).bool()
    assert score(TASKS["sal"], data)["mIoU"] == 100
