"""Building blocks of a room: unit shapes, posed pieces, things made of pieces, and the triangle soup they
become.

World frame: x and y span the floor, z points up, metres. A `Piece` is one rigid solid; a `Thing` is one
object (an instance with a class), a frame and some pieces. `Builder` collects them and bakes all vertices
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TypedDict, Unpack

import numpy as np

# Exponent of the superellipsoid |x|^p + |y|^p + |z|^p = 1 that stands for everything upholstered.
_CUSHION_EXPONENT = 5.0

Vector = Sequence[float] | np.ndarray  # (3,): x, y, z in metres


@dataclass(frozen=True)
class Frame:
    """A rigid placement: columns of `rotation` are its axes in the parent, `origin` its position there."""

    rotation: np.ndarray
    origin: np.ndarray

    def at(self, offset: Vector, rotation: np.ndarray | None = None) -> Frame:
        """The frame that lies at `offset` (own coordinates) and is turned by `rotation` against this one."""
        turned = self.rotation if rotation is None else self.rotation @ rotation
        return Frame(turned, self.origin + self.rotation @ np.asarray(offset, float))


def turn(yaw: float) -> np.ndarray:
    """Rotation by `yaw` radians about z, counter-clockwise from above."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def tilt(angle: float) -> np.ndarray:
    """Rotation by `angle` radians about x: positive lifts the +y side."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def aim(direction: Vector) -> np.ndarray:
    """A rotation whose z axis is the unit vector `direction` and whose x axis stays as level as it can."""
    z = np.asarray(direction, float)
    helper = np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 0.9 else np.array([0.0, 0.0, 1.0])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    return np.column_stack([x, np.cross(z, x), z])


@cache
def unit_shape(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """vertices (V, 3) within [-1, 1], faces (F, 3) and `top` (V,): the vertices that length and taper move.

    Triangle counts are small on purpose: building the ray-casting tree costs about 1 microsecond a triangle.
    """
    import trimesh.creation as creation  # half a second: paid where frames are made, not on every import

    if name == "box":
        mesh = creation.box(extents=(2.0, 2.0, 2.0))
    elif name == "cylinder":
        mesh = creation.cylinder(radius=1.0, height=2.0, sections=20)
    elif name in ("ball", "bead"):
        mesh = creation.icosphere(subdivisions=2 if name == "ball" else 1)
    elif name == "cushion":
        mesh = creation.box(extents=(2.0, 2.0, 2.0)).subdivide().subdivide()
        norm = (np.abs(mesh.vertices) ** _CUSHION_EXPONENT).sum(axis=1) ** (1 / _CUSHION_EXPONENT)
        return np.asarray(mesh.vertices) / norm[:, None], np.asarray(mesh.faces), mesh.vertices[:, 2] > 0
    elif name == "capsule":
        mesh = creation.capsule(height=1.0, radius=1.0, count=[8, 14])
        vertices, top = np.array(mesh.vertices), mesh.vertices[:, 2] > 0
        vertices[:, 2] += np.where(top, -0.5, 0.5)  # both hemispheres' centres at the origin; length parts them
        return vertices, np.asarray(mesh.faces), top
    else:
        raise ValueError(f"unknown shape {name!r}: box, cylinder, ball, bead, cushion or capsule")
    return np.asarray(mesh.vertices), np.asarray(mesh.faces), mesh.vertices[:, 2] > 0


@dataclass(frozen=True)
class Material:
    """How a surface looks. `pattern` names a function of texture; `period` is its size in metres."""

    colour: np.ndarray
    second: np.ndarray
    pattern: str = "plain"
    period: float = 0.1
    gloss: float = 0.0
    glow: float = 0.0
    glass: bool = False
    phase: float = 0.0


class _Look(TypedDict, total=False):
    """Options of `Material`."""

    pattern: str
    period: float
    gloss: float
    glow: float
    glass: bool
    phase: float


@dataclass(frozen=True)
class Looks:
    """All materials of a scene as arrays, one row each: colours (M, 3) float32, the rest (M,)."""

    colour: np.ndarray
    second: np.ndarray
    pattern: np.ndarray
    period: np.ndarray
    gloss: np.ndarray
    glow: np.ndarray
    glass: np.ndarray
    phase: np.ndarray

    @classmethod
    def of(cls, materials: list[Material]) -> Looks:
        """The looks of these materials, in their order."""
        columns = {f.name: np.array([getattr(m, f.name) for m in materials]) for f in fields(cls)}
        return cls(**{k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in columns.items()})


@dataclass(frozen=True)
class Piece:
    """One rigid solid of a thing: a unit shape, its half extents and where it stands; see `Thing.add`."""

    shape: str
    half: np.ndarray
    frame: Frame
    length: float
    taper: float
    semantic: int
    instance: int
    part: int
    material: int


class _More(TypedDict, total=False):
    """Options of `Thing.add`."""

    rotation: np.ndarray | None
    length: float
    taper: float
    part: int


@dataclass
class Thing:
    """One object under construction. Sizes are full extents, centres are in the thing's own frame."""

    builder: Builder
    semantic: int
    instance: int
    frame: Frame

    def add(
        self,
        shape: str,
        size: Vector,
        centre: Vector,
        material: int,
        *,
        rotation: np.ndarray | None = None,
        length: float = 0.0,
        taper: float = 1.0,
        part: int = 0,
    ) -> None:
        """Add a solid. `length` moves the top half up along z, `taper` scales the top's x and y."""
        half = np.asarray(size, float) / 2
        frame = self.frame.at(centre, rotation)
        self.builder.pieces.append(
            Piece(shape, half, frame, length, taper, self.semantic, self.instance, part, material)
        )

    def box(self, size: Vector, centre: Vector, material: int, **more: Unpack[_More]) -> None:
        """Add a box; `more` as in `add`."""
        self.add("box", size, centre, material, **more)

    def cushion(self, size: Vector, centre: Vector, material: int, **more: Unpack[_More]) -> None:
        """Add an upholstered box; `more` as in `add`."""
        self.add("cushion", size, centre, material, **more)

    def cylinder(self, diameter: float, height: float, centre: Vector, material: int, **more: Unpack[_More]) -> None:
        """Add a cylinder along z; `more` as in `add`."""
        self.add("cylinder", (diameter, diameter, height), centre, material, **more)

    def ball(self, size: Vector, centre: Vector, material: int, **more: Unpack[_More]) -> None:
        """An ellipsoid; small ones get fewer triangles."""
        self.add("ball" if max(size) > 0.12 else "bead", size, centre, material, **more)


