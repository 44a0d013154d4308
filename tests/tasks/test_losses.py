"""Losses against plain NumPy, and what every task's loss must do at the edges."""

import numpy as np
import pytest
import torch

from pipeline.tasks import TASKS, losses
from tests.reference.losses import plain_loss

CLASSES = 5


def batch(task, size=(2, 6, 7), seed=0):
    """Random (prediction, target, valid) for a task; targets are NaN or nonsense where not valid."""
    generator = torch.Generator().manual_seed(seed)
    b, h, w = size
    prediction = torch.randn(b, task.channels or CLASSES, h, w, generator=generator)
    valid = torch.rand(b, 1, h, w, generator=generator) > 0.3
    if task.channels is None:
        target = torch.randint(CLASSES, (b, 1, h, w), generator=generator).masked_fill(~valid, 255).byte()
    elif task.categorical:
        target = (torch.rand(b, 1, h, w, generator=generator) > 0.7).byte().masked_fill(~valid, 255)
    else:
        target = torch.randn(b, task.label_channels, h, w, generator=generator).masked_fill(~valid, torch.nan)
    return prediction, target, valid


def pixels(x, valid):
    """(B, C, H, W) -> (valid pixels, C) float64."""
    return x.movedim(1, -1)[valid[:, 0]].double().numpy()


def bce(logit, label):
    return np.maximum(logit, 0) - logit * label + np.log1p(np.exp(-np.abs(logit)))


def reference(name, p, t):
    """The task's loss in NumPy, from (N, C) valid predictions and targets."""
    if name in ("semseg", "human_parts"):
        return (np.log(np.exp(p).sum(1)) - p[np.arange(len(p)), t[:, 0].astype(int)]).mean()
    if name in ("depth", "disparity"):
        return np.abs(p - t).mean()
    if name == "normals":
        return np.abs(p / np.linalg.norm(p, axis=1, keepdims=True) - t).mean()
    positive = {"sal": 1 - t.mean(), "edge": 0.95}[name]
    return (np.where(t == 1, positive, 1 - positive) * bce(p, t)).mean()


@pytest.mark.parametrize("name", TASKS)
def test_equals_numpy_over_valid_pixels(name):
    prediction, target, valid = batch(TASKS[name])
    expected = reference(name, pixels(prediction, valid), pixels(target, valid))
    assert TASKS[name].loss(prediction, target, valid).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_gradient_reaches_only_valid_pixels(name):
    prediction, target, valid = batch(TASKS[name], size=(1, 6, 7))
    TASKS[name].loss(prediction.requires_grad_(), target, valid).backward()
    assert prediction.grad.isfinite().all()
    per_pixel = prediction.grad.abs().sum(1, keepdim=True)
    assert (per_pixel[~valid] == 0).all()
    assert (per_pixel[valid] > 0).all()


@pytest.mark.parametrize("name", TASKS)
def test_nothing_valid_is_zero_with_a_zero_gradient(name):
    prediction, target, valid = batch(TASKS[name])
    loss = TASKS[name].loss(prediction.requires_grad_(), target, torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("name", TASKS)
def test_finite_for_extreme_predictions(name):
    prediction, target, valid = batch(TASKS[name])
    for scale in (0, 1e4):
        scaled = (prediction * scale).requires_grad_()
        loss = TASKS[name].loss(scaled, target, valid)
        loss.backward()
        assert loss.isfinite() and scaled.grad.isfinite().all()


@pytest.mark.parametrize("name", TASKS)
def test_float32_under_autocast(name):
    prediction, target, valid = batch(TASKS[name])
    low = prediction.bfloat16()
    expected = TASKS[name].loss(low.float(), target, valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = TASKS[name].loss(low, target, valid)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_bce_gives_both_classes_the_same_total_weight():
    target = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    losses.balanced_bce(logits, target, torch.ones(1, 1, 2, 2, dtype=torch.bool)).backward()
    assert logits.grad.sum().item() == pytest.approx(0, abs=1e-7)  # 1 x 3/4 against 3 x 1/4
    assert logits.grad[target == 1].item() == pytest.approx(-0.5 * 0.75 / 4)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(13, 17), (4, 5), (26, 40)])
@pytest.mark.parametrize("name", TASKS)
def test_a_prediction_of_another_size_is_resized_first(name, size, memory_format, monkeypatch):
    monkeypatch.setattr(losses, "_CPU_CHUNK", 7 * CLASSES)  # so that an image takes several chunks, the last shorter
    _, target, valid = batch(TASKS[name], size=(3, 13, 17))
    prediction, *_ = batch(TASKS[name], size=(3, *size), seed=1)
    results = []
    for loss in (TASKS[name].loss, lambda *of: plain_loss(name, *of)):
        x = prediction.detach().to(memory_format=memory_format, copy=True).requires_grad_()
        value = loss(x, target, valid)
        (3 * value).backward()
        results.append((value.detach(), x.grad))
    for own, plain in zip(*results, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_cross_entropy_leaves_the_prediction_as_it_was_and_needs_no_gradient():
    prediction, target, valid = batch(TASKS["semseg"])
    before = prediction.clone()
    with_gradient = losses.cross_entropy(prediction.requires_grad_(), target, valid)
    with torch.no_grad():
        assert losses.cross_entropy(prediction, target, valid) == with_gradient
    assert torch.equal(prediction, before)
