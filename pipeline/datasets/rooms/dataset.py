"""Rooms: an indoor world made from a seed, with exact labels for all six tasks and nothing to download.

Every frame is its own furnished room, drawn from `numpy.random.SeedSequence([seed, split, index])`: the
same parameters give the same bytes on a machine, whatever the number of worker processes and the order of
reading, and no room is in both splits. The image size does not change the scene.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.sample import Sample
from pipeline.datasets.rooms.camera import Camera, camera_rays, draw_camera
from pipeline.datasets.rooms.labels import make_labels
from pipeline.datasets.rooms.people import PARTS
from pipeline.datasets.rooms.render import Caster, photograph, shade
from pipeline.datasets.rooms.scene import CLASSES, Room, build_room
from pipeline.datasets.spec import Dataset

if TYPE_CHECKING:
    from pipeline.params.schema import Data

_SPLIT_CODES = {"train": 0, "val": 1}
_PROBE = (18, 24)  # a glance through the camera before it is accepted
_CLEARANCE = 0.4  # metres
_PERSON = CLASSES.index("person")


def _acceptable(room: Room, caster: Caster, camera: Camera) -> bool:
    """Nothing too near, five classes, none over 60 %; people in view exactly where the room has people."""
    hits = caster.first(camera.position, camera_rays(camera, _PROBE))
    counts = np.bincount(room.soup.semantic[hits.piece], minlength=len(CLASSES)) / hits.piece.size
    near, bare = hits.distance.min() < _CLEARANCE, counts.max() > 0.6
    varied = (counts > 0.01).sum() >= 5
    return varied and not near and not bare and (counts[_PERSON] > 0.01) == room.peopled


def _view(rng: np.random.Generator) -> tuple[Room, Caster, Camera]:
    """A room and a camera in it; a room where twelve cameras find nothing worth a picture is drawn anew."""
    for _ in range(1000):  # two rooms in a row without a view are rare already
        room = build_room(rng)
        caster = Caster(room.soup)
        for _ in range(12):
            camera = draw_camera(rng, room)
            if _acceptable(room, caster, camera):
                return room, caster, camera
    raise AssertionError("no room of a thousand had an acceptable view: the rules of rooms contradict each other")


def render_frame(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[Sample, Camera]:
    """Frame `index` of a split at size (height, width), and the camera that took it.

    Returns a Sample with labels semseg, depth, normals, human_parts, sal and edge. Labels are those of the
    pixel-centre rays; the photograph averages two rays a pixel.
    """
    scene, look, sensor = (
        np.random.default_rng(s) for s in np.random.SeedSequence([seed, _SPLIT_CODES[split], index]).spawn(3)
    )
    room, caster, camera = _view(scene)
    hits = caster.first(camera.position, camera_rays(camera, size))
    radiance = np.zeros((size[0] * size[1], 3))
    offsets = ((0.25, 0.25), (0.75, 0.75))
    for offset in offsets:
        rays = camera_rays(camera, size, offset)
        seen = caster.first(camera.position, rays)
        radiance += shade(room, caster, camera, seen, rays, size, sensor) / len(offsets)
    image = photograph(radiance.reshape(*size, 3), sensor, look)
    labels = make_labels(room, caster, camera, hits, sensor, size)
    return Sample(frame_id(split, index), image, labels), camera


def frame_id(split: str, index: int) -> str:
    """The id of a frame, "train-00000" say."""
    return f"{split}-{index:05d}"


def splits(raw_dir: Path, data: Data) -> dict[str, list[str]]:
    """Ids "train-00000", ... by the counts in `data.rooms`; `raw_dir` is not used."""
    rooms = data.rooms
    return {s: [frame_id(s, i) for i in range(n)] for s, n in (("train", rooms.train), ("val", rooms.val))}


def read(raw_dir: Path, split: str, id: str, data: Data) -> Sample:
    """Render the frame called `id`; `raw_dir` is not used. Deterministic in (split, id, data.rooms.seed and
    size).
    """
    height, width = data.rooms.size
    sample, _ = render_frame(data.rooms.seed, split, int(id.rsplit("-", 1)[1]), (height, width))
    return sample


ROOMS = Dataset(
    name="rooms",
    classes={"semseg": CLASSES, "human_parts": PARTS},
    tasks=("semseg", "human_parts", "sal", "depth", "normals", "edge"),
    edge_max_dist=0.011,
    splits=splits,
    read=read,
)
