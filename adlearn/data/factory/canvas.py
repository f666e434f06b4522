"""Drawing primitives: noise, antialiased shapes and poses, all on one square pixel grid."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 256
Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)

Array = NDArray[np.float32]
Points = Sequence[tuple[float, float]]
Window = tuple[slice, slice]
EVERYWHERE: Window = (slice(None), slice(None))
_SUPERSAMPLING = 4


def stream(*keys: object) -> np.random.Generator:
    """A generator that depends on `keys` alone, so that any picture can be drawn without the others."""
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(list(digest)))


def window(x: float, y: float, reach: float) -> Window:
    """The pixels at most `reach` from (x, y): small parts are drawn there only."""

    def span(centre: float) -> slice:
        low = min(max(0, round(centre - reach)), SIZE - 3)
        return slice(low, max(low + 3, min(SIZE, round(centre + reach) + 1)))

    return span(y), span(x)


def rgb(red: float, green: float, blue: float) -> Array:
    """A colour given as on a screen (0-255), returned as linear light (3,)."""
    return (np.array([red, green, blue], dtype=np.float32) / 255) ** 2


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, a smooth cubic between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def cover(distance: Array, softness: float = 1.0) -> Array:
    """Share of each pixel inside a shape, from its signed distance in pixels (negative is inside)."""
    return np.clip(0.5 - distance / softness, 0, 1)


def noise(rng: np.random.Generator, scale: float | tuple[float, float]) -> Array:
    """Smooth noise (SIZE, SIZE), mean 0 and deviation 1, with features of `scale` = (down, across) pixels."""
    down, across = (scale, scale) if isinstance(scale, int | float) else scale
    shape = (max(3, round(SIZE / down) + 2), max(3, round(SIZE / across) + 2))
    field = rng.standard_normal(shape, dtype=np.float32)
    if min(down, across) > 1 or max(shape) != SIZE:
        field = np.asarray(Image.fromarray(field).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return (field - field.mean()) / field.std()


def stroke(points: Points, width: float) -> Array:
    """Coverage (SIZE, SIZE) of a line through `points` (x, y) with round joints, `width` pixels wide."""
    factor = _SUPERSAMPLING
    coverage = np.zeros((SIZE, SIZE), dtype=np.float32)
    xs, ys = zip(*points, strict=True)
    centre, reach = (max(xs) + min(xs)) / 2, max(max(xs) - min(xs), max(ys) - min(ys)) / 2 + width + 2
    rows, columns = window(centre, (max(ys) + min(ys)) / 2, reach)
    image = Image.new("L", ((columns.stop - columns.start) * factor, (rows.stop - rows.start) * factor))
    scaled = [((x - columns.start + 0.5) * factor, (y - rows.start + 0.5) * factor) for x, y in points]
    ImageDraw.Draw(image).line(scaled, fill=255, width=max(1, round(width * factor)), joint="curve")
    coverage[rows, columns] = np.asarray(image.reduce(factor), dtype=np.float32) / 255
    return coverage


def wander(
    rng: np.random.Generator, start: tuple[float, float], angle: float, length: float, bend: float
) -> Points:
    """Points of a line that starts at `start` towards `angle` and turns by about `bend` radians."""
    steps = 12
    turns = angle + np.cumsum(rng.normal(0, bend / np.sqrt(steps), steps))
    x = start[0] + np.cumsum(np.cos(turns)) * length / steps
    y = start[1] + np.cumsum(np.sin(turns)) * length / steps
    return [start, *zip(x.tolist(), y.tolist(), strict=True)]


def ragged_disc(rng: np.random.Generator, centre: tuple[float, float], radius: float, ragged: float) -> Array:
    """Signed distance to a disc whose radius wanders by the share `ragged` around its rim."""
    dx, dy = X - centre[0], Y - centre[1]
    angle = np.arctan2(dy, dx)
    rim = np.ones_like(X)
    for order in range(2, 7):
        amount, phase = rng.normal(0, ragged / order**1.3), rng.uniform(0, 2 * np.pi)
        rim += amount * np.cos(order * angle + phase)
    return np.hypot(dx, dy) - radius * np.clip(rim, 0.3, 2)


def box(u: Array, v: Array, half_width: float, half_height: float, corner: float = 0.0) -> Array:
    """Signed distance to a box centred on 0 with rounded corners."""
    du = np.abs(u) - (half_width - corner)
    dv = np.abs(v) - (half_height - corner)
    outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return outside + np.minimum(np.maximum(du, dv), 0) - corner


@dataclass(frozen=True)
class Pose:
    """Where an object lies: centre (x, y) in pixels, `angle` in radians, `scale`."""

    x: float = SIZE / 2
    y: float = SIZE / 2
    angle: float = 0.0
    scale: float = 1.0

    def local(self, where: Window = EVERYWHERE) -> tuple[Array, Array]:
        """The object's own coordinates (u, v) of every pixel of `where`."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx = (X[where] - self.x) / self.scale
        dy = (Y[where] - self.y) / self.scale
        return cos * dx + sin * dy, cos * dy - sin * dx

    def world(self, u: float, v: float) -> tuple[float, float]:
        """The pixel (x, y) at which the object's point (u, v) appears."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = self.x + self.scale * (cos * u - sin * v), self.y + self.scale * (sin * u + cos * v)
        return float(x), float(y)

    def at(self, u: float, v: float, angle: float = 0.0) -> "Pose":
        """The pose of a part that sits at (u, v) of this object, turned by `angle` against it."""
        x, y = self.world(u, v)
        return Pose(x, y, self.angle + angle, self.scale)

    def stamp(self, picture: Image.Image, pixels_per_unit: float, where: Window = EVERYWHERE) -> Array:
        """A small grey picture, centred on this pose, seen through window `where`; values in [0, 1]."""
        rows, columns = (span.indices(SIZE) for span in where)
        left, top = columns[0], rows[0]
        k = pixels_per_unit / self.scale
        cos, sin = k * math.cos(self.angle), k * math.sin(self.angle)
        offset_x = picture.width / 2 - cos * (self.x - left) - sin * (self.y - top)
        offset_y = picture.height / 2 + sin * (self.x - left) - cos * (self.y - top)
        coefficients = (cos, sin, offset_x, -sin, cos, offset_y)
        size = columns[1] - left, rows[1] - top
        placed = picture.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        return np.asarray(placed, dtype=np.float32) / 255
