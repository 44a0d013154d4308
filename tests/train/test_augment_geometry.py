"""Augmented depth and augmented normals still describe one scene: normals recomputed from the depth agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.datasets.rooms.camera import intrinsics
from pipeline.datasets.rooms.dataset import render_frame
from pipeline.loading.loader import Batch, image_tensor, value_tensor
from pipeline.tasks import TASKS
from pipeline.tasks.spec import unchanged
from pipeline.train.augment import Augmenter, Draw, Geometry, ValueGeometry
from pipeline.train.photometric import Photometry

SIZE = (192, 256)
FRAMES = 3
STEP = 10  # pixels either way: labels are read at the nearest pixel, so those of close neighbours differ in steps
TASKS_HERE = ("depth", "normals")
RULES = {task: ValueGeometry(TASKS[task].on_flip, TASKS[task].on_rotate, TASKS[task].on_zoom) for task in TASKS_HERE}

CASES = {
    "nothing": {},
    "flip": {"flip": True},
    "enlarged": {"zoom": 1.45},
    "shrunk": {"zoom": 0.77},
    "turned": {"degrees": 20.0},
    "turned the other way": {"degrees": -35.0},
    "cropped": {"zoom": 1.7, "shift": (0.9, 0.9)},
    "all": {"flip": True, "zoom": 1.3, "degrees": -20.0, "shift": (-0.8, 1.0)},
}
USUAL = {"flip": False, "zoom": 1.0, "degrees": 0.0, "shift": (0.0, 0.0)}


@pytest.fixture(scope="module")
def frames() -> tuple[Batch, float]:
    """Rendered frames, and their camera's focal length in pixels; its principal point is the middle of the image."""
    samples, cameras = zip(*(render_frame(0, "train", index, SIZE) for index in range(FRAMES)), strict=True)
    focal, centre_x, centre_y = intrinsics(cameras[0], SIZE)
    assert (centre_x, centre_y) == (SIZE[1] / 2, SIZE[0] / 2)
    value = {task: torch.stack([value_tensor(s.labels[task].value) for s in samples]) for task in TASKS_HERE}
    valid = {task: torch.stack([torch.from_numpy(s.labels[task].valid)[None] for s in samples]) for task in TASKS_HERE}
    return Batch(torch.stack([image_tensor(s.image) for s in samples]), value, valid), focal


def augmented(batch: Batch, rules: dict[str, ValueGeometry], flip, zoom, degrees, shift) -> Batch:
    def each(value) -> torch.Tensor:
        return torch.tensor(value).expand(FRAMES, *np.shape(value))

    geometry = Geometry(each(flip), each(zoom), each(np.deg2rad(degrees)).float(), each(shift))
    none = Photometry(*[torch.ones(FRAMES)] * 3)
    return Augmenter(0.5, (1.0,), "choice", 0.0, rules)(batch, Draw(geometry, none))


