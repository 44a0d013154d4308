"""The generated rooms: reproducible, and labels that agree with geometry computed another way."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.datasets.rooms.camera import intrinsics
from pipeline.datasets.rooms.dataset import ROOMS, read, render_frame, splits
from pipeline.datasets.rooms.labels import EDGE_JUMP, edges, salient
from pipeline.datasets.rooms.people import PARTS
from pipeline.datasets.rooms.scene import CLASSES

pytestmark = pytest.mark.slow

SIZE = (36, 48)
TINY = (18, 24)


def params(seed=0, train=3, val=2, size=SIZE):
    return SimpleNamespace(rooms=SimpleNamespace(seed=seed, train=train, val=val, size=size))


@functools.cache
def frame(index: int, split: str = "train", size=SIZE):
    return render_frame(0, split, index, size)


@pytest.fixture(scope="module")
def many():
    return [render_frame(0, "train", i, TINY)[0] for i in range(200)]


def digest(sample) -> str:
    state = hashlib.sha256(sample.image.tobytes())
    for name in sorted(sample.labels):
        state.update(sample.labels[name].value.tobytes() + sample.labels[name].valid.tobytes())
    return state.hexdigest()


def read_digest(id: str) -> str:
    return digest(read(None, id.split("-")[0], id, params()))


def camera_points(depth: np.ndarray, camera) -> np.ndarray:
    """Pinhole model: pixel centres and depth along the axis -> points (H, W, 3), x right, y up, z towards
    us.
    """
    f, cx, cy = intrinsics(camera, depth.shape)
    v, u = np.indices(depth.shape) + 0.5
    return np.stack([(u - cx) / f * depth, (cy - v) / f * depth, -depth], axis=-1)


def test_same_bytes_in_other_processes_and_in_any_order():
    ids = [i for s in splits(None, params()).values() for i in s]
    here = {i: read_digest(i) for i in ids}
    assert len(set(here.values())) == len(ids)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = dict(zip(ids[::-1], pool.map(read_digest, ids[::-1]), strict=True))
    assert here == there


def test_splits_count_and_differ():
    data = params(train=4, val=3)
    assert splits(None, data) == {
        "train": ["train-00000", "train-00001", "train-00002", "train-00003"],
        "val": ["val-00000", "val-00001", "val-00002"],
    }
    assert splits(None, params(train=9))["train"][:4] == splits(None, data)["train"]
    assert not np.array_equal(frame(0)[0].image, frame(0, "val")[0].image)
    assert not np.array_equal(render_frame(1, "train", 0, SIZE)[0].image, frame(0)[0].image)


def test_size_changes_the_raster_only():
    """Every third pixel centre of a three times finer image is a pixel centre of the coarse one: the same
    ray.
    """
    coarse, fine = frame(3)[0], render_frame(0, "train", 3, (3 * SIZE[0], 3 * SIZE[1]))[0]
    assert np.array_equal(coarse.labels["semseg"].value, fine.labels["semseg"].value[1::3, 1::3])
    both = coarse.labels["depth"].valid & fine.labels["depth"].valid[1::3, 1::3]
    difference = coarse.labels["depth"].value - fine.labels["depth"].value[1::3, 1::3]
    assert np.abs(difference[both]).max() < 1e-4


@pytest.mark.parametrize("index", range(4))
def test_types_and_ranges(index):
    sample = frame(index)[0]
    assert sample.id == f"train-{index:05d}"
    assert (sample.image.shape, sample.image.dtype) == ((*SIZE, 3), np.uint8)
    assert set(sample.labels) == set(ROOMS.tasks)
    for label in sample.labels.values():
        assert label.valid.shape == SIZE and label.valid.dtype == bool
    value = {name: label.value for name, label in sample.labels.items()}
    assert all(value[t].dtype == np.uint8 and value[t].shape == SIZE for t in ("semseg", "human_parts", "sal", "edge"))
    assert value["semseg"].max() < len(CLASSES) and value["human_parts"].max() < len(PARTS)
    assert value["sal"].max() <= 1 and value["edge"].max() <= 1
    assert value["depth"].dtype == value["normals"].dtype == np.float32
    assert np.allclose(np.linalg.norm(value["normals"], axis=-1), 1, atol=1e-5)
    valid = sample.labels["depth"].valid
    assert (value["depth"][~valid] == 0).all()
    assert value["depth"][valid].min() > 0.3 and value["depth"][valid].max() <= 8


@pytest.mark.parametrize("index", range(6))
def test_normals_agree_with_depth(index):
    """On flat ground the cross product of central differences of the points is the normal."""
    sample, camera = frame(index, size=(96, 128))
    depth, normals = sample.labels["depth"], sample.labels["normals"].value
    points = camera_points(depth.value.astype(np.float64), camera)
    right, up = points[1:-1, 2:] - points[1:-1, :-2], points[:-2, 1:-1] - points[2:, 1:-1]
    expected = np.cross(right, up)
    expected /= np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1e-12)
    centre = normals[1:-1, 1:-1]
    flat = np.ones(centre.shape[:2], bool)
    for dy in range(3):
        for dx in range(3):
            window = slice(dy, dy + 94), slice(dx, dx + 126)
            flat &= depth.valid[window] & ((normals[window] * centre).sum(-1) > 0.99999)
    angle = np.degrees(np.arccos(np.clip((expected * centre).sum(-1), -1, 1)))[flat]
    assert flat.mean() > 0.25
    assert np.median(angle) < 0.2 and np.mean(angle < 2) > 0.9


@pytest.mark.parametrize("index", range(6))
def test_normals_face_the_camera(index):
    sample, camera = frame(index)
    rays = camera_points(np.ones(SIZE), camera)
    assert ((sample.labels["normals"].value * rays).sum(-1) < 1e-4).all()


def test_floor_is_level_and_at_height_zero():
    """Depth, intrinsics and pose together put every floor pixel on the world's ground plane (rugs: 2 cm)."""
    checked = 0
    for index in range(6):
        sample, camera = frame(index)
        depth = sample.labels["depth"]
        floor = (sample.labels["semseg"].value == CLASSES.index("floor")) & depth.valid
        if not floor.any():
            continue
        world = camera_points(depth.value, camera)[floor] @ camera.rotation.T + camera.position
        assert (np.abs(world[:, 2]) < 0.025).all()
        level = sample.labels["normals"].value[floor] @ camera.rotation.T
        assert np.mean(level[:, 2] > 0.999) > 0.9
        assert sample.labels["normals"].value[floor][:, 1].mean() > 0.7
        checked += floor.sum()
    assert checked > 500


