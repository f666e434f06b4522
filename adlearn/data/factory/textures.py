"""Three endless materials: woven cloth, oak veneer and brushed steel sheet."""

from dataclasses import dataclass, replace

import numpy as np

from .canvas import SIZE, Array, X, Y, noise, rgb, smoothstep, wander
from .defects import Blot, Dent, Fibre, Scratch, Scuffs, any_seed, sized, somewhere, strength
from .product import Product, Spec
from .surface import Surface

YARN = 9.0
_YARNS = 80


@dataclass(frozen=True)
class Cloth(Spec):
    """Plain weave: blue warp (vertical yarns) and ecru weft. `gaps` lists missing lengths of yarn:
    (is_warp, yarn, from, to) in pixels; `floats` cells where the warp wrongly stays on top."""

    angle: float = 0.0
    phase: tuple[float, float] = (0.0, 0.0)
    gaps: tuple[tuple[bool, int, float, float], ...] = ()
    floats: tuple[tuple[int, int], ...] = ()
    slubs: tuple[tuple[int, float, float], ...] = ()


def sample_cloth(rng: np.random.Generator) -> Cloth:
    spec = Cloth(any_seed(rng), (), float(rng.normal(0, 0.02)), tuple(rng.uniform(0, 2 * YARN, 2).tolist()))
    if rng.random() < 0.3:
        spec = replace(spec, slubs=((int(rng.integers(10, 40)), float(rng.uniform(40, 216)), 0.12),))
    return spec


def build_cloth(spec: Cloth) -> Surface:
    rng = np.random.default_rng(spec.texture)
    u = X + spec.angle * Y + spec.phase[0] + 1.6 * noise(rng, 60) + 0.5 * noise(rng, 14)
    v = Y - spec.angle * X + spec.phase[1] + 1.6 * noise(rng, 60) + 0.5 * noise(rng, 14)
    u, v = u + 4 * YARN, v + 4 * YARN
    column, row = np.floor(u / YARN), np.floor(v / YARN)
    warp, weft = column.astype(int) % _YARNS, row.astype(int) % _YARNS
    across_warp, across_weft = u / YARN - column - 0.5, v / YARN - row - 0.5

    widths = 0.52 + rng.normal(0, 0.025, (2, _YARNS)).astype(np.float32)
    thick_warp, thick_weft = widths[0][warp], widths[1][weft]
    for yarn, where, amount in spec.slubs:
        thick_weft = thick_weft + np.where(weft == yarn, amount * np.exp(-(((u - where) / 18) ** 2)), 0)

    parity = np.where((warp - weft) % 2 == 0, 1.0, -1.0).astype(np.float32)
    for i, j in spec.floats:
        parity = np.where((warp == i) & (weft == j), 1.0, parity)
    crossing = np.abs(np.cos(np.pi * across_weft)), np.abs(np.cos(np.pi * across_warp))
    warp_height = 3.2 * _round(across_warp / thick_warp) + 1.3 * parity * crossing[0]
    weft_height = 3.2 * _round(across_weft / thick_weft) - 1.3 * parity * crossing[1]
    for is_warp, yarn, start, end in spec.gaps:
        inside = (
            (warp == yarn) & (v > start) & (v < end) if is_warp else (weft == yarn) & (u > start) & (u < end)
        )
        target = warp_height if is_warp else weft_height
        target[inside] = -3

    shades = np.exp(rng.normal(0, 0.09, (2, _YARNS))).astype(np.float32)
    twist = 0.10 * np.sin((u + v) * 1.9) + 0.06 * noise(rng, 1.5) + 0.05 * noise(rng, 40)
    on_top = smoothstep(-0.5, 0.5, warp_height - weft_height)
    height = np.maximum(warp_height, weft_height)
    seen = 0.25 + 0.75 * smoothstep(-2, 2.2, height)  # little light reaches the gaps
    blue = on_top * shades[0][warp] * (1 + twist) * seen
    ecru = (1 - on_top) * shades[1][weft] * (1 + np.flip(twist, 1)) * seen
    surface = Surface.flat(rgb(0, 0, 0))
    surface.height = np.maximum(height, -2)
    surface.albedo = blue[..., None] * rgb(66, 98, 148) + ecru[..., None] * rgb(214, 205, 182)
    return surface