def turn(degrees: float) -> np.ndarray:
    """(3, 3): counter-clockwise about the axis that points at the viewer, x right and y up."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def rays(focal: float, zoom: float = 1.0, degrees: float = 0.0, shift=(0.0, 0.0)) -> np.ndarray:
    """(H, W, 3) directions of length 1 along the axis, x right, y up, through the pixels of the augmented camera.

    Its focal length is `zoom` times the old one; its principal point, the middle of the old image, lies where crop
    and turn have moved it. A flip and a turn change the scene in front of it, not the camera.
    """
    height, width = SIZE
    slack = np.array([width - 1, height - 1]) / 2 * max(0, 1 - 1 / zoom)
    right, up = turn(degrees)[:2, :2] @ (-zoom * slack * shift * [1, -1])
    principal_x, principal_y = width / 2 + right, height / 2 - up
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = (columns - principal_x) / (zoom * focal), (principal_y - rows) / (zoom * focal)
    return np.stack([x, y, -np.ones_like(x)], axis=-1)


def around(of: np.ndarray) -> tuple[np.ndarray, ...]:
    """The values (B, H, W, ...) of a pixel and of those STEP to its left, its right, above and below."""
    inner = slice(STEP, -STEP)
    left, right, above, below = (
        of[:, inner, : -2 * STEP],
        of[:, inner, 2 * STEP :],
        of[:, : -2 * STEP, inner],
        of[:, 2 * STEP :, inner],
    )
    return of[:, inner, inner], left, right, above, below


def angles(batch: Batch, directions: np.ndarray) -> np.ndarray:
    """Degrees between the normal labels and normals computed from the depth labels, at pixels of flat surfaces.

    Points are depth times direction; a normal is the cross product of the differences to the right and upwards. Flat
    is where depth is known all round and its inverse, which is linear in the pixels of a plane, does not bend.
    """
    depth, normal = (batch.value[task].double().permute(0, 2, 3, 1).numpy() for task in ("depth", "normals"))
    valid = (batch.valid["depth"] & batch.valid["normals"])[:, 0].numpy()
    _, left, right, above, below = around(depth * directions)
    computed = np.cross(right - left, above - below)
    with np.errstate(divide="ignore", invalid="ignore"):
        computed /= np.linalg.norm(computed, axis=-1, keepdims=True)
        here, *there = around(1 / depth[..., 0])
        straight = [np.abs(there[i] + there[i + 1] - 2 * here) < 0.02 * here for i in (0, 2)]
    flat = np.logical_and.reduce([*straight, *around(valid)])
    assert flat.mean() > 0.1, "hardly a pixel is left to compare"
    cosine = (computed * around(normal)[0]).sum(axis=-1)[flat]
    return np.rad2deg(np.arccos(cosine.clip(-1, 1)))


def disagreement(frames: tuple[Batch, float], case: dict, left_out: str = "nothing") -> float:
    """Median angle in degrees; `left_out`: what the normals or the reader of the depth are not told."""
    batch, focal = frames
    case = USUAL | case
    own = {
        "the flip of normals": ValueGeometry(unchanged, RULES["normals"].on_rotate, unchanged),
        "the turn of normals": ValueGeometry(RULES["normals"].on_flip, unchanged, unchanged),
    }
    camera = {"zoom": case["zoom"], "degrees": case["degrees"], "shift": case["shift"]}
    if left_out == "the crop":
        del camera["shift"]
    if left_out == "the longer focal length":
        del camera["zoom"]
    changed = augmented(batch, RULES | {"normals": own.get(left_out, RULES["normals"])}, **case)
    return float(np.median(angles(changed, rays(focal, **camera))))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_normals_agree_with_those_of_the_augmented_depth(frames, case):
    """The degree that remains is the nearest pixel's: depth interpolated at the exact place agrees to 0.02 degrees."""
    assert disagreement(frames, case) < 2


@pytest.mark.parametrize(
    ("case", "left_out"),
    [
        ("flip", "the flip of normals"),
        ("all", "the flip of normals"),
        ("turned", "the turn of normals"),
        ("turned the other way", "the turn of normals"),
        ("all", "the turn of normals"),
        ("cropped", "the crop"),
        ("all", "the crop"),
        ("enlarged", "the longer focal length"),
        ("shrunk", "the longer focal length"),
    ],
)
def test_normals_disagree_when_something_is_left_out(frames, case, left_out):
    assert disagreement(frames, CASES[case], left_out) > 3


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_augmented_scene_is_the_old_one_shrunk_turned_and_mirrored(frames, case):
    """Every augmented point, enlarged, turned and mirrored back in space, lies where the old camera saw it."""
    batch, focal = frames
    case = USUAL | case
    changed = augmented(batch, RULES, **case)
    camera = {"zoom": case["zoom"], "degrees": case["degrees"], "shift": case["shift"]}
    points = changed.value["depth"].double().permute(0, 2, 3, 1).numpy() * rays(focal, **camera)
    points = case["zoom"] * points @ turn(-case["degrees"]).T * [-1 if case["flip"] else 1, 1, 1]
    frame, row, column = np.nonzero(changed.valid["depth"][:, 0].numpy())
    x, y, minus_depth = points[frame, row, column].T
    column = np.floor(SIZE[1] / 2 - focal * x / minus_depth).astype(int).clip(0, SIZE[1] - 1)
    row = np.floor(SIZE[0] / 2 + focal * y / minus_depth).astype(int).clip(0, SIZE[0] - 1)
    old = batch.value["depth"][:, 0].numpy()[frame, row, column]
    assert len(frame) > 0.3 * batch.valid["depth"].sum()
    assert np.isclose(old, -minus_depth, rtol=1e-4).mean() > 0.98  # halfway between two pixels, either is the nearest
