"""Augmentation of batches: against OpenCV, against itself, and against what a person expects of a turned picture."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from pipeline.loading.loader import Batch
from pipeline.params.schema import Augmentation
from pipeline.tasks import TASKS
from pipeline.tasks.spec import unchanged
from pipeline.train.augment import Augmenter, Draw, Geometry, ValueGeometry
from pipeline.train.photometric import Photometry

HEIGHT, WIDTH = 31, 45
VALUES = {name: ValueGeometry(task.on_flip, task.on_rotate, task.on_zoom) for name, task in TASKS.items()}


UNTOUCHED = ValueGeometry(unchanged, unchanged, unchanged)


def augmenter(**options) -> Augmenter:
    usual = {"flip": 0.5, "scale": (1.0,), "scale_mode": "choice", "rotation": 0.0, "values": VALUES}
    return Augmenter(**usual | options)


def light(brightness=1.0, contrast=1.0, saturation=1.0, count=2) -> Photometry:
    """The same factors for all, or one for each."""
    return Photometry(*(torch.as_tensor(f).float().expand(count) for f in (brightness, contrast, saturation)))


def draw(flip=False, zoom=1.0, degrees=0.0, shift=(0.0, 0.0), count=2, **factors) -> Draw:
    """The same geometry for all, or one for each."""
    flip, zoom, degrees = (torch.as_tensor(each).expand(count) for each in (flip, zoom, degrees))
    moved = Geometry(flip, zoom.float(), degrees.float().deg2rad(), torch.tensor(shift).expand(count, 2))
    return Draw(moved, light(**factors, count=count))


def make_batch(count: int, height: int, width: int) -> Batch:
    torch.manual_seed(0)
    value, valid = {}, {}
    for name, task in TASKS.items():
        shape = (count, task.label_channels, height, width)
        value[name] = torch.randint(0, 5, shape, dtype=torch.uint8) if name in ("semseg", "human_parts") else None
        if value[name] is None:
            value[name] = (
                torch.randint(0, 2, shape, dtype=torch.uint8) if name in ("sal", "edge") else torch.rand(shape)
            )
        valid[name] = torch.rand(count, 1, height, width) < 0.8
    value["normals"] = torch.nn.functional.normalize(value["normals"] - 0.5, dim=1)
    return Batch(torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8), value, valid)


@pytest.fixture
def batch() -> Batch:
    return make_batch(2, HEIGHT, WIDTH)


def equal(a: Batch, b: Batch, tasks=TASKS) -> bool:
    same = torch.equal(a.image.float(), b.image.float())
    return same and all(torch.equal(a.value[t], b.value[t]) and torch.equal(a.valid[t], b.valid[t]) for t in tasks)


def test_no_change_changes_nothing(batch):
    assert equal(augmenter()(batch, draw()), batch)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize(("count", "height", "width"), [(2, HEIGHT, WIDTH), (1, 8, 12), (1, 7, 1), (3, 1, 6)])
def test_flip_twice_is_the_identity(count, height, width, kind):
    batch = make_batch(count, height, width)
    batch.image = batch.image.to(getattr(torch, kind))
    once = augmenter()(batch, draw(flip=True, count=count))
    assert not equal(once, batch)
    assert torch.equal(once.value["normals"][:, 0], -batch.value["normals"][:, 0].flip(-1))
    twice = augmenter()(once, draw(flip=True, count=count))
    assert equal(twice, batch) and twice.image.dtype == batch.image.dtype


def test_flip_alone_agrees_with_flip_through_the_warp(batch):
    plain = augmenter()(batch, draw(flip=True))
    warped = augmenter()(batch, draw(flip=True, zoom=[1.0, 1.5]))
    torch.testing.assert_close(warped.image[0], plain.image[0].float(), atol=1e-2, rtol=0)
    for task in TASKS:
        assert torch.equal(warped.value[task][0], plain.value[task][0])
        assert torch.equal(warped.valid[task][0], plain.valid[task][0])


@pytest.mark.parametrize(("zoom", "degrees"), [(1.3, 0), (0.8, 0), (1.0, 17), (1.2, -35)])
def test_agrees_with_opencv(batch, zoom, degrees):
    """OpenCV's angle is counter-clockwise as seen, about the same centre."""
    warped = augmenter()(batch, draw(zoom=zoom, degrees=degrees))
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


