"""Geometry on batches: against OpenCV, against itself, and against what a person expects of a turned picture."""

import cv2
import numpy as np
import pytest
import torch

from pipeline.datasets.augment import Augmenter, Geometry, ValueGeometry
from pipeline.datasets.loading import Batch
from pipeline.tasks import TASKS

HEIGHT, WIDTH = 31, 45
VALUES = {name: ValueGeometry(task.on_flip, task.on_rotate, task.on_zoom) for name, task in TASKS.items()}


def augmenter(**options) -> Augmenter:
    return Augmenter(
        **{"flip": 0.5, "scale": (1.0,), "scale_mode": "choice", "rotation": 0.0, **options}, values=VALUES
    )


def geometry(flip=False, zoom=1.0, degrees=0.0, count=2) -> Geometry:
    full = torch.full((count,), 1.0)
    return Geometry(full.bool() & flip, full * zoom, full * np.deg2rad(degrees))


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    value, valid = {}, {}
    for name, task in TASKS.items():
        shape = (2, task.label_channels, HEIGHT, WIDTH)
        value[name] = torch.randint(0, 5, shape, dtype=torch.uint8) if name in ("semseg", "human_parts") else None
        if value[name] is None:
            value[name] = (
                torch.randint(0, 2, shape, dtype=torch.uint8) if name in ("sal", "edge") else torch.rand(shape)
            )
        valid[name] = torch.rand(2, 1, HEIGHT, WIDTH) < 0.8
    value["normals"] = torch.nn.functional.normalize(value["normals"] - 0.5, dim=1)
    return Batch(torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8), value, valid)


def equal(a: Batch, b: Batch, tasks=TASKS) -> bool:
    same = torch.equal(a.image.float(), b.image.float())
    return same and all(torch.equal(a.value[t], b.value[t]) and torch.equal(a.valid[t], b.valid[t]) for t in tasks)


def test_no_geometry_changes_nothing(batch):
    assert equal(augmenter()(batch, geometry()), batch)


def test_flip_twice_is_the_identity(batch):
    once = augmenter()(batch, geometry(flip=True))
    assert not equal(once, batch)
    assert torch.equal(once.value["normals"][:, 0], -batch.value["normals"][:, 0].flip(-1))
    assert equal(augmenter()(once, geometry(flip=True)), batch)


def test_flip_alone_agrees_with_flip_through_the_warp(batch):
    plain = augmenter()(batch, geometry(flip=True))
    one_warped = Geometry(torch.tensor([True, True]), torch.tensor([1.0, 1.5]), torch.zeros(2))
    warped = augmenter()(batch, one_warped)
    torch.testing.assert_close(warped.image[0], plain.image[0].float(), atol=1e-2, rtol=0)
    for task in TASKS:
        assert torch.equal(warped.value[task][0], plain.value[task][0])
        assert torch.equal(warped.valid[task][0], plain.valid[task][0])


@pytest.mark.parametrize(("zoom", "degrees"), [(1.3, 0), (0.8, 0), (1.0, 17), (1.2, -35)])
def test_agrees_with_opencv(batch, zoom, degrees):
    """OpenCV's angle is counter-clockwise as seen, about the same centre."""
    warped = augmenter()(batch, geometry(zoom=zoom, degrees=degrees))
    matrix = cv2.getRotationMatrix2D(((WIDTH - 1) / 2, (HEIGHT - 1) / 2), degrees, zoom)
    image = batch.image[0].permute(1, 2, 0).numpy().astype(np.float32)
    expected = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    difference = np.abs(warped.image[0].permute(1, 2, 0).numpy() - expected)
    assert np.median(difference) < 1.5 and difference.mean() < 4  # OpenCV rounds coordinates to 1/32 pixel

    inside = cv2.warpAffine(np.ones((HEIGHT, WIDTH), np.uint8), matrix, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST)
    labels = cv2.warpAffine(batch.value["semseg"][0, 0].numpy(), matrix, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST)
    valid = warped.valid["semseg"][0, 0].numpy()
    agree = (warped.value["semseg"][0, 0].numpy() == labels)[valid & (inside > 0)]
    assert agree.mean() > 0.97


def test_nothing_of_the_border_is_labelled(batch):
    batch.valid["depth"][:] = True
    warped = augmenter()(batch, geometry(zoom=0.5))
    rows, columns = warped.valid["depth"][0, 0].nonzero().unbind(1)
    assert rows.min() >= HEIGHT // 4 - 1 and rows.max() <= HEIGHT - HEIGHT // 4
    assert abs(warped.valid["depth"][0].float().mean().item() - 0.25) < 0.05


def test_values_follow_the_geometry(batch):
    zoomed = augmenter()(batch, geometry(zoom=2.0))
    centre = (0, 0, HEIGHT // 2, WIDTH // 2)
    assert zoomed.value["depth"][centre] == batch.value["depth"][centre] / 2
    assert zoomed.value["semseg"][centre] == batch.value["semseg"][centre]
    turned = augmenter()(batch, geometry(degrees=90))
    x, y, z = batch.value["normals"][0, :, HEIGHT // 2, WIDTH // 2].tolist()
    assert turned.value["normals"][0, :, HEIGHT // 2, WIDTH // 2].tolist() == pytest.approx([-y, x, z], abs=1e-6)


def test_draws_are_what_was_asked_for():
    rng = np.random.default_rng(0)
    drawn = augmenter(flip=0.25, scale=(1.0, 1.2, 1.5), rotation=20.0).draw(4000, rng)
    assert abs(drawn.flip.float().mean().item() - 0.25) < 0.03
    assert sorted(set(np.round(drawn.zoom.double().numpy(), 4).tolist())) == [1.0, 1.2, 1.5]
    assert np.deg2rad(18) < drawn.angle.abs().max() <= np.deg2rad(20) + 1e-6
    between = augmenter(scale=(0.75, 1.25), scale_mode="range").draw(4000, rng).zoom
    assert 0.75 <= between.min() < 0.76 and 1.24 < between.max() <= 1.25
    assert augmenter(flip=0.0).draw(100, rng).flip.sum() == 0


def test_uint8_labels_stay_uint8(batch):
    warped = augmenter()(batch, geometry(zoom=1.2, degrees=5))
    for task in TASKS:
        assert warped.value[task].dtype == batch.value[task].dtype
