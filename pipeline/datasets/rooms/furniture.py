"""Furniture: functions that build one thing, or a group that belongs together, in a frame on the floor.

Every frame has x along the wall (or the width), y to the front, z up, origin on the floor in the middle of
the footprint. `Palette` gives the materials; sizes are drawn from ranges of real furniture (metres).
"""

from __future__ import annotations

import numpy as np

from pipeline.datasets.rooms.mesh import Builder, Frame, Seat, Surface, Thing, tilt, turn
from pipeline.datasets.rooms.palette import Palette


def _legs(
    thing: Thing, width: float, depth: float, height: float, thick: float, material: int, taper: float = 1.0
) -> None:
    for x in (-1, 1):
        for y in (-1, 1):
            centre = (x * (width - thick) / 2, y * (depth - thick) / 2, height / 2)
            thing.box((thick, thick, height), centre, material, taper=taper)


def sofa(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, depth: float) -> None:
    """A seat with a back, arms and pillows. Origin: the floor below its middle."""
    thing, cloth = b.thing("sofa", f), p.cloth()
    seat, back, arm = rng.uniform(0.38, 0.46), rng.uniform(0.72, 0.95), rng.uniform(0.12, 0.24)
    arm_height, places = rng.uniform(0.52, 0.68), max(1, round((width - 2 * arm) / 0.65))
    thing.box((width - 0.04, depth - 0.06, seat - 0.18), (0, 0, 0.08 + (seat - 0.18) / 2), cloth)
    thing.cushion((width, 0.26, back - 0.1), (0, -depth / 2 + 0.13, 0.1 + (back - 0.1) / 2), cloth)
    for side in (-1, 1):
        thing.cushion((arm, depth, arm_height - 0.08), (side * (width - arm) / 2, 0, 0.04 + arm_height / 2), cloth)
    span = (width - 2 * arm) / places
    cover = cloth if rng.uniform() < 0.7 else p.cloth()
    for i in range(places):
        x = -width / 2 + arm + (i + 0.5) * span
        thing.cushion((span, depth - 0.22, 0.18), (x, 0.1, seat - 0.08), cover)
        thing.cushion((span, 0.2, 0.42), (x, -depth / 2 + 0.28, seat + 0.19), cover, rotation=tilt(0.15))
        b.seats.append(Seat(f.at((x, 0.02, 0)), seat))
    for _ in range(rng.integers(0, 3)):
        side = rng.choice([-1, 1])
        pillow(
            b,
            p,
            rng,
            f.at((side * (width / 2 - arm - rng.uniform(0.2, 0.35)), -depth / 2 + 0.46, seat + 0.2)),
        )