@dataclass
class Surface:
    """A level spot that can carry small things: centre of the spot in `frame`, extent along its x and y."""

    frame: Frame
    width: float
    depth: float


@dataclass
class Seat:
    """Where a person may sit: origin on the floor below the hips, y the way they face; hips at `height`."""

    frame: Frame
    height: float


@dataclass
class Builder:
    """Collects things and materials, and remembers where people may sit and clutter may stand."""

    classes: tuple[str, ...]
    pieces: list[Piece] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    seats: list[Seat] = field(default_factory=list)
    surfaces: list[Surface] = field(default_factory=list)
    instances: int = 0

    def thing(self, class_name: str, frame: Frame) -> Thing:
        """Begin a new instance of a class, placed at `frame`."""
        self.instances += 1
        return Thing(self, self.classes.index(class_name), self.instances, frame)

    def material(self, colour: np.ndarray, second: np.ndarray, **look: Unpack[_Look]) -> int:
        """Keep a new material; returns its number."""
        self.materials.append(Material(colour, second, **look))
        return len(self.materials) - 1


@dataclass(frozen=True)
class Soup:
    """All triangles of a scene. Per face: its piece; per piece: class, instance, body part, material,
    placement.
    """

    vertices: np.ndarray
    faces: np.ndarray
    face_piece: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    part: np.ndarray
    material: np.ndarray
    rotation: np.ndarray
    origin: np.ndarray
    bounds: np.ndarray


def bake(pieces: list[Piece]) -> Soup:
    """Place every piece's vertices in the world, shape by shape (one array operation for all boxes, and so
    on).
    """
    rotation = np.stack([p.frame.rotation for p in pieces])
    origin = np.stack([p.frame.origin for p in pieces])
    half = np.stack([p.half for p in pieces])
    length = np.array([p.length for p in pieces])
    taper = np.array([p.taper for p in pieces])
    bounds = np.empty((len(pieces), 2, 3))
    vertices, faces, face_piece, count = [], [], [], 0
    for shape in sorted({p.shape for p in pieces}):
        which = np.array([i for i, p in enumerate(pieces) if p.shape == shape])
        unit, unit_faces, top = unit_shape(shape)
        local = unit[None] * half[which, None]
        local[..., :2] *= np.where(top[None], taper[which, None], 1.0)[..., None]
        local[..., 2] += top[None] * length[which, None]
        placed = np.einsum("nij,nvj->nvi", rotation[which], local) + origin[which, None]
        bounds[which, 0], bounds[which, 1] = placed.min(axis=1), placed.max(axis=1)
        starts = count + len(unit) * np.arange(len(which))
        vertices.append(placed.reshape(-1, 3))
        faces.append((unit_faces[None] + starts[:, None, None]).reshape(-1, 3))
        face_piece.append(np.repeat(which, len(unit_faces)))
        count += placed.shape[0] * placed.shape[1]
    return Soup(
        vertices=np.concatenate(vertices).astype(np.float32),
        faces=np.concatenate(faces).astype(np.int32),
        face_piece=np.concatenate(face_piece),
        semantic=np.array([p.semantic for p in pieces], np.uint8),
        instance=np.array([p.instance for p in pieces], np.int32),
        part=np.array([p.part for p in pieces], np.uint8),
        material=np.array([p.material for p in pieces]),
        rotation=rotation,
        origin=origin,
        bounds=bounds,
    )