def _round(position: Array) -> Array:
    """Cross-section of a yarn: a half circle of radius 1."""
    return np.sqrt(np.clip(1 - position**2, 0, 1))


def cloth_missing_yarn(spec: Cloth, rng: np.random.Generator, ease: float) -> Cloth:
    is_warp, yarn = bool(rng.random() < 0.5), int(rng.integers(8, 28))
    length = sized(ease, rng.uniform(60, 130))
    start = rng.uniform(60, 270 - min(length, 200))
    return replace(spec, gaps=((is_warp, yarn, start, start + length),))


def cloth_hole(spec: Cloth, rng: np.random.Generator, ease: float) -> Cloth:
    i, j = rng.integers(10, 26, 2).tolist()
    reach = 1 if ease < 1.5 else 2
    gaps = []
    for k in range(-reach, reach + 1):
        half = sized(ease, rng.uniform(0.5, 1.4)) * YARN
        gaps += [(True, i + k, (j + 0.5) * YARN - half, (j + 0.5) * YARN + half)]
        gaps += [(False, j + k, (i + 0.5) * YARN - half, (i + 0.5) * YARN + half)]
    return replace(spec, gaps=tuple(gaps))


def cloth_float(spec: Cloth, rng: np.random.Generator, ease: float) -> Cloth:
    i, j = rng.integers(8, 24, 2).tolist()
    length = round(sized(ease, rng.integers(5, 9)))
    cells = [(i + side, j + k) for k in range(length) for side in range(2)]
    return replace(spec, floats=tuple(cells))


def cloth_stain(spec: Cloth, rng: np.random.Generator, ease: float) -> Cloth:
    colour = [(86, 62, 40), (40, 52, 40), (120, 70, 60)][rng.integers(3)]
    radius = sized(ease, rng.uniform(14, 28))
    return spec.marked(
        Blot(somewhere(rng), radius, colour, strength(ease, 0.5), any_seed(rng), softness=7, rim=0.25)
    )


def cloth_thread(spec: Cloth, rng: np.random.Generator, ease: float) -> Cloth:
    colour = [(196, 60, 52), (232, 228, 214), (40, 38, 40)][rng.integers(3)]
    points = wander(rng, somewhere(rng, 60), rng.uniform(0, 6.28), sized(ease, rng.uniform(50, 100)), 2.2)
    return spec.marked(Fibre(points, 1.8, colour, strength(ease, 0.92)))


@dataclass(frozen=True)
class Veneer(Spec):
    """Oak cut lengthwise: growth rings seen as flames; `heart` is how far the cut passes the pith."""

    heart: float = 60.0
    centre: float = 128.0
    taper: float = 0.25
    tone: float = 0.0


def sample_veneer(rng: np.random.Generator) -> Veneer:
    return Veneer(
        any_seed(rng),
        (),
        heart=rng.uniform(20, 110),
        centre=rng.uniform(-40, 296),
        taper=(1 if rng.random() < 0.5 else -1) * rng.uniform(0.1, 0.35),
        tone=rng.normal(0, 0.05),
    )


