"""Ray casting and shading of a room: geometry buffers at pixel centres, and an RGB photograph.

The arithmetic stays off BLAS, whose rounding may depend on the number of threads, so bytes repeat on a
machine; across machines Embree and libm may round differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.datasets.rooms import texture
from pipeline.datasets.rooms.camera import Camera, intrinsics
from pipeline.datasets.rooms.mesh import Soup
from pipeline.datasets.rooms.scene import Light, Room

_LIFT = 2e-3  # metres that a secondary ray starts above its surface


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise inner products."""
    return np.einsum("ni,ni->n", a, np.broadcast_to(b, a.shape))


@dataclass(frozen=True)
class Hits:
    """What rays met: ray parameter, world point and unit normal towards the ray's origin, piece; `found`
    where any.
    """

    found: np.ndarray
    distance: np.ndarray
    point: np.ndarray
    normal: np.ndarray
    piece: np.ndarray


class Caster:
    """Rays against one triangle soup."""

    def __init__(self, soup: Soup):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.soup = soup
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, soup.vertices, soup.faces)
        corners = soup.vertices[soup.faces].astype(np.float64)
        self._anchor = corners[:, 0]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self._normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)

    def first(self, origin: np.ndarray, direction: np.ndarray) -> Hits:
        """The first surface along rays from one origin (3,). Points are computed in float64 from the
        triangle's plane, more precisely than the tracer's float32.
        """
        origins = np.broadcast_to(origin, direction.shape).astype(np.float32)
        face = self._scene.run(origins, direction.astype(np.float32))
        found = face >= 0
        face = np.maximum(face, 0)
        normal = self._normal[face]
        slope = _dot(normal, direction)
        slope = np.where(np.abs(slope) < 1e-9, -1e-9, slope)
        distance = _dot(normal, self._anchor[face] - origin) / slope
        normal = np.where(slope[:, None] > 0, -normal, normal)
        point = origin + distance[:, None] * direction
        return Hits(found, distance, point, normal, self.soup.face_piece[face])

    def blocked(self, hits: Hits, target: np.ndarray) -> np.ndarray:
        """Whether something stands between each hit and its `target` point, (3,) or (N, 3)."""
        start = hits.point + _LIFT * hits.normal
        towards = target - start
        span = np.sqrt(_dot(towards, towards))
        towards = (towards / span[:, None]).astype(np.float32)
        hit = self._scene.run(start.astype(np.float32), towards, (span - _LIFT).astype(np.float32), query="OCCLUDED")
        return hit >= 0


# The camera's own light, at the lens and so without visible shadows; a lamp of a room has about 1. Its falloff is a cue
# for depth that a small network picks up in minutes, where perspective and size take hours.
FLASH = np.float32(2.0)


def _blur(image: np.ndarray) -> np.ndarray:
    """3x3 mean of an (H, W) map, edges repeated."""
    padded = np.pad(image, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)


