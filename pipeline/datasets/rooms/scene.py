"""One furnished room with people and lights, drawn from a random generator and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.datasets.rooms import objects, people
from pipeline.datasets.rooms.groups import GROUPS
from pipeline.datasets.rooms.layout import Layout, shell
from pipeline.datasets.rooms.mesh import Builder, Frame, Looks, Soup, bake
from pipeline.datasets.rooms.palette import Palette

CLASSES = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
    "person",
)
PERSON_SHARE = 0.73


@dataclass(frozen=True)
class Light:
    """A light's middle, the half axes it extends over (3, 3 rows), its colour and, for windows, the way it
    faces.
    """

    position: np.ndarray
    spread: np.ndarray
    colour: np.ndarray
    facing: np.ndarray | None = None


@dataclass(frozen=True)
class Room:
    """Everything in front of the camera except where the camera stands. `peopled`: somebody was placed in
    it.
    """

    soup: Soup
    looks: Looks
    lights: list[Light]
    ambient: np.ndarray
    size: tuple[float, float, float]
    peopled: bool


def _openings(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout, day: float) -> list[Light]:
    """A door and one or two windows; returns the daylight that the windows let in."""
    width, height = rng.uniform(0.82, 0.95), 2.05
    frame = layout.find_on_wall(width, 0.0, height)
    if frame is not None:
        objects.door(b, p, rng, frame, width, height)
        layout.take(frame.at((0, 0.4, 0)), width, 0.8)
    lights = []
    for _ in range(rng.choice([1, 2, 2, 3])):
        width, low = rng.uniform(0.8, 1.9), rng.uniform(0.75, 1.0)
        height = rng.uniform(1.0, layout.height - low - 0.35)
        frame = layout.find_on_wall(width + 0.3, low, height)
        if frame is None:
            continue
        objects.window(b, p, rng, frame, width, height, day)
        if day > 0.1:
            across = np.zeros((3, 3))
            across[0], across[1] = frame.rotation[:, 0] * width / 2, frame.rotation[:, 2] * height / 2
            colour = day * width * height * np.array([0.85, 0.95, 1.1])
            lights.append(Light(frame.at((0, 0.25, height / 2)).origin, across, colour, frame.rotation[:, 1]))
    return lights


def _lamps(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout, day: float) -> list[Light]:
    """A pendant, and sometimes a floor lamp; what is not switched on still hangs there."""
    lights = []
    warm = np.array([1.1, 0.95, rng.uniform(0.6, 0.9)])
    on = day < 0.25 or rng.uniform() < 0.6
    spot = (layout.width * rng.uniform(0.4, 0.6), layout.depth * rng.uniform(0.4, 0.6), layout.height)
    point = objects.pendant(b, p, rng, Frame(np.eye(3), np.array(spot)), 1.5 if on else 0.0)
    if on:
        lights.append(Light(point, 0.08 * np.eye(3), rng.uniform(0.8, 1.6) * warm))
    frame = layout.find_free(0.4, 0.4) if rng.uniform() < 0.4 else None
    if frame is not None:
        lit = rng.uniform() < 0.6
        point = objects.floor_lamp(b, p, rng, frame, 1.2 if lit else 0.0)
        if lit:
            lights.append(Light(point, 0.06 * np.eye(3), rng.uniform(0.3, 0.7) * warm))
    return lights


def _hang_pictures(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    for _ in range(rng.integers(2, 6)):
        width, height = rng.uniform(0.3, 1.1), rng.uniform(0.35, 0.8)
        frame = layout.find_on_wall(width, rng.uniform(1.15, 1.5), height)
        if frame is not None:
            objects.picture(b, p, rng, frame, width, height)


def _people(b: Builder, p: Palette, rng: np.random.Generator, layout: Layout) -> None:
    """One to three people, sitting if they find a seat, else standing."""
    seats = list(b.seats)
    for _ in range(rng.choice([1, 2, 2, 3])):
        if seats and rng.uniform() < 0.45:
            people.sit(b, p, rng, seats.pop(rng.integers(len(seats))))
            continue
        frame = layout.find_free(0.5, 0.4)
        if frame is not None:
            people.stand(b, p, rng, frame)


def build_room(rng: np.random.Generator) -> Room:
    """Draw a room: shell, openings, furniture groups, lamps, people, pictures, clutter."""
    b = Builder(CLASSES)
    p = Palette(b, rng)
    layout = Layout(rng, rng.uniform(3.2, 6.8), rng.uniform(3.2, 6.8), rng.uniform(2.35, 2.9))
    day = rng.uniform(0.4, 1.5) if rng.uniform() < 0.75 else 0.02
    shell(b, p, rng, layout)
    lights = _openings(b, p, rng, layout, day)
    for i in rng.permutation(len(GROUPS)):
        group, share = GROUPS[i]
        if rng.uniform() < share:
            group(b, p, rng, layout)
    lights += _lamps(b, p, rng, layout, day)
    for make in (objects.plant, objects.bin_or_ball, objects.bin_or_ball):
        frame = layout.find_free(0.4, 0.4) if rng.uniform() < 0.5 else None
        if frame is not None:
            make(b, p, rng, frame)
    peopled = bool(rng.uniform() < PERSON_SHARE)
    if peopled:
        _people(b, p, rng, layout)
    _hang_pictures(b, p, rng, layout)
    for surface in b.surfaces:
        objects.clutter(b, p, rng, surface)
    ambient = rng.uniform(0.12, 0.3) * (0.5 + 0.5 * p.colour((0.0, 0.3), (0.8, 1.0)))
    return Room(
        bake(b.pieces),
        Looks.of(b.materials),
        lights,
        ambient,
        (layout.width, layout.depth, layout.height),
        peopled,
    )
