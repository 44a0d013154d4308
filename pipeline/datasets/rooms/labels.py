"""From geometry buffers to the labels of the six tasks; each rule is stated where it is computed."""

from __future__ import annotations

import numpy as np

from pipeline.data.sample import Label
from pipeline.datasets.rooms.camera import Camera
from pipeline.datasets.rooms.render import Caster, Hits
from pipeline.datasets.rooms.scene import CLASSES, Room
from pipeline.datasets.rooms.texture import noise

EDGE_JUMP = 0.05  # relative depth step between instances that counts as an occlusion edge
BASELINE = 0.075  # metres between the depth sensor's projector and its camera
MAX_RANGE = 8.0  # metres
_PERSON = CLASSES.index("person")
_BACKDROP = np.isin(np.arange(len(CLASSES)), [CLASSES.index(c) for c in ("ceiling", "floor", "wall", "window")])


def edges(semantic: np.ndarray, instance: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Edge map (H, W) uint8: 1 where the right or the lower neighbour has another class, or belongs to
    another instance and lies more than `EDGE_JUMP` (relative to the nearer of the two) in front or behind.
    """
    result = np.zeros(semantic.shape, bool)
    for here, there in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        near = np.minimum(depth[here], depth[there])
        step = np.abs(depth[here] - depth[there]) > EDGE_JUMP * near
        result[here] |= (semantic[here] != semantic[there]) | ((instance[here] != instance[there]) & step)
    return result.astype(np.uint8)


def salient(semantic: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Saliency (H, W) uint8: all people if there are any; else the foreground instance (not ceiling, floor,
    wall or window) with the largest sum of exp(-r^2 / 2 / 0.35^2) over its pixels, r from the centre in
    half image sizes (ties: the lower instance number); else nothing.
    """
    people = semantic == _PERSON
    if people.any():
        return people.astype(np.uint8)
    foreground = ~_BACKDROP[semantic]
    if not foreground.any():
        return np.zeros(semantic.shape, np.uint8)
    height, width = semantic.shape
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    weight = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.35**2))
    votes = np.bincount(instance[foreground], weights=weight[foreground])
    return (instance == votes.argmax()).astype(np.uint8)


def depth_seen(
    caster: Caster,
    hits: Hits,
    camera: Camera,
    glass: np.ndarray,
    rng: np.random.Generator,
    size: tuple[int, int],
) -> np.ndarray:
    """Pixels (H, W) bool where a structured-light sensor would report a depth.

    Lost are: points that the projector, `BASELINE` to the camera's right, can't see; surfaces at grazing
    angles (more likely the flatter); most of glass; what is beyond `MAX_RANGE`; and 0.4 % of the rest at
    random.
    """
    projector = camera.position + BASELINE * camera.rotation[:, 0]
    view = hits.point - camera.position
    cosine = -np.einsum("ni,ni->n", view, hits.normal) / np.linalg.norm(view, axis=1)
    chance = rng.uniform(size=cosine.shape)
    lost = caster.blocked(hits, projector) | (hits.distance > MAX_RANGE)
    lost |= (cosine < 0.25 * chance) | (chance > 0.996)
    rows, columns = (np.mgrid[: size[0], : size[1]] / size[0] * 12).reshape(2, -1)
    patches = noise(rows + rng.uniform(0, 1000), columns + rng.uniform(0, 1000))
    return ~(lost | (glass & (patches < 0.75))).reshape(size)


def make_labels(
    room: Room, caster: Caster, camera: Camera, hits: Hits, rng: np.random.Generator, size: tuple[int, int]
) -> dict[str, Label]:
    """All six labels of a frame from the pixel-centre rays' hits. A ray that meets nothing (a crack between
    triangles) is valid for no task but edge and sal.
    """
    soup = room.soup
    semantic, instance, part = (a[hits.piece].reshape(size) for a in (soup.semantic, soup.instance, soup.part))
    found, depth = hits.found.reshape(size), hits.distance.reshape(size).astype(np.float32)
    own = np.einsum("ji,nj->ni", camera.rotation, hits.normal).reshape(*size, 3).astype(np.float32)
    glass = room.looks.glass[soup.material[hits.piece]]
    seen = found & depth_seen(caster, hits, camera, glass, rng, size)
    everywhere = np.ones(size, bool)
    return {
        "semseg": Label(semantic, found),
        "depth": Label(np.where(seen, depth, np.float32(0)), seen),
        "normals": Label(own, found),
        "human_parts": Label(part, found & (part > 0).any()),
        "sal": Label(salient(semantic, instance), everywhere),
        "edge": Label(edges(semantic, instance, depth), everywhere),
    }
