"""Furniture that belongs together, placed in a room: each function takes a spot, or leaves the room as it
is.
"""

from __future__ import annotations

import numpy as np

from pipeline.datasets.rooms import furniture
from pipeline.datasets.rooms.layout import Layout
from pipeline.datasets.rooms.mesh import Builder, turn
from pipeline.datasets.rooms.palette import Palette


def _sofa_corner(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    width, depth = rng.choice([rng.uniform(0.85, 1.05), rng.uniform(1.5, 2.3)]), rng.uniform(0.85, 0.98)
    frame = layout.find_at_wall(width, depth, 0.9)
    if frame is None:
        return
    furniture.sofa(b, p, rng, frame, width, depth)
    low = frame.at((0, depth / 2 + 0.75, 0))
    size = (rng.uniform(0.6, 1.1), rng.uniform(0.45, 0.6))
    if rng.uniform() < 0.7 and layout.fits(low, *size, 0.03):
        layout.take(low, *size, 0.03)
        furniture.table(b, p, rng, low, *size, height=rng.uniform(0.36, 0.48))


def _bed_corner(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    width, depth = rng.choice([0.95, 1.4, 1.65]), rng.uniform(1.95, 2.1)
    frame = layout.find_at_wall(width, depth, 1.2)
    if frame is None:
        return
    furniture.bed(b, p, rng, frame, width, depth)
    for side in (-1, 1):
        stand = frame.at((side * (width / 2 + 0.3), -depth / 2 + 0.22, 0))
        if rng.uniform() < 0.6 and layout.fits(stand, 0.45, 0.4):
            layout.take(stand, 0.45, 0.4)
            furniture.cabinet(b, p, rng, stand, 0.44, 0.4, rng.uniform(0.42, 0.58))


def _dining(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    width, depth = rng.uniform(0.8, 1.6), rng.uniform(0.75, 0.95)
    frame = layout.find_free(width + 0.9, depth + 0.9, 0.0)
    if frame is None:
        return
    furniture.table(b, p, rng, frame, width, depth)
    for x, y, yaw in ((0, -1, 0), (0, 1, np.pi), (-1, 0, -np.pi / 2), (1, 0, np.pi / 2)):
        if rng.uniform() < 0.75:
            spot = (x * (width / 2 + rng.uniform(0.15, 0.35)), y * (depth / 2 + rng.uniform(0.15, 0.35)), 0)
            furniture.chair(b, p, rng, frame.at(spot, turn(yaw + rng.uniform(-0.25, 0.25))))


def _desk(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    width, depth = rng.uniform(1.0, 1.5), rng.uniform(0.55, 0.75)
    frame = layout.find_at_wall(width, depth, 0.9)
    if frame is None:
        return
    furniture.table(b, p, rng, frame, width, depth)
    spot = frame.at((rng.uniform(-0.2, 0.2), depth / 2 + 0.25, 0), turn(np.pi + rng.uniform(-0.5, 0.5)))
    layout.take(spot, 0.5, 0.5)
    furniture.chair(b, p, rng, spot)


def _loose_chair(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    frame = layout.find_free(0.5, 0.5)
    if frame is not None:
        furniture.chair(b, p, rng, frame)


def _bookcase(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    width, depth, height = rng.uniform(0.7, 1.5), rng.uniform(0.26, 0.36), rng.uniform(0.8, 2.1)
    frame = layout.find_at_wall(width, depth, height + 0.2)
    if frame is not None:
        furniture.bookcase(b, p, rng, frame, width, depth, height)


def _cabinet(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    width, depth = rng.uniform(0.6, 1.6), rng.uniform(0.4, 0.6)
    height = rng.uniform(0.7, 1.1) if rng.uniform() < 0.5 else rng.uniform(1.7, 2.1)
    frame = layout.find_at_wall(width, depth, height + 0.3)
    if frame is not None:
        furniture.cabinet(b, p, rng, frame, width, depth, height)


def _television(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    width = rng.uniform(0.75, 1.35)
    if rng.uniform() < 0.4:
        frame = layout.find_on_wall(width, rng.uniform(0.9, 1.1), 0.6 * width)
        if frame is not None:
            furniture.tv(b, p, rng, frame, width, on_wall=True)
        return
    stand = (width + rng.uniform(0.05, 0.5), rng.uniform(0.38, 0.46))
    frame = layout.find_at_wall(*stand, 1.4)
    if frame is not None:
        height = rng.uniform(0.42, 0.65)
        furniture.cabinet(b, p, rng, frame, *stand, height)
        b.surfaces.pop()
        furniture.tv(b, p, rng, frame.at((0, -0.04, height)), width, on_wall=False)


# What may stand in a room, each with the share of rooms that ask for it; it is left out where it doesn't fit.
GROUPS = (
    (_sofa_corner, 0.85),
    (_bed_corner, 0.6),
    (_dining, 0.5),
    (_desk, 0.5),
    (_bookcase, 0.85),
    (_bookcase, 0.4),
    (_television, 0.9),
    (_cabinet, 0.7),
    (_loose_chair, 0.6),
    (_loose_chair, 0.3),
)
