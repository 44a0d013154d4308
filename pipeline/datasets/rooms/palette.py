"""Colours and materials of one room, drawn so that no class owns a colour: every class picks from the same
palette.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from pipeline.datasets.rooms.mesh import Builder

_WOOD = (("wood", 0.05), ("wood", 0.09), ("plain", 0.3))
_CLOTH = (
    ("plain", 0.2),
    ("stripes", 0.08),
    ("stripes", 0.16),
    ("checker", 0.14),
    ("dots", 0.14),
    ("mottle", 0.25),
    ("mottle", 0.08),
)
_PAINT = (("plain", 0.6), ("plain", 0.6), ("mottle", 0.5), ("stripes", 0.3), ("dots", 0.3), ("bricks", 0.22))
_FLOOR = (
    ("planks", 0.14),
    ("planks", 0.2),
    ("tiles", 0.4),
    ("tiles", 0.6),
    ("mottle", 0.15),
    ("checker", 0.5),
)


class Palette:
    """A few hues per room; things mix from them. `rng` is the scene's generator, drawn from in building
    order.
    """

    def __init__(self, builder: Builder, rng: np.random.Generator):
        self.builder, self.rng = builder, rng
        base = rng.uniform()
        self.hues = (base + rng.uniform(-0.06, 0.06, 6) + np.array([0, 0, 0.08, 0.5, 0.33, 0.62])) % 1.0

    def colour(
        self, saturation: tuple[float, float] = (0.05, 0.65), value: tuple[float, float] = (0.12, 0.95)
    ) -> np.ndarray:
        """Linear RGB (3,) near one of the room's hues; a third of the draws are browns of wood."""
        hue = self.rng.uniform(0.03, 0.12) if self.rng.uniform() < 0.33 else self.hues[self.rng.integers(6)]
        rgb = colorsys.hsv_to_rgb(
            (hue + self.rng.normal(0, 0.02)) % 1.0, self.rng.uniform(*saturation), self.rng.uniform(*value)
        )
        return np.array(rgb) ** 2.2

    def _make(
        self,
        choices: Sequence[tuple[str, float]],
        colour: np.ndarray,
        contrast: tuple[float, float] = (0.15, 0.8),
        gloss: float = 0.0,
    ) -> int:
        pattern, period = choices[int(self.rng.integers(len(choices)))]
        other = self.colour()
        if pattern in ("wood", "planks", "plain", "tiles", "bricks"):
            other = colour * self.rng.uniform(0.35, 0.8) + 0.1 * other
        share = self.rng.uniform(*contrast)
        return self.builder.material(
            colour,
            (1 - share) * colour + share * other,
            pattern=pattern,
            period=period * self.rng.uniform(0.8, 1.4),
            gloss=gloss,
            phase=self.rng.uniform(0, 1000),
        )

    def wood(self) -> int:
        """Wood, plain or lacquered."""
        return self._make(_WOOD, self.colour(), gloss=self.rng.choice([0.0, 0.15]))

    def cloth(self) -> int:
        """Upholstery and clothes: any pattern."""
        return self._make(_CLOTH, self.colour())

    def paint(self, pale: bool = False) -> int:
        """Walls: any colour; `pale` (ceilings) keeps to bright ones."""
        value = (0.55, 1.0) if pale else (0.25, 1.0)
        return self._make(_PAINT[:3] if pale else _PAINT, self.colour((0.0, 0.4), value), contrast=(0.05, 0.5))

    def floor(self) -> int:
        """Planks, tiles or carpet, some of it polished."""
        return self._make(_FLOOR, self.colour(), gloss=self.rng.choice([0.0, 0.1]))

    def solid(self, gloss: float = 0.2) -> int:
        """Lacquer, ceramics, metal: one colour."""
        return self._make((("plain", 0.3),), self.colour(), contrast=(0.0, 0.2), gloss=gloss)

    def print(self) -> int:
        """A picture or a magazine cover."""
        return self._make((("picture", 0.25),), self.colour(), contrast=(0.7, 1.0))

    def lamp(self, glow: float) -> int:
        """A warm light. glow: its radiance."""
        warm = np.array([1.0, self.rng.uniform(0.75, 0.95), self.rng.uniform(0.5, 0.85)])
        return self.builder.material(warm, warm, glow=glow)

    def screen(self) -> int:
        """A television: dark and glossy, or showing something."""
        on = self.rng.uniform() < 0.45
        dark = np.full(3, self.rng.uniform(0.004, 0.03))
        colours = (self.colour((0.2, 0.9), (0.2, 1.0)), self.colour((0.2, 0.9), (0.2, 1.0))) if on else (dark, dark)
        return self.builder.material(
            *colours,
            pattern="picture" if on else "plain",
            period=0.35,
            gloss=0.5,
            glow=0.5 if on else 0.0,
            glass=True,
            phase=self.rng.uniform(0, 1000),
        )

    def pane(self, daylight: float) -> int:
        """A window pane: the view outside, as bright as the day."""
        sky = np.array([self.rng.uniform(0.45, 0.8), self.rng.uniform(0.6, 0.85), 0.9])
        return self.builder.material(
            sky,
            self.colour((0.1, 0.6), (0.2, 0.7)),
            pattern="outdoors",
            period=0.5,
            gloss=0.4,
            glow=max(0.03, daylight),
            glass=True,
            phase=self.rng.uniform(0, 1000),
        )

    def skin(self) -> int:
        """A person's skin."""
        tone = np.array([0.75, 0.5, 0.38]) * self.rng.uniform(0.12, 1.0) ** np.array([0.7, 1.0, 1.15])
        return self.builder.material(tone, tone * 0.9, pattern="plain", period=0.1, phase=self.rng.uniform(0, 1000))

    def hair(self) -> int:
        """A person's hair."""
        shade = np.array([0.3, 0.19, 0.1]) * self.rng.uniform(0.05, 1.6)
        return self.builder.material(shade, shade * 0.5, pattern="wood", period=0.02, phase=self.rng.uniform(0, 1000))