def _light(
    light: Light, caster: Caster, hits: Hits, view: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Irradiance (N,) of one light at the hits, and the part of it (N,) that a perfect gloss sends to the
    camera.

    Lambert and Blinn-Phong terms from the light's middle, distance falloff; the shadow is soft: each pixel
    asks for one random point of the light, and the answers are averaged over 3x3 pixels.
    """
    jitter = rng.uniform(-1, 1, hits.point.shape)
    lit = ~caster.blocked(hits, light.position + np.einsum("nk,kj->nj", jitter, light.spread))
    lit = _blur(lit.reshape(size).astype(np.float32)).ravel()
    towards = (light.position - hits.point).astype(np.float32)
    normal = hits.normal.astype(np.float32)
    square = _dot(towards, towards)
    towards /= np.sqrt(square)[:, None]
    power = lit * np.maximum(0, _dot(towards, normal)) / (square + np.float32(0.3))
    if light.facing is not None:
        power *= np.maximum(0, -_dot(towards, light.facing.astype(np.float32)))
    half = towards - view
    half /= np.maximum(np.sqrt(_dot(half, half)), np.float32(1e-6))[:, None]
    return power, power * 6 * np.maximum(0, _dot(half, normal)) ** 60


def _albedo(room: Room, hits: Hits, view: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Surface colours (N, 3) from the materials' procedural textures, in each piece's own coordinates."""
    soup, looks = room.soup, room.looks
    rotation = soup.rotation[hits.piece]
    local = np.einsum("nij,ni->nj", rotation, hits.point - soup.origin[hits.piece])
    facing = np.einsum("nij,ni->nj", rotation, hits.normal)
    uv = texture.surface_coordinates(local, facing).astype(np.float32)
    material = soup.material[hits.piece]
    pattern, period, phase = looks.pattern[material], looks.period[material], looks.phase[material]
    share = np.zeros(len(uv), np.float32)
    for name in texture.PATTERNS:
        own = np.flatnonzero(pattern == name)
        if len(own):
            share[own] = texture.blend(name, uv[own], period[own], phase[own], footprint[own])
    first, second = looks.colour[material], looks.second[material]
    albedo = first + share[:, None] * (second - first)
    own = np.flatnonzero(pattern == "outdoors")
    if len(own):
        albedo[own] = texture.outdoors(view[own], first[own], second[own], phase[own])
    return albedo


def shade(
    room: Room,
    caster: Caster,
    camera: Camera,
    hits: Hits,
    rays: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Linear radiance (H * W, 3) towards the camera: ambient light, lamps and windows with shadows, the flash, glow,
    highlights.

    rays: (H * W, 3) directions that made the hits; size: (H, W); rng: soft shadows' randomness.
    """
    length = np.sqrt(_dot(rays, rays))
    view = (rays / length[:, None]).astype(np.float32)
    normal = hits.normal.astype(np.float32)
    pixel = hits.distance / intrinsics(camera, size)[0]
    albedo = _albedo(room, hits, view, (pixel / np.maximum(0.15, -_dot(view, normal))).astype(np.float32))
    material = room.soup.material[hits.piece]
    ambient = room.ambient * np.array([0.8, 1.0])[:, None]
    light = ambient[0] + (ambient[1] - ambient[0]) * normal[:, 2:]
    shine = np.zeros_like(light)
    for source in room.lights:
        diffuse, specular = _light(source, caster, hits, view, size, rng)
        light += diffuse[:, None] * source.colour
        shine += specular[:, None] * source.colour
    far = (hits.distance * length).astype(np.float32)
    light += (FLASH * np.maximum(0, -_dot(view, normal)) / (far * far + np.float32(0.3)))[:, None]
    return albedo * (light + room.looks.glow[material, None]) + room.looks.gloss[material, None] * shine


def photograph(radiance: np.ndarray, rng: np.random.Generator, look: np.random.Generator) -> np.ndarray:
    """Linear radiance (H, W, 3) -> uint8 RGB through an imperfect camera.

    Auto-exposure with an error, white balance, vignetting, shot and read noise (`rng`, per pixel), a filmic
    shoulder, gamma. `look` draws the scene-wide values, the same at every image size.
    """
    height, width = radiance.shape[:2]
    level = np.exp(np.log(radiance.mean(axis=2) + 1e-3).mean())
    gain = 0.32 / level * np.exp(look.normal(0, 0.25))
    balance = np.exp(look.normal(0, 0.07, 3))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1 - look.uniform(0.05, 0.3) * (x * x + y * y) / 2
    signal = radiance * gain * balance * vignette[..., None]
    shot, read = look.uniform(0.01, 0.03), look.uniform(0.001, 0.006)
    signal = signal + rng.standard_normal(signal.shape) * np.sqrt(shot**2 * signal + read**2)
    curve = 1 - np.exp(-1.25 * np.maximum(0, signal))
    return np.round(255 * curve ** (1 / 2.2)).astype(np.uint8)
