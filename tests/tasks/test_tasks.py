"""What every task promises: decoding, geometry of values, pictures and constant predictors."""

import math

import numpy as np
import pytest
import torch

from pipeline.evaluation.trivial import TRIVIAL
from pipeline.tasks import TASKS, TaskContext, get_task
from pipeline.visual.paint import INVALID, PAINTERS, paint, palette, with_middle

CONTEXT = TaskContext(classes=("background", "head", "torso", "arm"))
EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def logits(task, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, task.channels or len(CONTEXT.classes), 5, 6, generator=generator)


def label(task, seed=0):
    """(value, valid) arrays as a dataset gives them."""
    generator = np.random.default_rng(seed)
    valid = generator.random((5, 6)) > 0.2
    if task.channels is None:
        return generator.integers(len(CONTEXT.classes), size=(5, 6)).astype(np.uint8), valid
    if task.categorical:
        return (generator.random((5, 6)) > 0.8).astype(np.uint8), valid
    if task.label_channels == 3:
        vector = generator.normal(size=(5, 6, 3)) + (0, 0, 1)
        return (vector / np.linalg.norm(vector, axis=-1, keepdims=True)).astype(np.float32), valid
    return generator.uniform(0.5, 9, (5, 6)).astype(np.float32), valid


def test_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'normals'"):
        get_task("normal")


@EVERY
def test_registry_key_is_the_name(task):
    assert TASKS[task.name] is get_task(task.name) is task


@EVERY
@pytest.mark.parametrize("batch", [1, 2])
def test_decode_keeps_the_batch_and_matches_the_label(task, batch):
    decoded = task.decode(logits(task, batch))
    assert decoded.shape == (batch, task.label_channels, 5, 6)
    assert decoded.dtype == (torch.uint8 if task.channels is None else torch.float32)
    assert task.decode(logits(task).bfloat16()).dtype == decoded.dtype


def test_decoded_values():
    assert (TASKS["semseg"].decode(logits(TASKS["semseg"]))[:, 0] == logits(TASKS["semseg"]).argmax(1)).all()
    for name in ("sal", "edge"):  # the sigmoid once: a logit of 0 means 0.5, one of -20 means 0
        decoded = TASKS[name].decode(torch.tensor([0.0, -20.0, math.log(3)]).view(1, 1, 1, 3))
        torch.testing.assert_close(decoded.flatten(), torch.tensor([0.5, 0, 0.75]), atol=1e-6, rtol=0)
    assert TASKS["normals"].decode(logits(TASKS["normals"])).norm(dim=1).sub(1).abs().max() < 1e-6


@EVERY
def test_flip_twice_and_full_turn_change_nothing(task):
    value = torch.from_numpy(np.atleast_3d(label(task)[0])).movedim(-1, 0)[None]
    torch.testing.assert_close(task.on_flip(task.on_flip(value)), value)
    torch.testing.assert_close(task.on_rotate(value, torch.tensor([2 * math.pi])), value)
    torch.testing.assert_close(task.on_zoom(task.on_zoom(value, torch.tensor([1.5])), torch.tensor([1 / 1.5])), value)
    assert task.on_flip(value).dtype == task.on_rotate(value, torch.zeros(1)).dtype == value.dtype


def test_normals_follow_the_picture():
    """A normal along a line drawn in the picture still points along it once both are flipped or turned."""
    right, up, towards = torch.eye(3).view(3, 3, 1, 1)
    normals = TASKS["normals"]
    torch.testing.assert_close(normals.on_flip(right[None])[0], -right)
    torch.testing.assert_close(normals.on_flip(up[None])[0], up)
    quarter = torch.full((3,), math.pi / 2)
    turned = normals.on_rotate(torch.stack([right, up, towards]), quarter)  # counter-clockwise as seen
    torch.testing.assert_close(turned, torch.stack([up, -right, towards]), atol=1e-6, rtol=0)


def test_rotation_and_zoom_take_one_amount_per_image():
    value = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).repeat(2, 1, 1, 1)
    turned = TASKS["normals"].on_rotate(value, torch.tensor([0, math.pi]))
    torch.testing.assert_close(turned[:, 0].flatten(), torch.tensor([1.0, -1.0]))
    depth = TASKS["depth"].on_zoom(torch.full((2, 1, 1, 1), 3.0), torch.tensor([1.0, 1.5]))
    assert depth.flatten().tolist() == [3, 2]
    disparity = TASKS["disparity"].on_zoom(torch.full((2, 1, 1, 1), 0.25), torch.tensor([1.0, 1.5]))
    assert disparity.flatten().tolist() == [0.25, 0.375]