def forward_matrix(height, width, flip, zoom, degrees, shift) -> np.ndarray:
    """Source pixel (x, y, 1) -> output pixel, put together from its steps in float64."""

    def about_centre(linear) -> np.ndarray:
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = centre - linear @ centre
        return matrix

    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    window = np.eye(3)
    window[:2, 2] = -np.array(shift) * [(width - 1) / 2, (height - 1) / 2] * max(0, 1 - 1 / zoom)
    turn_and_zoom = about_centre(zoom * np.array([[cos, sin], [-sin, cos]]))  # rows grow downwards
    return turn_and_zoom @ window @ about_centre(np.diag([-1 if flip else 1, 1]))


GEOMETRIES = [
    {"flip": True, "zoom": 1.5, "shift": (1.0, -1.0)},
    {"zoom": 1.5, "shift": (-0.3, 0.8)},
    {"zoom": 0.6, "shift": (0.9, -0.9)},
    {"degrees": 20.0, "shift": (0.9, -0.9)},
    {"flip": True, "zoom": 1.2, "degrees": -15.0, "shift": (1.0, 1.0)},
    {"flip": True, "zoom": 0.75, "degrees": 160.0},
]


@pytest.mark.parametrize(("count", "height", "width"), [(2, HEIGHT, WIDTH), (1, 30, 44), (1, 5, 64)])
@pytest.mark.parametrize("chosen", GEOMETRIES, ids=str)
def test_labels_are_those_of_the_nearest_pixel_and_the_border_has_none(chosen, count, height, width):
    """Against a loop over the output's pixels that inverts the matrix of the steps."""
    batch = make_batch(count, height, width)
    warped = augmenter(values={task: UNTOUCHED for task in TASKS})(batch, draw(**chosen, count=count))
    plain = {"flip": False, "zoom": 1.0, "degrees": 0.0, "shift": (0.0, 0.0)}
    backward = np.linalg.inv(forward_matrix(height, width, **plain | chosen))
    outside = compared = 0
    for row in range(height):
        for column in range(width):
            x, y = (backward @ [column, row, 1])[:2]
            if min(abs(x % 1 - 0.5), abs(y % 1 - 0.5)) < 1e-3:
                continue  # halfway between two pixels: float32 may choose either
            x, y = round(x), round(y)
            inside = 0 <= x < width and 0 <= y < height
            outside, compared = outside + (not inside), compared + 1
            for task in TASKS:
                valid = warped.valid[task][:, 0, row, column]
                if not inside:
                    assert not valid.any(), (task, row, column)
                    continue
                assert torch.equal(valid, batch.valid[task][:, 0, y, x]), (task, row, column)
                assert torch.equal(warped.value[task][:, :, row, column], batch.value[task][:, :, y, x])
    assert compared > 0.9 * height * width
    assert (outside > 0) == (chosen.get("zoom", 1) < 1 or "degrees" in chosen)


def test_a_random_crop_reaches_every_edge_and_never_leaves_the_image(batch):
    batch.image = batch.image.clamp(min=200)
    drawn = augmenter(scale=(1.0, 1.2, 3.0), crop="random").draw(300, np.random.default_rng(0))
    assert (drawn.geometry.shift.abs() <= 1).all()
    for corner in [(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)]:
        row, column = (-1 if shift > 0 else 0 for shift in (corner[1], corner[0]))
        for flip, from_column in ((False, column), (True, -1 - column)):
            warped = augmenter()(batch, draw(flip=flip, zoom=1.7, shift=corner))
            torch.testing.assert_close(
                warped.image[..., row, column], batch.image[..., row, from_column].float(), atol=0.01, rtol=0
            )
            assert torch.equal(warped.value["semseg"][..., row, column], batch.value["semseg"][..., row, from_column])
            assert warped.image.min() > 199.9, "the black outside shows"
    batch.valid = {task: torch.ones_like(valid) for task, valid in batch.valid.items()}
    for first in range(0, 300, 2):
        pair = Draw(Geometry(*(each[first : first + 2] for each in vars(drawn.geometry).values())), light())
        warped = augmenter()(batch, pair)
        assert all(valid.all() for valid in warped.valid.values()) and warped.image.min() > 199.9


