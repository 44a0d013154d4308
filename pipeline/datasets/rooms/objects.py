"""Small things (class `objects`, and piles of books) and what hangs on walls: pictures, windows, doors,
lamps.
"""

from __future__ import annotations

import numpy as np

from pipeline.datasets.rooms.mesh import Builder, Frame, Surface, turn
from pipeline.datasets.rooms.palette import Palette


def vase(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """A vase, often with leaves. Origin: the middle of its foot."""
    thing, clay, size = b.thing("objects", f), p.solid(0.4), rng.uniform(0.12, 0.28)
    thing.ball((0.6 * size, 0.6 * size, 0.8 * size), (0, 0, 0.4 * size), clay)
    thing.cylinder(0.3 * size, 0.3 * size, (0, 0, 0.85 * size), clay, taper=1.3)
    if rng.uniform() < 0.6:
        leaf = p.cloth()
        for _ in range(5):
            tip = np.append(rng.uniform(-0.4, 0.4, 2), rng.uniform(1.2, 1.8)) * size
            thing.ball((0.35 * size,) * 3, tip, leaf)


def box(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """A box, plain or printed. Origin: the middle of its foot."""
    size = rng.uniform((0.12, 0.1, 0.06), (0.34, 0.24, 0.26))
    b.thing("objects", f).box(size, (0, 0, size[2] / 2), p.cloth() if rng.uniform() < 0.5 else p.print())


def bottle(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """A bottle. Origin: the middle of its foot."""
    thing, glass, size = b.thing("objects", f), p.solid(0.5), rng.uniform(0.2, 0.32)
    thing.cylinder(0.08, 0.65 * size, (0, 0, 0.325 * size), glass)
    thing.cylinder(0.07, 0.35 * size, (0, 0, 0.8 * size), glass, taper=0.4)


def bowl(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """A bowl of fruit. Origin: the middle of its foot."""
    thing, clay, fruit = b.thing("objects", f), p.solid(0.3), p.solid(0.2)
    thing.cylinder(0.18, 0.08, (0, 0, 0.04), clay, taper=1.5)
    for angle in rng.uniform(0, 2 * np.pi, 4):
        thing.ball((0.09,) * 3, (0.06 * np.cos(angle), 0.06 * np.sin(angle), 0.1), fruit)


def table_lamp(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """A lamp with a glowing shade. Origin: the middle of its foot."""
    thing, size = b.thing("objects", f), rng.uniform(0.3, 0.5)
    thing.cylinder(0.14, 0.6 * size, (0, 0, 0.3 * size), p.solid(0.4), taper=0.3)
    thing.cylinder(0.6 * size, 0.45 * size, (0, 0, 0.78 * size), p.lamp(rng.uniform(0.2, 1.2)), taper=0.65)


def book_pile(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """Two to six books, one instance. Origin: the middle of the pile's foot."""
    thing, z = b.thing("books", f), 0.0
    for _ in range(rng.integers(2, 7)):
        size = rng.uniform((0.2, 0.14, 0.02), (0.32, 0.24, 0.06))
        cover = p.print() if rng.uniform() < 0.3 else p.solid(0.1)
        thing.box(
            size,
            (*rng.uniform(-0.02, 0.02, 2), z + size[2] / 2),
            cover,
            rotation=turn(rng.uniform(-0.4, 0.4)),
        )
        z += size[2]


_SMALL = (vase, box, bottle, bowl, table_lamp, book_pile, book_pile, book_pile)


def clutter(b: Builder, p: Palette, rng: np.random.Generator, surface: Surface) -> None:
    """Put small things side by side on a surface, in slots of 0.4 m, some of them empty."""
    slots = max(1, int(surface.width / 0.4))
    for i in range(slots):
        if rng.uniform() < 0.55:
            x = (i + 0.5) / slots * surface.width - surface.width / 2
            y = rng.uniform(-0.5, 0.5) * max(0.0, surface.depth - 0.3)
            spot = surface.frame.at((x, y, 0), turn(rng.uniform(-0.5, 0.5)))
            _SMALL[rng.integers(len(_SMALL))](b, p, rng, spot)


def floor_lamp(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, glow: float) -> np.ndarray:
    """Returns the light's position: just above the shade, which stays open at the top."""
    thing, metal, height = b.thing("objects", f), p.solid(0.5), rng.uniform(1.35, 1.7)
    thing.cylinder(0.3, 0.04, (0, 0, 0.02), metal)
    thing.cylinder(0.03, height, (0, 0, height / 2), metal)
    thing.cylinder(0.4, 0.3, (0, 0, height), p.lamp(glow), taper=0.6)
    return f.at((0, 0, height + 0.22)).origin


def pendant(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, glow: float) -> np.ndarray:
    """A lamp below the ceiling point `f`; returns the light's position below the shade."""
    thing, drop, size = b.thing("objects", f), rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.5)
    thing.cylinder(0.015, drop, (0, 0, -drop / 2), p.solid())
    if rng.uniform() < 0.5:
        thing.ball((size, size, 0.8 * size), (0, 0, -drop), p.lamp(glow))
    else:
        thing.cylinder(size, 0.6 * size, (0, 0, -drop), p.lamp(glow), taper=0.4)
    return f.at((0, 0, -drop - 0.45 * size)).origin


def plant(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """A potted plant for the floor. Origin: the middle of its foot."""
    thing, leaf, height = b.thing("objects", f), p.cloth(), rng.uniform(0.8, 1.5)
    thing.cylinder(0.26, 0.3, (0, 0, 0.15), p.solid(), taper=1.25)
    thing.cylinder(0.04, height - 0.3, (0, 0, height / 2), p.wood())
    for _ in range(9):
        centre = np.append(rng.normal(0, 0.13, 2), height - rng.uniform(0, 0.45))
        thing.ball(rng.uniform(0.18, 0.34, 3) * (1, 1, 0.6), centre, leaf)


def bin_or_ball(b: Builder, p: Palette, rng: np.random.Generator, f: Frame) -> None:
    """Something low that lies about: a bin, a ball, a bag or a carton."""
    thing, kind = b.thing("objects", f), rng.integers(3)
    if kind == 0:
        thing.cylinder(0.24, 0.32, (0, 0, 0.16), p.solid(), taper=1.25)
    elif kind == 1:
        thing.ball((0.3,) * 3, (0, 0, 0.15), p.cloth())
    else:
        size = rng.uniform((0.28, 0.22, 0.2), (0.45, 0.4, 0.42))
        thing.add("cushion" if rng.uniform() < 0.5 else "box", size, (0, 0, size[2] / 2), p.cloth())


def picture(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, height: float) -> None:
    """Origin: the middle of the bottom edge, on the wall."""
    thing, rim = b.thing("picture", f), rng.uniform(0.02, 0.06)
    thing.box((width, 0.03, height), (0, 0.015, height / 2), p.wood())
    thing.box((width - 2 * rim, 0.01, height - 2 * rim), (0, 0.031, height / 2), p.print())


def window(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, height: float, day: float) -> None:
    """Pane, frame and, often, curtains; all are class `window`. Origin: the middle of the bottom edge."""
    thing, frame = b.thing("window", f), p.solid(0.1)
    thing.box((width, 0.02, height), (0, 0.0, height / 2), p.pane(day))
    bars = rng.integers(1, 4)
    for i in range(bars + 1):
        thing.box((0.05, 0.05, height), ((i / bars - 0.5) * (width - 0.05), 0.02, height / 2), frame)
    for z in (0.025, height - 0.025) if rng.uniform() < 0.6 else (0.025, height / 2, height - 0.025):
        thing.box((width, 0.05, 0.05), (0, 0.02, z), frame)
    thing.box((width + 0.1, 0.14, 0.03), (0, 0.06, -0.015), frame)
    if rng.uniform() < 0.6:
        cloth, fall = p.cloth(), rng.choice([0.15, 0.7])
        for side in (-1, 1):
            folds = rng.integers(2, 6)
            for i in range(folds):
                x = side * (width / 2 + 0.12 - 0.09 * i)
                size = (0.11, 0.11, height + fall)
                thing.add("cylinder", size, (x, 0.11, (height + 0.1 - fall) / 2 + 0.05), cloth)
        thing.cylinder(0.03, width + 0.5, (0, 0.11, height + 0.14), frame, rotation=_ALONG_X)


_ALONG_X = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


def door(b: Builder, p: Palette, rng: np.random.Generator, f: Frame, width: float, height: float) -> None:
    """Class `wall`, as in the 13-class grouping of NYU."""
    thing, wood = b.thing("wall", f), p.wood()
    thing.box((width - 0.12, 0.03, height - 0.06), (0, 0.015, (height - 0.06) / 2), wood)
    rim = p.wood()
    for side in (-1, 1):
        thing.box((0.07, 0.06, height), (side * (width - 0.07) / 2, 0.03, height / 2), rim)
    thing.box((width, 0.06, 0.07), (0, 0.03, height - 0.035), rim)
    for z in (0.3, 0.7):
        thing.box((width - 0.36, 0.02, 0.32 * height), (0, 0.03, z * height - 0.03), wood)
    thing.ball((0.06, 0.08, 0.06), (0.5 * width - 0.16, 0.07, 1.0), p.solid(0.5))
