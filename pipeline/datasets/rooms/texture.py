"""Procedural textures: each pattern maps surface coordinates in metres to a blend of a material's two
colours.
"""

from __future__ import annotations

import numpy as np


def _hash(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integer lattice -> uniform float32 in [0, 1): a multiply-xorshift hash of 32 bits."""
    h = x.astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1)
    h ^= y.astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA77)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(15)
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Value noise of lattice spacing 1, in [0, 1] (Perlin's smoothstep between hashed corners)."""
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    low = _hash(x0, y0) * (1 - fx) + _hash(x0 + 1, y0) * fx
    high = _hash(x0, y0 + 1) * (1 - fx) + _hash(x0 + 1, y0 + 1) * fx
    return low * (1 - fy) + high * fy


def _plain(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 * noise(u, v) + 0.25 * noise(4 * u, 4 * v)


def _mottle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.clip(1.8 * (0.6 * noise(u, v) + 0.4 * noise(3 * u + 7, 3 * v)) - 0.4, 0, 1)


def _wood(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.6 * noise(u, 0.08 * v) + 0.4 * noise(4 * u, 0.2 * v)


def _planks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(u)
    board = np.floor(0.15 * v + _hash(row, row * 0 + 3))
    seam = np.minimum(u - row, 1 - (u - row)) < 0.03
    return np.where(seam, 1.0, 0.7 * _hash(row, board) + 0.3 * noise(6 * u, 0.5 * v))


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 2 * np.sin(2 * np.pi * u), 0, 1) + 0 * v


def _checker(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.floor(u) + np.floor(v)) % 2


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    du, dv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return (du * du + dv * dv < 0.07).astype(np.float32)


def _tiles(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    grout = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) < 0.025
    return np.where(grout, 1.0, 0.4 * _hash(np.floor(u), np.floor(v)) + 0.2 * noise(3 * u, 3 * v))


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(2 * v)
    return _tiles(u + 0.5 * (row % 2), 2 * v)


def _picture(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    shapes = np.floor(4 * noise(1.3 * u, 1.3 * v)) / 3
    return np.clip(shapes + 0.5 * (noise(6 * u, 6 * v) - 0.5), 0, 1)


PATTERNS = {
    "plain": _plain,
    "mottle": _mottle,
    "wood": _wood,
    "planks": _planks,
    "stripes": _stripes,
    "checker": _checker,
    "dots": _dots,
    "tiles": _tiles,
    "bricks": _bricks,
    "picture": _picture,
}


def surface_coordinates(point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Box mapping: (N, 3) local points -> (N, 2), the two axes across the normal's dominant one."""
    axis = np.abs(normal).argmax(axis=1)
    first, second = np.array([1, 0, 0])[axis], np.array([2, 2, 1])[axis]
    rows = np.arange(len(point))
    return np.stack([point[rows, first], point[rows, second]], axis=1)


def blend(pattern: str, uv: np.ndarray, period: np.ndarray, phase: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Share (N,) of the second colour. Detail finer than two pixels (`footprint`, metres) fades to its
    mean.
    """
    scaled = uv / period[:, None] + phase[:, None]
    share = PATTERNS[pattern](scaled[:, 0], scaled[:, 1])
    sharpness = np.clip(period / (2 * footprint) - 0.25, 0, 1)
    return 0.4 + (share - 0.4) * sharpness


def outdoors(direction: np.ndarray, sky: np.ndarray, ground: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """The view through a window, infinitely far: sky over a hedge line, by ray direction (N, 3) -> colour
    (N, 3).
    """
    azimuth = np.arctan2(direction[:, 1], direction[:, 0])
    horizon = 0.1 * noise(9 * azimuth + phase, phase) + 0.12 * noise(25 * azimuth, phase) - 0.1
    below = np.clip((horizon - direction[:, 2]) / 0.03 + 0.5, 0, 1)[:, None]
    haze = np.clip(1.3 - direction[:, 2], 0.6, 1.3)[:, None]
    leaves = 0.6 + 0.7 * noise(60 * azimuth, 60 * direction[:, 2])[:, None]
    return (1 - below) * sky * haze + below * ground * leaves * 0.6