def build_veneer(spec: Veneer) -> Surface:
    rng = np.random.default_rng(spec.texture)
    across = X - spec.centre + 9 * noise(rng, (170, 60)) + 0.9 * noise(rng, (50, 8))
    cut = spec.heart + spec.taper * (Y - SIZE / 2) + 4 * noise(rng, (120, 70))
    ring = np.sqrt(across**2 + cut**2) / 15 + 0.15 * noise(rng, (120, 50))
    late = (ring - np.floor(ring)) ** 2.2
    late *= 1 - smoothstep(0.9, 1.0, ring - np.floor(ring))
    fibres = noise(rng, (28, 1.2))
    pores = smoothstep(1.2, 2.3, noise(rng, (16, 1.0)) + 0.6 * (1 - late)) * (0.35 + 0.65 * (1 - late))
    light, dark = rgb(205, 166, 116), rgb(158, 112, 68)
    mix = np.clip(0.15 + 0.75 * late + 0.10 * fibres + 0.06 * noise(rng, 70), 0, 1.2)
    surface = Surface.flat(light, gloss=0.05)
    surface.paint(mix, dark)
    surface.paint(0.55 * pores, rgb(84, 54, 30))
    surface.albedo *= np.float32(1 + spec.tone)
    surface.height = (0.15 * fibres - 0.7 * pores).astype(np.float32)
    return surface


def wood_scratch(spec: Veneer, rng: np.random.Generator, ease: float) -> Veneer:
    length = sized(ease, rng.uniform(45, 110))
    points = wander(rng, somewhere(rng, 60), rng.uniform(-0.9, 0.9), length, 0.25)
    return spec.marked(Scratch(points, 1.5, 1.0, (232, 204, 160), strength(ease, 0.6)))


def wood_crack(spec: Veneer, rng: np.random.Generator, ease: float) -> Veneer:
    x, y = somewhere(rng, 50)
    points = [(x, y)]
    for _ in range(round(sized(ease, rng.integers(8, 16)))):
        x, y = x + rng.normal(0, 1.6), y + rng.uniform(5, 10)
        points.append((x, y))
    half = len(points) // 3
    fine = Scratch(points, 1.4, 1.5, (38, 24, 14), strength(ease, 0.8))
    return spec.marked(fine, Scratch(points[half:-half], 2.8, 1.8, (38, 24, 14), strength(ease, 0.8)))


def wood_wormholes(spec: Veneer, rng: np.random.Generator, ease: float) -> Veneer:
    x, y = somewhere(rng, 50)
    marks = []
    for _ in range(rng.integers(2, 6)):
        centre = (x + rng.normal(0, 18), y + rng.normal(0, 18))
        radius = sized(ease, rng.uniform(1.6, 3.0))
        marks.append(Blot(centre, radius, (40, 24, 12), strength(ease, 0.75), any_seed(rng), softness=1.2))
        marks.append(Dent(centre, radius, 2))
    return spec.marked(*marks)


def wood_stain(spec: Veneer, rng: np.random.Generator, ease: float) -> Veneer:
    colour = [(70, 44, 30), (66, 70, 92)][rng.integers(2)]
    radius = sized(ease, rng.uniform(14, 30))
    return spec.marked(
        Blot(somewhere(rng), radius, colour, strength(ease, 0.42), any_seed(rng), softness=6, rim=0.3)
    )


def wood_glue(spec: Veneer, rng: np.random.Generator, ease: float) -> Veneer:
    radius = sized(ease, rng.uniform(7, 15))
    opacity = strength(ease, 0.38)
    mark = Blot(
        somewhere(rng), radius, (226, 216, 186), opacity, any_seed(rng), rise=5, gloss=0.7, softness=2
    )
    return spec.marked(mark)


@dataclass(frozen=True)
class Sheet(Spec):
    """Brushed stainless steel; `band` is where the lamp's broad reflection lies, `tilt` the brush's angle."""

    band: float = 128.0
    tilt: float = 0.0


def sample_sheet(rng: np.random.Generator) -> Sheet:
    spec = Sheet(any_seed(rng), (), band=rng.uniform(30, 226), tilt=rng.normal(0, 0.015))
    if rng.random() < 0.4:
        spec = spec.marked(Scuffs(somewhere(rng), 14, 4, 0.12, (235, 235, 235), any_seed(rng)))
    return spec


