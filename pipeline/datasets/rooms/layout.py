"""The shell of a room and where things stand in it: walls, floor and ceiling, free spots on the floor and
the walls.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.datasets.rooms.mesh import Builder, Frame, turn
from pipeline.datasets.rooms.palette import Palette

_THICK = 0.2


Rectangle = tuple[float, float, float, float]  # low and high: x0, y0, x1, y1


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass
class Wall:
    """Frame: origin at the foot of the wall's middle, x along the wall, y into the room. `taken`: (x0, z0,
    x1, z1).
    """

    frame: Frame
    width: float
    taken: list[Rectangle] = field(default_factory=list)


class Layout:
    """An empty room width x depth x height (x, y, z) with a record of what is taken.

    Every `find_*` tries a fixed number of random spots and returns None where nothing fits.
    """

    def __init__(self, rng: np.random.Generator, width: float, depth: float, height: float):
        self.rng, self.width, self.depth, self.height = rng, width, depth, height
        self.floor: list[Rectangle] = []
        middles = ((width / 2, 0), (width, depth / 2), (width / 2, depth), (0, depth / 2))
        self.walls = [
            Wall(Frame(turn(i * np.pi / 2), np.array([*xy, 0.0])), (width, depth)[i % 2])
            for i, xy in enumerate(middles)
        ]

    def _footprint(self, frame: Frame, width: float, depth: float, margin: float) -> Rectangle:
        corners = np.array([[x, y, 0] for x in (-width / 2, width / 2) for y in (-depth / 2, depth / 2)])
        placed = corners @ frame.rotation.T + frame.origin
        low, high = placed.min(axis=0) - margin, placed.max(axis=0) + margin
        return low[0], low[1], high[0], high[1]

    def fits(self, frame: Frame, width: float, depth: float, margin: float = 0.0) -> bool:
        """Whether a footprint lies inside the room and off everything that stands there."""
        x0, y0, x1, y1 = rect = self._footprint(frame, width, depth, margin)
        inside = x0 >= -1e-6 and y0 >= -1e-6 and x1 <= self.width + 1e-6 and y1 <= self.depth + 1e-6
        return inside and not any(_overlap(rect, other) for other in self.floor)

    def take(self, frame: Frame, width: float, depth: float, margin: float = 0.0) -> None:
        """Record a footprint as taken."""
        self.floor.append(self._footprint(frame, width, depth, margin))

    def find_at_wall(self, width: float, depth: float, height: float, tries: int = 12) -> Frame | None:
        """A spot with the back to a wall; takes it on the floor and on the wall."""
        for _ in range(tries):
            wall = self.walls[self.rng.integers(4)]
            spare = (wall.width - width) / 2 - 0.02
            if spare < 0:
                continue
            x = self.rng.uniform(-spare, spare)
            span = (x - width / 2, 0.0, x + width / 2, height)
            frame = wall.frame.at((x, depth / 2 + 0.02, 0))
            if self.fits(frame, width, depth) and not any(_overlap(span, t) for t in wall.taken):
                self.take(frame, width, depth, 0.03)
                wall.taken.append(span)
                return frame
        return None

    def find_on_wall(self, width: float, low: float, height: float, tries: int = 12) -> Frame | None:
        """A rectangle of wall from height `low`; the frame's origin is the middle of its bottom edge."""
        for _ in range(tries):
            wall = self.walls[self.rng.integers(4)]
            spare = (wall.width - width) / 2 - 0.1
            if spare < 0:
                continue
            x = self.rng.uniform(-spare, spare)
            span = (x - width / 2 - 0.05, low, x + width / 2 + 0.05, low + height)
            if not any(_overlap(span, t) for t in wall.taken):
                wall.taken.append(span)
                return wall.frame.at((x, 0, low))
        return None

    def find_free(self, width: float, depth: float, margin: float = 0.05, tries: int = 20) -> Frame | None:
        """A spot anywhere on the floor, turned by any angle."""
        for _ in range(tries):
            spot = np.array([self.rng.uniform(0.2, self.width - 0.2), self.rng.uniform(0.2, self.depth - 0.2), 0])
            frame = Frame(turn(self.rng.uniform(-np.pi, np.pi)), spot)
            if self.fits(frame, width, depth, margin):
                self.take(frame, width, depth)
                return frame
        return None


def shell(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    """Floor, ceiling, four walls (one may be an accent), skirting, sometimes a rug and ceiling beams.

    The slabs overlap at the corners, so no ray gets out.
    """
    w, d, h = layout.width, layout.depth, layout.height
    world = Frame(np.eye(3), np.zeros(3))
    wide, deep = w + 2 * _THICK, d + 2 * _THICK
    floor, ceiling, wall = b.thing("floor", world), b.thing("ceiling", world), b.thing("wall", world)
    floor.box((wide, deep, _THICK), (w / 2, d / 2, -_THICK / 2), p.floor())
    pale = p.paint(pale=True)
    ceiling.box((wide, deep, _THICK), (w / 2, d / 2, h + _THICK / 2), pale)
    if rng.uniform() < 0.2:
        beam = p.wood()
        for x in np.arange(0.5, w, 0.9):
            ceiling.box((0.12, d, 0.14), (x, d / 2, h - 0.07), beam)
    paint, trim = p.paint(), p.solid(0.1)
    for side in layout.walls:
        wall.frame = side.frame
        colour = p.paint() if rng.uniform() < 0.2 else paint
        wall.box((side.width + 2 * _THICK, _THICK, h + 2 * _THICK), (0, -_THICK / 2, h / 2), colour)
        wall.box((side.width, 0.03, 0.09), (0, 0, 0.045), trim)
    if rng.uniform() < 0.5:
        size = rng.uniform((1.2, 1.0, 0.015), (2.4, 1.8, 0.02))
        spot = world.at((w * rng.uniform(0.35, 0.65), d * rng.uniform(0.35, 0.65), 0.01), turn(rng.uniform(-0.2, 0.2)))
        b.thing("floor", spot).box(size, (0, 0, 0), p.cloth())