def test_edges_follow_the_rule_pixel_by_pixel():
    rng = np.random.default_rng(0)
    semantic, instance = rng.integers(0, 2, (12, 15)), rng.integers(0, 3, (12, 15))
    depth = rng.choice([1.0, 1.04, 1.5], (12, 15))
    expected = np.zeros((12, 15))
    for y in range(12):
        for x in range(15):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v == 12 or u == 15:
                    continue
                jump = abs(depth[y, x] - depth[v, u]) > EDGE_JUMP * min(depth[y, x], depth[v, u])
                if semantic[y, x] != semantic[v, u] or (instance[y, x] != instance[v, u] and jump):
                    expected[y, x] = 1
    assert np.array_equal(edges(semantic, instance, depth), expected)


@pytest.mark.parametrize("index", range(4))
def test_class_borders_are_edges(index):
    labels = frame(index)[0].labels
    semantic, edge = labels["semseg"].value, labels["edge"].value
    assert edge[:, :-1][semantic[:, 1:] != semantic[:, :-1]].all()
    assert edge[:-1][semantic[1:] != semantic[:-1]].all()
    assert 0.01 < edge.mean() < 0.4


def test_salient_prefers_people_then_the_big_central_thing():
    chair, wall, person = (CLASSES.index(c) for c in ("chair", "wall", "person"))
    semantic, instance = np.full((20, 20), wall), np.zeros((20, 20), int)
    assert not salient(semantic, instance).any()
    semantic[:5, :6], instance[:5, :6] = chair, 1  # larger, in a corner
    semantic[8:12, 8:12], instance[8:12, 8:12] = chair, 2
    assert np.array_equal(salient(semantic, instance), instance == 2)
    semantic[19, 19] = person
    assert np.array_equal(salient(semantic, instance), semantic == person)


def test_parts_are_valid_exactly_with_a_person(many):
    with_person = 0
    for sample in many:
        person = sample.labels["semseg"].value == CLASSES.index("person")
        parts = sample.labels["human_parts"]
        assert np.array_equal(parts.value > 0, person)
        assert parts.valid.any() == person.any() and (parts.valid.all() or not parts.valid.any())
        assert not person.any() or np.array_equal(sample.labels["sal"].value, person)
        with_person += person.any()
    assert 0.62 < with_person / len(many) < 0.82


def test_every_class_and_part_shows_up(many):
    frames = np.zeros(len(CLASSES))
    parts = np.zeros(len(PARTS))
    for sample in many:
        frames[np.unique(sample.labels["semseg"].value)] += 1
        parts[np.unique(sample.labels["human_parts"].value)] += 1
    assert (frames / len(many) > 0.08).all(), dict(zip(CLASSES, frames, strict=True))
    assert (parts / len(many) > 0.3).all(), dict(zip(PARTS, parts, strict=True))


def test_depth_has_a_sensor_share_of_holes(many):
    holes = np.mean([1 - sample.labels["depth"].valid.mean() for sample in many])
    assert 0.05 < holes < 0.15


def test_colour_alone_does_not_give_the_class_away(many):
    from sklearn.tree import DecisionTreeClassifier

    pixels = np.stack([s.image.reshape(-1, 3) for s in many])
    classes = np.stack([s.labels["semseg"].value.ravel() for s in many])
    tree = DecisionTreeClassifier(max_leaf_nodes=200, random_state=0)
    tree.fit(pixels[:150, ::4].reshape(-1, 3), classes[:150, ::4].ravel())
    accuracy = tree.score(pixels[150:].reshape(-1, 3), classes[150:].ravel())
    assert accuracy < 0.55
    assert pixels.std(axis=1).mean() > 25  # and no picture is flat
    assert (pixels.std(axis=1).mean(axis=1) > 8).all()
