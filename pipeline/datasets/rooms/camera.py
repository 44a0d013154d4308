"""The camera of a room: where it stands, and the rays through its pixels.

Camera frame: x right, y up, z towards the camera. Depth is along the camera axis, not along the ray. Pixels
are square; pixel (row, column) looks through (column + 0.5, row + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.datasets.rooms.mesh import tilt, turn
from pipeline.datasets.rooms.scene import Room

# One sensor for all frames, as in NYUD-v2 (a Kinect sees about 60 degrees): with a field of view that varied, depth
# could not be seen in a single image.
FIELD_OF_VIEW = np.deg2rad(60)


@dataclass(frozen=True)
class Camera:
    """Position and rotation (columns: right, up, backwards, in world axes); horizontal field of view in
    radians.
    """

    position: np.ndarray
    rotation: np.ndarray
    field_of_view: float


def intrinsics(camera: Camera, size: tuple[int, int]) -> tuple[float, float, float]:
    """Focal length and principal point (f, cx, cy) in pixels for an image of size (height, width)."""
    height, width = size
    return width / 2 / np.tan(camera.field_of_view / 2), width / 2, height / 2


def camera_rays(camera: Camera, size: tuple[int, int], offset: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """World directions (H * W, 3) of length 1 along the camera axis, so that a hit's ray parameter is its
    depth.
    """
    f, cx, cy = intrinsics(camera, size)
    rows, columns = np.mgrid[: size[0], : size[1]]
    x, y = (columns + offset[1] - cx) / f, (cy - rows - offset[0]) / f
    own = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    return np.einsum("ij,nj->ni", camera.rotation, own)


def draw_camera(rng: np.random.Generator, room: Room, clearance: float = 0.55) -> Camera:
    """A hand-held camera: a place at least `clearance` metres from every piece's bounding box, looking any
    way.

    Falls back to the roomiest of the places tried where none is that clear (a packed room).
    """
    width, depth, height = room.size
    best: np.ndarray | None = None
    best_gap = -1.0
    for _ in range(60):
        position = np.array(
            [
                rng.uniform(0.3, width - 0.3),
                rng.uniform(0.3, depth - 0.3),
                rng.uniform(1.35, min(1.65, height - 0.6)),
            ]
        )
        bounds = room.soup.bounds
        outside = np.maximum(0, np.maximum(bounds[:, 0] - position, position - bounds[:, 1]))
        gap = np.sqrt((outside**2).sum(axis=1)).min()
        if gap > best_gap:
            best, best_gap = position, gap
        if gap >= clearance:
            break
    assert best is not None  # any gap is above -1
    centre = np.arctan2(depth / 2 - best[1], width / 2 - best[0])
    yaw = centre + rng.normal(0, 0.7) - np.pi / 2  # mostly across the room, not at the nearest wall
    pitch, roll = rng.normal(-0.16, 0.12), rng.normal(0, 0.03)
    forward_is_y = turn(yaw) @ tilt(np.clip(pitch, -0.45, 0.2))
    c, s = np.cos(roll), np.sin(roll)
    looking = forward_is_y @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    rotation = np.column_stack([looking[:, 0], looking[:, 2], -looking[:, 1]])
    return Camera(best, rotation, FIELD_OF_VIEW)