def build_sheet(spec: Sheet) -> Surface:
    rng = np.random.default_rng(spec.texture)
    long, fine = noise(rng, (1, 90)), noise(rng, (1, 22))
    streaks = 0.6 * long + 0.45 * fine + 0.3 * noise(rng, (1, 6)) + 0.35 * noise(rng, (4, 200))
    if spec.tilt:
        rows = np.clip(Y + spec.tilt * (X - SIZE / 2), 0, SIZE - 1).astype(int)
        streaks = streaks[rows, X.astype(int)]
    surface = Surface.flat(rgb(168, 170, 174))
    glow = np.exp(-(((X - spec.band - 0.15 * (Y - 128) + 6 * noise(rng, (8, 90))) / 75) ** 2))
    surface.albedo *= (0.72 + 0.5 * glow + (0.075 + 0.05 * glow) * streaks)[..., None]
    surface.height = (0.22 * streaks).astype(np.float32)
    surface.gloss += 0.03
    return surface


def steel_scratch(spec: Sheet, rng: np.random.Generator, ease: float) -> Sheet:
    length = sized(ease, rng.uniform(50, 130))
    angle = (1 if rng.random() < 0.5 else -1) * rng.uniform(0.3, 1.5)
    points = wander(rng, somewhere(rng, 70), angle, length, 0.15)
    colour = [(238, 238, 240), (60, 60, 64)][rng.integers(2)]
    return spec.marked(Scratch(points, 1.0, 0.6, colour, strength(ease, 0.4)))


def steel_dent(spec: Sheet, rng: np.random.Generator, ease: float) -> Sheet:
    radius = rng.uniform(7, 16)
    depth = ease * 0.22 * radius
    return spec.marked(Dent(somewhere(rng), radius, depth, rng.uniform(1, 1.7), rng.uniform(0, 3.14)))


def steel_rust(spec: Sheet, rng: np.random.Generator, ease: float) -> Sheet:
    x, y = somewhere(rng, 50)
    marks = []
    for _ in range(rng.integers(2, 5)):
        centre = (x + rng.normal(0, 14), y + rng.normal(0, 14))
        radius = sized(ease, rng.uniform(5, 13))
        opacity = strength(ease, 0.5)
        marks.append(Blot(centre, radius, (138, 78, 38), opacity, any_seed(rng), softness=5, speckle=1.0))
    return spec.marked(*marks)


def steel_oil(spec: Sheet, rng: np.random.Generator, ease: float) -> Sheet:
    radius = sized(ease, rng.uniform(14, 28))
    mark = Blot(
        somewhere(rng),
        radius,
        (78, 70, 52),
        strength(ease, 0.30),
        any_seed(rng),
        gloss=0.1,
        softness=5,
        rim=0.4,
    )
    return spec.marked(mark)


def steel_spatter(spec: Sheet, rng: np.random.Generator, ease: float) -> Sheet:
    x, y = somewhere(rng, 60)
    marks = []
    for _ in range(rng.integers(3, 8)):
        centre = (x + rng.normal(0, 26), y + rng.normal(0, 26))
        radius = sized(ease, rng.uniform(1.6, 3.6))
        opacity = strength(ease, 0.6)
        marks.append(
            Blot(centre, radius, (70, 66, 64), opacity, any_seed(rng), rise=5, gloss=0.5, softness=1.2)
        )
    return spec.marked(*marks)


FABRIC = Product(
    "fabric",
    sample_cloth,
    build_cloth,
    {
        "missing_yarn": cloth_missing_yarn,
        "hole": cloth_hole,
        "float": cloth_float,
        "stain": cloth_stain,
        "thread": cloth_thread,
    },
    shadows=False,
)
WOOD = Product(
    "wood",
    sample_veneer,
    build_veneer,
    {
        "scratch": wood_scratch,
        "crack": wood_crack,
        "wormholes": wood_wormholes,
        "stain": wood_stain,
        "glue": wood_glue,
    },
    shadows=False,
)
STEEL = Product(
    "steel",
    sample_sheet,
    build_sheet,
    {
        "scratch": steel_scratch,
        "dent": steel_dent,
        "rust": steel_rust,
        "oil": steel_oil,
        "spatter": steel_spatter,
    },
    shadows=False,
)