def test_what_is_not_enlarged_is_not_shifted(batch):
    for chosen in ({"zoom": 0.7}, {"degrees": 10.0}, {"flip": True}):
        assert equal(augmenter()(batch, draw(**chosen, shift=(0.7, -1.0))), augmenter()(batch, draw(**chosen)))


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_the_outside_is_black_and_the_image_keeps_its_range(batch, kind):
    batch.image = batch.image.to(getattr(torch, kind))
    warped = augmenter()(batch, draw(zoom=0.5, contrast=0.2))
    assert warped.image.dtype == torch.float32
    assert warped.image[..., 0, :].eq(0).all() and warped.image[..., -1, :].eq(0).all()
    assert warped.image.min() >= 0 and 50 < warped.image.max() <= 255


def test_values_follow_the_geometry(batch):
    zoomed = augmenter()(batch, draw(zoom=2.0))
    centre = (0, 0, HEIGHT // 2, WIDTH // 2)
    assert zoomed.value["depth"][centre] == batch.value["depth"][centre] / 2
    assert zoomed.value["semseg"][centre] == batch.value["semseg"][centre]
    turned = augmenter()(batch, draw(degrees=90))
    x, y, z = batch.value["normals"][0, :, HEIGHT // 2, WIDTH // 2].tolist()
    assert turned.value["normals"][0, :, HEIGHT // 2, WIDTH // 2].tolist() == pytest.approx([-y, x, z], abs=1e-6)


def test_draws_are_what_was_asked_for():
    rng = np.random.default_rng(0)
    drawn = augmenter(flip=0.25, scale=(1.0, 1.2, 1.5), rotation=20.0).draw(4000, rng).geometry
    assert abs(drawn.flip.float().mean().item() - 0.25) < 0.03
    assert sorted(set(np.round(drawn.zoom.double().numpy(), 4).tolist())) == [1.0, 1.2, 1.5]
    assert np.deg2rad(18) < drawn.angle.abs().max() <= np.deg2rad(20) + 1e-6
    between = augmenter(scale=(0.75, 1.25), scale_mode="range").draw(4000, rng).geometry.zoom
    assert 0.75 <= between.min() < 0.76 and 1.24 < between.max() <= 1.25
    assert augmenter(flip=0.0).draw(100, rng).geometry.flip.sum() == 0


def test_crop_and_light_are_drawn_as_asked_for():
    rng = np.random.default_rng(0)
    drawn = augmenter(crop="random", brightness=0.4, contrast=0.2, saturation=1.0).draw(4000, rng)
    shift = drawn.geometry.shift.double()
    assert shift.abs().max() <= 1 and shift.mean(0).abs().max() < 0.03
    assert shift.var(0).numpy() == pytest.approx(1 / 3, abs=0.02), "not uniform in [-1, 1]"
    for name, reach in (("brightness", 0.4), ("contrast", 0.2), ("saturation", 1.0)):
        factor = getattr(drawn.photometry, name)
        assert 1 - reach <= factor.min() < 1 - 0.97 * reach and 1 + 0.97 * reach < factor.max() <= 1 + reach + 1e-6
    independent = np.corrcoef([*shift.T.numpy(), *(f.numpy() for f in vars(drawn.photometry).values())])
    assert np.abs(independent - np.eye(5)).max() < 0.06
    drawn = augmenter().draw(100, rng)
    assert drawn.geometry.shift.eq(0).all() and all(f.eq(1).all() for f in vars(drawn.photometry).values())


def test_flip_zoom_and_rotation_are_the_same_with_and_without_crop_and_light():
    """And are numpy's own, in this order: seeded runs depend on it."""
    chosen = {"flip": 0.5, "scale": (1.0, 1.2, 1.5), "rotation": 20.0}
    every = augmenter(**chosen, crop="random", brightness=0.4, contrast=0.4, saturation=0.4)
    first, second, third = (np.random.default_rng([5, 2, 1]) for _ in range(3))
    shifts = []
    for _ in range(4):
        with_all, without = every.draw(6, first), augmenter(**chosen).draw(6, second)
        expected = (
            torch.from_numpy(third.random(6) < 0.5),
            torch.from_numpy(third.choice([1.0, 1.2, 1.5], 6)).float(),
            torch.from_numpy(np.deg2rad(third.uniform(-20, 20, 6))).float(),
        )
        for drawn in (with_all.geometry, without.geometry):
            for got, wanted in zip((drawn.flip, drawn.zoom, drawn.angle), expected, strict=True):
                assert torch.equal(got, wanted)
        shifts.append(with_all.geometry.shift)
    assert torch.cat(shifts).unique().numel() == 4 * 6 * 2, "batches repeat each other's crops"


def test_a_stored_state_of_the_generator_restores_the_draws():
    every = augmenter(crop="random", brightness=0.4)
    rng = np.random.default_rng(7)
    every.draw(3, rng)
    state = rng.bit_generator.state
    again = np.random.default_rng(0)
    again.bit_generator.state = state
    before, after = every.draw(3, rng), every.draw(3, again)
    assert torch.equal(before.geometry.shift, after.geometry.shift)
    assert torch.equal(before.photometry.brightness, after.photometry.brightness)


def test_the_augmenter_takes_what_params_hold():
    fields = {field.name for field in dataclasses.fields(Augmenter)}
    assert fields == {*Augmentation.model_fields, "values"}
    made = Augmenter(**Augmentation(crop="random", contrast=0.3).model_dump(), values=VALUES)
    assert (made.flip, made.scale, made.crop, made.contrast) == (0.5, (1.0,), "random", 0.3)


def test_light_leaves_labels_and_the_given_image_alone(batch):
    before = batch.image.clone()
    lit = augmenter()(batch, draw(brightness=1.5, contrast=0.5, saturation=0.1))
    assert torch.equal(batch.image, before) and not torch.equal(lit.image, before.float())
    for task in TASKS:
        assert torch.equal(lit.value[task], batch.value[task]) and torch.equal(lit.valid[task], batch.valid[task])


def test_uint8_labels_stay_uint8(batch):
    warped = augmenter()(batch, draw(zoom=1.2, degrees=5, shift=(0.5, 0.5), brightness=1.2))
    for task in TASKS:
        assert warped.value[task].dtype == batch.value[task].dtype


@pytest.mark.gpu
@pytest.mark.parametrize("chosen", [{}, {"flip": True}, *GEOMETRIES], ids=str)
def test_the_gpu_agrees_with_the_cpu(chosen):
    """A pixel whose source lies halfway between two may go either way, hence the share."""
    batch = make_batch(2, HEIGHT, WIDTH)
    drawn = draw(**chosen, brightness=[0.8, 1.3], contrast=[1.2, 0.7], saturation=[1.5, 0.2])
    here, there = augmenter()(batch, drawn), augmenter()(batch.to(torch.device("cuda")), drawn)
    assert there.image.is_cuda and all(each.is_cuda for each in (*there.value.values(), *there.valid.values()))
    there = there.to(torch.device("cpu"))
    torch.testing.assert_close(there.image, here.image, atol=0.05, rtol=0)
    for task in TASKS:
        assert there.value[task].dtype == here.value[task].dtype
        assert torch.isclose(there.value[task].float(), here.value[task].float(), atol=1e-5).float().mean() > 0.995
        assert (there.valid[task] == here.valid[task]).float().mean() > 0.995