def test_disparity_is_inverse_depth():
    """What a zoom does to the one it undoes to the other, and the nearer is warmer in both pictures."""
    depth, factor = torch.tensor([0.5, 2.0, 8.0]).view(3, 1, 1, 1), torch.tensor([1.2, 1.5, 0.8])
    zoomed = TASKS["disparity"].on_zoom(1 / depth, factor)
    torch.testing.assert_close(zoomed, 1 / TASKS["depth"].on_zoom(depth, factor))
    picture = paint("disparity", np.array([[0.4, 0.01]], np.float32), np.ones((1, 2), bool), CONTEXT).astype(int)
    warmth = picture[0, :, 0] - picture[0, :, 2]
    assert warmth[0] > 0 > warmth[1]
    assert TASKS["disparity"].unit == "" and TASKS["disparity"].primary_metric == "abs_err"


def test_every_task_is_painted_and_has_a_constant_predictor():
    assert list(PAINTERS) == list(TRIVIAL) == list(TASKS)


@EVERY
def test_paint_is_rgb_and_grey_where_not_valid(task):
    value, valid = label(task)
    if value.dtype == np.float32:
        value[~valid] = np.nan
    picture = paint(task.name, value, valid, CONTEXT)
    assert picture.shape == (5, 6, 3) and picture.dtype == np.uint8
    assert (picture[~valid] == INVALID).all()
    assert (picture[valid] != INVALID).any()


def test_near_depth_is_warmer_than_far():
    picture = paint("depth", np.array([[1.0, 8.0]], np.float32), np.ones((1, 2), bool), CONTEXT).astype(int)
    warmth = picture[0, :, 0] - picture[0, :, 2]
    assert warmth[0] > 0 > warmth[1]


@pytest.mark.parametrize("scale", [1.0, 20.0])  # a room, a street
def test_depth_and_disparity_use_all_colours_whatever_their_range(scale):
    depth = np.linspace(0.5, 4, 64, dtype=np.float32)[None] * scale
    valid = np.ones(depth.shape, bool)
    for task, value in (("depth", depth), ("disparity", 1 / depth)):
        picture = paint(task, value, valid, CONTEXT)
        assert (picture == paint(task, value / scale, valid, CONTEXT)).all()
        assert np.ptp(picture[..., 0].astype(int)) > 140 and np.ptp(picture[..., 2].astype(int)) > 140


def test_pictures_of_one_report_share_a_scale():
    near, far, valid = np.full((2, 2), 1.0), np.full((2, 2), 9.0), np.ones((2, 2), bool)
    context = with_middle(CONTEXT, [near[valid], far[valid], far[valid]])
    assert context.middle == 9.0
    assert with_middle(CONTEXT, []).middle is None and with_middle(CONTEXT, [near[~valid]]).middle is None
    pictures = [paint("depth", value, valid, context) for value in (near, far)]
    assert (pictures[0] != pictures[1]).any()


def test_palette_is_fixed_and_distinct():
    colours = palette(60).astype(int)
    assert (palette(8) == colours[:8]).all()
    assert len(np.unique(np.vstack([colours, INVALID]), axis=0)) == 61
    apart = np.abs(colours[:21, None] - colours[None, :21]).sum(-1)[~np.eye(21, dtype=bool)]
    assert apart.min() >= 60


@EVERY
def test_no_constant_beats_the_trivial_predictor(task):
    """In the sense each is defined by: hits for classes, absolute error for disparity, squared error for the others."""
    labels = [label(task, seed) for seed in range(3)]
    if task.name == "disparity":
        labels = [(value / 10, valid) for value, valid in labels]  # 0..1
    trivial = TRIVIAL[task.name](iter(labels), CONTEXT)
    values = np.concatenate([value[valid] for value, valid in labels]).astype(np.float64)

    def error(constant):
        if task.channels is None:
            return (values != constant).mean()
        if task.name == "disparity":
            return np.abs(values - constant).mean() - 1 / 65535  # it is found in steps of that
        return np.square(values - constant).mean()

    if task.channels is None:
        others = range(len(CONTEXT.classes))
    elif task.label_channels == 3:
        assert trivial.shape == (3,) and np.linalg.norm(trivial) == pytest.approx(1, abs=1e-6)
        others = [v / np.linalg.norm(v) for v in trivial + np.random.default_rng(0).normal(0, 0.1, (50, 3))]
    else:
        others = np.linspace(values.min(), values.max(), 50)
    assert all(error(trivial) <= error(other) + 1e-9 for other in others)


@EVERY
def test_trivial_needs_a_valid_pixel(task):
    value, valid = label(task)
    with pytest.raises(ValueError, match="no valid label pixel"):
        TRIVIAL[task.name]([(value, np.zeros_like(valid))], CONTEXT)
