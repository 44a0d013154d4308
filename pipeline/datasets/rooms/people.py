"""Jointed mannequins. Body part indices follow PASCAL-Part grouped to six parts: the neck is torso, hands
are lower arms, feet are lower legs.
"""

from __future__ import annotations

import numpy as np

from pipeline.datasets.rooms.mesh import Builder, Frame, Seat, Thing, aim, tilt, turn
from pipeline.datasets.rooms.palette import Palette

PARTS = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")
HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(1, 7)

# Segment lengths as shares of body height (after Drillis and Contini 1966, rounded).
_SHIN, _THIGH, _TRUNK, _UPPER_ARM, _FOREARM, _ANKLE = 0.245, 0.245, 0.285, 0.185, 0.145, 0.04

# Radians (swing low, high, elbow low, high): swing is the upper arm's angle forward from hanging.
_ARM_POSES = ((-0.25, 0.3, 0.05, 0.5), (0.1, 0.6, 0.9, 1.9), (0.9, 1.7, 0.1, 1.0), (2.2, 2.9, 0.1, 0.8))


class _Outfit:
    def __init__(self, palette: Palette, rng: np.random.Generator):
        self.skin, self.hair, self.shirt = palette.skin(), palette.hair(), palette.cloth()
        self.trousers, self.shoes = palette.cloth(), palette.solid()
        self.sleeve = self.shirt if rng.uniform() < 0.55 else self.skin
        self.leg = self.trousers if rng.uniform() < 0.75 else self.skin
        self.long_hair = rng.uniform() < 0.45


def _direction(swing: float, spread: float) -> np.ndarray:
    """Limb direction in the body frame: straight down, swung forward (+y), then spread sideways (+x)."""
    return np.array([np.sin(spread), np.sin(swing) * np.cos(spread), -np.cos(swing) * np.cos(spread)])


def _limb(
    thing: Thing,
    start: np.ndarray,
    direction: np.ndarray,
    length: float,
    radius: float,
    taper: float,
    material: int,
    part: int,
) -> np.ndarray:
    """A tapered capsule from `start` along `direction`; returns its far end."""
    size = (2 * radius,) * 3
    thing.add("capsule", size, start, material, rotation=aim(direction), length=length, taper=taper, part=part)
    return np.asarray(start) + length * direction


def _arm(
    thing: Thing,
    rng: np.random.Generator,
    height: float,
    shoulder: np.ndarray,
    side: int,
    outfit: _Outfit,
    resting: bool,
) -> None:
    low, high, bend_low, bend_high = _ARM_POSES[1 if resting else rng.choice(4, p=[0.5, 0.25, 0.15, 0.1])]
    swing, bend, spread = rng.uniform(low, high), rng.uniform(bend_low, bend_high), rng.uniform(0.08, 0.45)
    upper, lower = (
        _direction(swing, side * spread),
        _direction(swing + bend, side * spread * rng.uniform(-0.8, 1.2)),
    )
    elbow = _limb(thing, shoulder, upper, _UPPER_ARM * height, 0.031 * height, 0.85, outfit.shirt, UPPER_ARM)
    wrist = _limb(thing, elbow, lower, _FOREARM * height, 0.026 * height, 0.75, outfit.sleeve, LOWER_ARM)
    hand = np.array([0.035, 0.05, 0.1]) * height
    thing.ball(hand, wrist + 0.035 * height * lower, outfit.skin, rotation=aim(lower), part=LOWER_ARM)


def _leg(thing: Thing, height: float, hip: np.ndarray, thigh: np.ndarray, shin: np.ndarray, outfit: _Outfit) -> None:
    knee = _limb(thing, hip, thigh, _THIGH * height, 0.05 * height, 0.75, outfit.trousers, UPPER_LEG)
    ankle = _limb(thing, knee, shin, _SHIN * height, 0.036 * height, 0.7, outfit.leg, LOWER_LEG)
    foot = np.array([0.055, 0.15, 0.045]) * height
    centre = ankle + np.array([0, 0.045, -0.012]) * height
    thing.cushion(foot, centre, outfit.shoes, part=LOWER_LEG)


