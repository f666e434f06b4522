"""Marks that production leaves on a surface: each is a small recipe applied to a finished `Surface`.

A mark is data (where, how large, how strong), so that the same scene can be drawn with and without it.
`ease` is 1 / difficulty: sizes grow with its square root, contrasts with `strength(ease, ...)`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .canvas import SIZE, Points, X, Y, cover, noise, ragged_disc, rgb, smoothstep, stroke, wander
from .surface import Surface

Point = tuple[float, float]


class Mark(Protocol):
    """Something that happened to a surface."""

    def __call__(self, surface: Surface) -> None: ...


def strength(ease: float, default: float) -> float:
    """An opacity that is `default` at difficulty 1 and moves towards 1 or 0 with the dial."""
    return float(1 - (1 - default) ** ease)


def sized(ease: float, default: float) -> float:
    """A length that is `default` at difficulty 1."""
    return default * ease**0.5


@dataclass(frozen=True)
class Scratch:
    """A line cut into the surface: a groove of `depth` pixels, its ground `colour` mixed in by `opacity`."""

    points: Points
    width: float
    depth: float
    colour: tuple[float, float, float]
    opacity: float

    def __call__(self, surface: Surface) -> None:
        line = stroke(self.points, self.width) * surface.part
        surface.height -= self.depth * line
        surface.paint(self.opacity * line, rgb(*self.colour))


@dataclass(frozen=True)
class Fibre:
    """A thread or hair that lies on top."""

    points: Points
    width: float
    colour: tuple[float, float, float]
    opacity: float = 1.0

    def __call__(self, surface: Surface) -> None:
        line = stroke(self.points, self.width)
        surface.height += 2.5 * self.opacity * line
        surface.paint(self.opacity * line, rgb(*self.colour))
        surface.metal *= 1 - self.opacity * line


@dataclass(frozen=True)
class Blot:
    """A ragged patch: colour by `opacity`, `rise` pixels high, `gloss`, `speckle` for rust-like grain."""

    centre: Point
    radius: float
    colour: tuple[float, float, float]
    opacity: float
    seed: int
    rise: float = 0.0
    gloss: float = 0.0
    softness: float = 2.0
    speckle: float = 0.0
    rim: float = 0.0
    anywhere: bool = False

    def __call__(self, surface: Surface) -> None:
        rng = np.random.default_rng(self.seed)
        distance = ragged_disc(rng, self.centre, self.radius, 0.3)
        share = cover(distance, self.softness)
        if not self.anywhere:
            share = share * surface.part
        if self.speckle:
            grain = noise(rng, 2.5) + 0.7 * noise(rng, 7)
            share = share * smoothstep(self.speckle - 1.2, self.speckle + 0.6, grain + 1)
        edge = self.rim * np.exp(-((distance / 2.5) ** 2)) * (share > 0)
        surface.paint(
            np.clip(share * self.opacity * (1 - self.rim) + edge * self.opacity, 0, 1), rgb(*self.colour)
        )
        surface.metal *= 1 - self.opacity * share
        surface.gloss += share * self.opacity * (self.gloss - surface.gloss)
        if self.rise:
            dome = np.clip(-distance / max(self.radius, 1), 0, 1)
            surface.height += self.rise * np.sqrt(dome) * share


@dataclass(frozen=True)
class Dent:
    """A smooth hollow (`depth` > 0) or bump (`depth` < 0), elongated by `stretch` along `angle`."""

    centre: Point
    radius: float
    depth: float
    stretch: float = 1.0
    angle: float = 0.0

    def __call__(self, surface: Surface) -> None:
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dx, dy = X - np.float32(self.centre[0]), Y - np.float32(self.centre[1])
        along = (cos * dx + sin * dy) / self.stretch
        squared = (along**2 + (cos * dy - sin * dx) ** 2) / self.radius**2
        surface.height -= self.depth * np.exp(-1.5 * squared) * surface.part


@dataclass(frozen=True)
class Scuffs:
    """Wear: many short faint scratches in one patch; benign when few."""

    centre: Point
    radius: float
    count: int
    opacity: float
    colour: tuple[float, float, float]
    seed: int

    def __call__(self, surface: Surface) -> None:
        rng = np.random.default_rng(self.seed)
        lines = np.zeros((SIZE, SIZE), dtype=np.float32)
        heading = rng.uniform(0, np.pi)
        for _ in range(self.count):
            start = tuple(np.array(self.centre) + rng.normal(0, self.radius / 2, 2))
            points = wander(rng, start, heading + rng.normal(0, 0.3), rng.uniform(4, self.radius), 0.2)
            lines = np.maximum(lines, stroke(points, 0.6))
        surface.paint(self.opacity * lines * surface.part, rgb(*self.colour))


def somewhere(rng: np.random.Generator, margin: float = 40) -> Point:
    """A point on a texture that keeps `margin` pixels from the border."""
    x, y = rng.uniform(margin, SIZE - margin, 2).tolist()
    return x, y


def any_seed(rng: np.random.Generator) -> int:
    """A seed for something that draws its own arrays."""
    return int(rng.integers(2**31))