def pillow(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """A tilted pillow of class `objects`, around the origin."""
    size = rng.uniform(0.36, 0.48)
    posture = turn(rng.uniform(-0.3, 0.3)) @ tilt(rng.uniform(0.2, 0.5))
    b.thing("objects", f).ball((size * 1.15, 0.2, size), (0, 0, 0), p.cloth(), rotation=posture)


def bed(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, depth: float) -> None:
    """The head is at the wall (-y)."""
    thing, wood, sheet = b.thing("bed", f), p.wood(), p.cloth()
    frame, top = rng.uniform(0.2, 0.32), rng.uniform(0.45, 0.58)
    head = rng.uniform(0.8, 1.25)
    thing.box((width, depth, 0.12), (0, 0, frame - 0.06), wood)
    _legs(thing, width, depth, frame - 0.1, 0.08, wood)
    thing.box((width, 0.06, head), (0, -depth / 2 + 0.03, head / 2), wood)
    thing.cushion((width - 0.04, depth - 0.1, top - frame + 0.06), (0, 0.03, (top + frame) / 2), sheet)
    fold = rng.uniform(0.55, 0.75)
    cover = p.cloth()
    thing.cushion((width + 0.1, fold * depth, 0.34), (0, (1 - fold) * depth / 2 + 0.02, top - 0.1), cover)
    count = 2 if width > 1.2 else 1
    for i in range(count):
        x = (i - (count - 1) / 2) * width / 2
        size = (0.62, 0.42, 0.18)
        b.thing("objects", f).ball(size, (x, -depth / 2 + 0.36, top + 0.07), sheet, rotation=tilt(0.25))
    side = rng.choice([-1, 1])
    b.seats.append(Seat(f.at((side * (width / 2 - 0.16), rng.uniform(-0.1, 0.5), 0), turn(-side * np.pi / 2)), top))


def chair(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float = 0.46, depth: float = 0.48) -> None:
    """A chair in one of three styles, and its seat. Origin: the floor below its middle."""
    thing, wood = b.thing("chair", f), p.wood()
    seat, back = rng.uniform(0.43, 0.48), rng.uniform(0.82, 1.02)
    cover, style = (p.cloth() if rng.uniform() < 0.5 else wood), rng.integers(3)
    thing.cushion((width, depth, 0.08), (0, 0, seat - 0.04), cover)
    lean, high = tilt(rng.uniform(0.05, 0.18)), back - seat
    hinge = f.at((0, -depth / 2 + 0.03, seat - 0.02), lean)
    rest = Thing(b, thing.semantic, thing.instance, hinge)
    if style == 0:
        rest.cushion((width, 0.07, high), (0, 0, high / 2), cover)
    else:
        for x in (-1, 1):
            rest.box((0.035, 0.035, high), (x * (width / 2 - 0.02), 0, high / 2), wood)
        for z in (0.45, 0.7, 0.95) if style == 1 else (0.85,):
            rest.box((width, 0.03, 0.07 if style == 1 else 0.2), (0, 0, z * high), wood)
    if rng.uniform() < 0.2:
        thing.cylinder(0.06, seat - 0.1, (0, 0, seat / 2), wood)
        thing.cylinder(0.5, 0.05, (0, 0, 0.03), wood, taper=0.5)
    else:
        _legs(thing, width - 0.04, depth - 0.04, seat - 0.06, 0.04, wood)
    b.seats.append(Seat(f.at((0, 0.0, 0)), seat))


def table(
    b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, depth: float, height: float | None = None
) -> None:
    """A table, round or not, whose top can carry things. height: in metres; drawn unless given."""
    thing, wood = b.thing("table", f), p.wood()
    height = rng.uniform(0.7, 0.77) if height is None else height
    thick = rng.uniform(0.025, 0.06)
    if rng.uniform() < 0.3 and abs(width - depth) < 0.35:
        size = (width, depth, thick)
        thing.add("cylinder", size, (0, 0, height - thick / 2), wood)
        thing.cylinder(0.09, height - thick, (0, 0, (height - thick) / 2), wood)
        thing.cylinder(0.5 * width, 0.05, (0, 0, 0.03), wood, taper=0.4)
        width, depth = 0.7 * width, 0.7 * depth
    else:
        thing.box((width, depth, thick), (0, 0, height - thick / 2), wood)
        leg = p.wood() if rng.uniform() < 0.4 else wood
        _legs(thing, width - 0.06, depth - 0.06, height - thick, rng.uniform(0.04, 0.08), leg)
        thing.box((width - 0.14, depth - 0.14, 0.08), (0, 0, height - thick - 0.04), leg)
    b.surfaces.append(Surface(f.at((0, 0, height)), width - 0.1, depth - 0.08))


def cabinet(
    b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, depth: float, height: float
) -> None:
    """A closed box with doors or drawers: wardrobe, dresser, night stand, sideboard."""
    thing, body = b.thing("furniture", f), p.wood()
    front, knob = (p.wood() if rng.uniform() < 0.35 else body), p.solid(0.4)
    thing.box((width, depth - 0.02, height - 0.06), (0, -0.01, 0.06 + (height - 0.06) / 2), body)
    thing.box((width - 0.06, depth - 0.08, 0.06), (0, 0, 0.03), body)
    columns = max(1, round(width / 0.5))
    rows = 1 if height > 1.4 else max(1, round(height / rng.choice([0.24, 0.5])))
    w, h = width / columns, (height - 0.1) / rows
    for i in range(columns):
        for j in range(rows):
            x, z = -width / 2 + (i + 0.5) * w, 0.08 + (j + 0.5) * h
            thing.box((w - 0.02, 0.02, h - 0.02), (x, depth / 2 - 0.01, z), front)
            thing.ball((0.03, 0.04, 0.03), (x + (0.35 * w if rows == 1 else 0), depth / 2 + 0.015, z), knob)
    if height < 1.3:
        b.surfaces.append(Surface(f.at((0, 0, height)), width - 0.06, depth - 0.06))


def bookcase(
    b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, depth: float, height: float
) -> None:
    """Open shelves, some with books, others to carry things. Origin: the floor below its middle."""
    thing, wood, side = b.thing("furniture", f), p.wood(), 0.025
    levels = max(2, round(height / 0.36))
    step = (height - side) / levels
    thing.box((width, 0.015, height), (0, -depth / 2 + 0.008, height / 2), wood)
    for x in (-1, 1):
        thing.box((side, depth, height), (x * (width - side) / 2, 0, height / 2), wood)
    for i in range(levels + 1):
        thing.box((width, depth, side), (0, 0, i * step + side / 2), wood)
    for i in range(levels):
        shelf = f.at((0, 0, i * step + side))
        if rng.uniform() < 0.78:
            book_row(b, p, rng, shelf, width - 2 * side - 0.02, depth - 0.03, step - side - 0.02)
        else:
            b.surfaces.append(Surface(shelf, width - 0.15, depth - 0.06))
    if height < 1.5:
        b.surfaces.append(Surface(f.at((0, 0, height + side)), width - 0.1, depth - 0.06))


def book_row(
    b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, depth: float, height: float
) -> None:
    """Books side by side in `width`, one instance: bound in a handful of covers, some rows shorter than the
    shelf.
    """
    thing, x = b.thing("books", f), -width / 2
    covers = [p.solid(0.1) if rng.uniform() < 0.6 else p.cloth() for _ in range(6)]
    end = width / 2 - (rng.uniform(0, 0.5) * width if rng.uniform() < 0.5 else 0)
    while x < end - 0.06:
        thick, tall = rng.uniform(0.02, 0.06), rng.uniform(0.62, 0.98) * min(height, 0.3)
        deep = rng.uniform(0.65, 0.95) * depth
        thing.box((thick, deep, tall), (x + thick / 2, -(depth - deep) / 2, tall / 2), covers[rng.integers(6)])
        x += thick + 0.002


def tv(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, on_wall: bool) -> None:
    """Origin: the middle of the bottom edge (on a wall) or the foot (on a stand); the screen looks along
    +y.
    """
    thing, shell, height = b.thing("tv", f), p.solid(0.3), 0.58 * width
    lift = 0.0 if on_wall else 0.07
    thing.box((width, 0.05, height), (0, 0.03, lift + height / 2), shell)
    thing.box((width - 0.04, 0.01, height - 0.04), (0, 0.057, lift + height / 2), p.screen())
    if not on_wall:
        thing.box((0.4 * width, 0.18, 0.015), (0, 0.02, 0.0075), shell)
        thing.box((0.08, 0.04, 0.08), (0, 0.02, 0.04), shell)