def _trunk(
    thing: Thing, rng: np.random.Generator, height: float, hips: np.ndarray, lean: float, outfit: _Outfit
) -> tuple[np.ndarray, np.ndarray]:
    """Pelvis, chest, neck, head and hair; returns the right and the left shoulder."""
    posture = tilt(-lean)
    spine = posture @ np.array([0, 0, 1.0])
    chest = hips + 0.6 * _TRUNK * height * spine
    thing.cushion(np.array([0.185, 0.125, 0.13]) * height, hips, outfit.trousers, rotation=posture, part=TORSO)
    thing.add(
        "cushion",
        np.array([0.2, 0.135, 0.33]) * height,
        chest,
        outfit.shirt,
        rotation=posture,
        taper=1.08,
        part=TORSO,
    )
    neck = hips + _TRUNK * height * spine
    _limb(thing, neck, spine, 0.06 * height, 0.03 * height, 0.9, outfit.skin, TORSO)
    face = posture @ turn(rng.uniform(-0.7, 0.7)) @ tilt(rng.uniform(-0.3, 0.15))
    skull = neck + 0.12 * height * spine
    thing.ball(np.array([0.09, 0.112, 0.14]) * height, skull, outfit.skin, rotation=face, part=HEAD)
    nose = skull + face @ np.array([0, 0.056, -0.008]) * height
    thing.ball(np.array([0.018, 0.026, 0.03]) * height, nose, outfit.skin, rotation=face, part=HEAD)
    drop, tall = (-0.025, 0.19) if outfit.long_hair else (0.018, 0.115)
    mop = skull + face @ np.array([0, -0.017, drop]) * height
    thing.ball(np.array([0.102, 0.105, tall]) * height, mop, outfit.hair, rotation=face, part=HEAD)
    shoulder = hips + 0.93 * _TRUNK * height * spine
    across = 0.115 * height
    return shoulder + np.array([across, 0, 0]), shoulder - np.array([across, 0, 0])


def stand(builder: Builder, palette: Palette, rng: np.random.Generator, place: Frame) -> None:
    """A person on their feet: `place` is the floor point below the hips, y the way they face."""
    height = rng.uniform(1.5, 1.93) if rng.uniform() < 0.85 else rng.uniform(1.1, 1.45)
    thing, outfit = builder.thing("person", place), _Outfit(palette, rng)
    stride = rng.uniform(-0.3, 0.3) if rng.uniform() < 0.6 else 0.0
    swings, bends = (stride, -stride), rng.uniform(0.0, 0.35, 2)
    thighs = [_direction(s, side * rng.uniform(0.01, 0.12)) for s, side in zip(swings, (1, -1), strict=True)]
    shins = [_direction(s - b, 0.0) for s, b in zip(swings, bends, strict=True)]
    drops = [-(_THIGH * a[2] + _SHIN * b[2]) for a, b in zip(thighs, shins, strict=True)]
    hips = np.array([0, 0, (max(drops) + _ANKLE) * height])
    for thigh, shin, side in zip(thighs, shins, (1, -1), strict=True):
        _leg(thing, height, hips + np.array([side * 0.05 * height, 0, 0]), thigh, shin, outfit)
    shoulders = _trunk(thing, rng, height, hips + [0, 0, 0.04 * height], rng.uniform(-0.05, 0.2), outfit)
    for shoulder, side in zip(shoulders, (1, -1), strict=True):
        _arm(thing, rng, height, shoulder, side, outfit, resting=False)


def sit(builder: Builder, palette: Palette, rng: np.random.Generator, seat: Seat) -> None:
    """A person on a seat: thighs forward, shins down to the floor where they reach it."""
    height = rng.uniform(1.5, 1.9)
    thing, outfit = builder.thing("person", seat.frame), _Outfit(palette, rng)
    hips = np.array([0, 0, seat.height + 0.055 * height])
    rise = ((_SHIN + _ANKLE) * height - hips[2]) / (_THIGH * height)
    swing = np.pi / 2 + np.arcsin(np.clip(rise, -0.35, 0.5))
    for side in (1, -1):
        spread, kick = side * rng.uniform(0.03, 0.3), rng.uniform(-0.15, 0.4)
        thigh, shin = _direction(swing, spread), _direction(kick, 0.0)
        _leg(thing, height, hips + np.array([side * 0.05 * height, 0, 0]), thigh, shin, outfit)
    shoulders = _trunk(thing, rng, height, hips + [0, 0, 0.02 * height], rng.uniform(-0.3, 0.25), outfit)
    for shoulder, side in zip(shoulders, (1, -1), strict=True):
        _arm(thing, rng, height, shoulder, side, outfit, resting=rng.uniform() < 0.6)
