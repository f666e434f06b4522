"""A scene as a camera over a production line sees it: surface, light, lens and sensor.

Products are described by what they are made of (height, colour, gloss), not by the grey values they should
have. Shading, shadows and highlights follow, so that a dent looks like a dent and depth comes for free.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from .canvas import SIZE, Array, Window, X, Y, smoothstep


@dataclass
class Surface:
    """Height in pixels, linear colour, and three shares in [0, 1], each (SIZE, SIZE) or (SIZE, SIZE, 3).

    `metal` mirrors the surroundings instead of scattering light; `gloss` is the strength of the highlight;
    `part` is 1 on the product and 0 on what it lies on.
    """

    height: Array
    albedo: Array
    metal: Array
    gloss: Array
    part: Array

    @classmethod
    def flat(cls, colour: Array, gloss: float = 0.0, metal: float = 0.0, part: float = 1.0) -> "Surface":
        """A plane of one material."""

        def plane(value: float) -> Array:
            return np.full((SIZE, SIZE), value, dtype=np.float32)

        albedo = np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32)
        return cls(plane(0), albedo, plane(metal), plane(gloss), plane(part))

    def paint(self, share: Array, colour: Array) -> None:
        """Mix `colour` ((3,) or (SIZE, SIZE, 3)) into the albedo."""
        self.albedo += share[..., None] * (colour - self.albedo)

    def place(
        self, share: Array, height: Array, colour: Array, metal: float = 0.0, gloss: float = 0.0
    ) -> None:
        """Put another body on top where `share` is 1; it counts as product."""
        self.height += share * (height - self.height)
        self.paint(share, colour)
        self.metal += share * (metal - self.metal)
        self.gloss += share * (gloss - self.gloss)
        np.maximum(self.part, share, out=self.part)

    def through(self, where: Window) -> "Surface":
        """A view of one window: drawing on it draws on this surface."""
        fields = self.height, self.albedo, self.metal, self.gloss, self.part
        return Surface(*(f[where] for f in fields))


@dataclass(frozen=True)
class Light:
    """The lamp and the camera of one picture; sampled once, shared by the picture and its clean twin.

    Angles in radians (azimuth clockwise from the right), `blur` in pixels, `grain` in shares of full scale.
    Without `shadows` nothing casts one; a `dome` lights evenly from all sides.
    """

    azimuth: float = -2.2
    elevation: float = 0.95
    strength: float = 1.0
    ambient: float = 0.35
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    slope: tuple[float, float] = (0.0, 0.0)
    vignette: float = 0.12
    blur: float = 0.6
    grain: float = 0.010
    seed: int = 0
    shadows: bool = True
    dome: bool = False

    @classmethod
    def sample(cls, rng: np.random.Generator, spread: float = 1.0, shadows: bool = True) -> "Light":
        """Everyday variation: the lamp ages, warms up and is never quite where it was."""
        return cls(
            azimuth=-2.2 + spread * rng.normal(0, 0.12),
            elevation=0.95 + spread * rng.normal(0, 0.04),
            strength=float(np.exp(spread * rng.normal(0, 0.07))),
            tint=tuple(np.exp(spread * rng.normal(0, 0.012, 3)).tolist()),
            slope=tuple((spread * rng.normal(0, 0.05, 2)).tolist()),
            blur=float(rng.uniform(0.5, 0.8)),
            grain=float(rng.uniform(0.008, 0.014)),
            seed=int(rng.integers(2**31)),
            shadows=shadows,
        )


def shade(surface: Surface, light: Light) -> Array:
    """The light that leaves every pixel towards the camera, linear (SIZE, SIZE, 3)."""
    if light.dome:
        return surface.albedo * (0.95 * _openness(surface.height))[..., None]
    slope_y, slope_x = np.gradient(surface.height)
    np.clip(slope_x, -4, 4, out=slope_x)
    np.clip(slope_y, -4, 4, out=slope_y)
    up = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    east, south = math.cos(light.azimuth), math.sin(light.azimuth)
    flat, rise = math.cos(light.elevation), math.sin(light.elevation)
    toward = -(slope_x * east + slope_y * south) * up

    diffuse = np.clip(toward * flat + up * rise, 0, None)
    halfway = np.clip((toward * flat + up * (1 + rise)) / math.sqrt(2 + 2 * rise), 0, 1)
    highlight = halfway**2
    for _ in range(4):  # to the 32nd power: a satin gloss
        highlight *= highlight
    mirrored = _surroundings(2 * up * toward)

    open_sky = _openness(surface.height)
    lit = _unshadowed(surface.height, light) if light.shadows else np.ones_like(up)
    scattered = light.ambient * open_sky + (1.2 - light.ambient) * diffuse * lit
    reflected = mirrored * (0.55 + 0.45 * lit) * open_sky
    body = scattered + surface.metal * (reflected - scattered)
    return surface.albedo * body[..., None] + (surface.gloss * highlight * lit)[..., None]


def _surroundings(direction: Array) -> Array:
    """Brightness of the hall in the mirror: a dark floor, a bright lamp, a grey ceiling overhead."""
    lamp = smoothstep(0.25, 0.7, direction) - 0.6 * smoothstep(0.75, 1.0, direction)
    floor = smoothstep(0.15, 0.7, -direction)
    return 0.75 + 0.75 * lamp - 0.5 * floor


def _openness(height: Array) -> Array:
    """Ambient occlusion: how much sky a point sees, from its depth below its surroundings."""
    around = uniform_filter(uniform_filter(height, 9), 9)
    return 1 - 0.55 * smoothstep(0.5, 9, around - height)


def _unshadowed(height: Array, light: Light) -> Array:
    """1 where the lamp is seen, 0 in the shadow of something higher; marches towards the lamp."""
    climb = math.tan(light.elevation)
    shadow = np.zeros_like(height)
    for reach in (2, 4, 7, 11, 16, 22):
        dx, dy = round(reach * math.cos(light.azimuth)), round(reach * math.sin(light.azimuth))
        blocker = _shifted(height, dx, dy)
        np.maximum(shadow, np.clip((blocker - height - reach * climb) / 4, 0, 1), out=shadow)
    return 1 - 0.8 * uniform_filter(shadow, 4)


def _shifted(field: Array, dx: int, dy: int) -> Array:
    """`field` at (x + dx, y + dy), the border repeated."""
    rows = np.clip(np.arange(SIZE) + dy, 0, SIZE - 1)
    columns = np.clip(np.arange(SIZE) + dx, 0, SIZE - 1)
    return field.take(rows, axis=0).take(columns, axis=1)


def expose(linear: Array, light: Light) -> np.ndarray:
    """Lens and sensor: falloff, blur, square-root tone curve, grain; uint8 (SIZE, SIZE, 3)."""
    x, y = (X - SIZE / 2) / (SIZE / 2), (Y - SIZE / 2) / (SIZE / 2)
    falloff = 1 - light.vignette * (x * x + y * y) / 2 + light.slope[0] * x + light.slope[1] * y
    gain = np.float32(light.strength) * np.array(light.tint, dtype=np.float32)
    image = _lens(np.clip(linear * (falloff[..., None] * gain), 0, 4), light.blur)
    np.sqrt(image, out=image)
    over = np.maximum(image - 0.85, 0)
    image -= over - over / (1 + over / 0.15)  # a soft shoulder instead of clipped highlights
    image += sensor_noise(light)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _lens(image: Array, sigma: float) -> Array:
    """Gaussian blur with five taps a side; the borders are repeated."""
    taps = np.exp(-0.5 * (np.arange(3) / sigma) ** 2).astype(np.float32)
    taps /= taps[0] + 2 * taps[1:].sum()
    image = image.astype(np.float32)
    for axis in (0, 1):
        widths = [(2, 2) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, widths, mode="edge")
        image = image * taps[0]
        for start in (0, 1, 3, 4):
            shifted = slice(start, start + SIZE)
            image += taps[abs(start - 2)] * (padded[shifted] if axis == 0 else padded[:, shifted])
    return image


def sensor_noise(light: Light) -> Array:
    """Grain: mostly shared by the channels, as after demosaicing; (SIZE, SIZE, 3)."""
    dice = np.random.default_rng(light.seed).bytes(2 * SIZE * SIZE * 4)
    first, second = np.frombuffer(dice, dtype=np.uint8).reshape(2, SIZE, SIZE, 4).astype(np.float32)
    field = (first - second) * (light.grain / 104.5)  # the difference of two dice has a deviation of 104.5
    return 0.8 * field[..., 3:] + 0.5 * field[..., :3]
