"""Three parts as a camera over the line sees them: a machine bolt, a pipe flange and a chip on its board."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .canvas import Array, Pose, box, cover, noise, rgb, smoothstep, wander, window
from .defects import Blot, Fibre, Mark, Scratch, Scuffs, any_seed, sized, strength
from .product import Product, Spec
from .surface import Surface

MIDDLE = Pose()
STEEL = rgb(196, 197, 200)


def pick_pose(rng: np.random.Generator, shift: float, turn: float, zoom: float = 0.02) -> Pose:
    """A pose near the middle: `shift` pixels, `turn` radians (pi or more means any), `zoom` in scale."""
    x, y = (128 + rng.uniform(-shift, shift, 2)).tolist()
    return Pose(x, y, rng.uniform(-turn, turn), math.exp(rng.normal(0, zoom)))


def belt(rng: np.random.Generator, colour: tuple[float, float, float], grain: float = 0.05) -> Surface:
    """What parts lie on: a matt plane with a little grain and soiling."""
    surface = Surface.flat(rgb(*colour), part=0.0)
    surface.albedo *= (1 + grain * noise(rng, 1.6) + 0.5 * grain * noise(rng, 45))[..., None]
    surface.height += 0.12 * noise(rng, 2.2)
    return surface


def _either_way(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


# --- bolt -----------------------------------------------------------------------------------------------

HEAD, NECK, TIP = -78.0, -52.0, 82.0
SHANK_RADIUS, HEAD_RADIUS, PITCH = 15.0, 30.0, 6.4
THREAD_START = -22.0


@dataclass(frozen=True)
class Bolt(Spec):
    """A hexagon bolt lying on its side. `crush` flattens the thread: (from, to, side, share);
    `bend` is how far the tip is bent aside, in pixels; `end` where the shank ends; `roll` how far it has
    rolled about its axis (radians)."""

    pose: Pose = MIDDLE
    roll: float = 0.0
    crush: tuple[float, float, float, float] | None = None
    bend: float = 0.0
    end: float = TIP


def sample_bolt(rng: np.random.Generator) -> Bolt:
    spec = Bolt(any_seed(rng), (), pick_pose(rng, 9, np.pi, 0.02), roll=rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.4:
        where = spec.pose.world(rng.uniform(HEAD, 60), rng.uniform(-8, 8))
        spec = spec.marked(Scuffs(where, 10, 3, 0.12, (90, 90, 92), any_seed(rng)))
    return spec


def build_bolt(spec: Bolt) -> Surface:
    rng = np.random.default_rng(spec.texture)
    surface = belt(rng, (112, 116, 118))
    finish = STEEL * (1 + 0.05 * noise(rng, 2) + 0.05 * noise(rng, 25))[..., None]
    lay_bolt(surface, spec, finish)
    return surface


def lay_bolt(surface: Surface, spec: Bolt, finish: Array) -> None:
    """Draw the bolt on `surface`: shank with thread, hexagonal head, collar."""
    scale = spec.pose.scale
    where = window(*spec.pose.world((HEAD + TIP) / 2, 0), scale * (TIP - HEAD) / 2 + 6)
    view, finish = surface.through(where), finish[where] if finish.ndim == 3 else finish
    u, v = spec.pose.local(where)
    sag = spec.bend * np.clip((u - THREAD_START) / (TIP - THREAD_START), 0, 2) ** 2

    radius = _shank_radius(spec, u, v - sag)
    body = np.maximum(np.abs(v - sag) - radius, np.maximum(NECK - 2 - u, u - spec.end))
    height = np.sqrt(np.clip(radius**2 - (v - sag) ** 2, 0, None)) + SHANK_RADIUS * 0.6
    view.place(cover(scale * body), scale * height, finish, metal=0.8, gloss=0.2)

    u = u - (HEAD + NECK) / 2
    flank = HEAD_RADIUS * (1 - 0.10 * smoothstep(6, 13, np.abs(u)) ** 2)
    head = np.maximum(np.abs(v) - flank, np.abs(u) - 12)
    height = _hexagon(v, spec.roll) - 3 * smoothstep(9, 13, np.abs(u))
    view.place(cover(scale * head), scale * height, finish, 0.75, 0.25)
    collar = np.sqrt(np.clip((HEAD_RADIUS + 3) ** 2 - v**2, 0, None))
    view.place(cover(scale * box(u - 13, v, 2.5, HEAD_RADIUS + 3, 1.5)), scale * collar, finish, 0.8, 0.25)


def _shank_radius(spec: Bolt, u: Array, v: Array) -> Array:
    """Radius along the axis: plain shank, then a helical thread, then a chamfer."""
    lean = np.arcsin(np.clip(v / SHANK_RADIUS, -1, 1)) / (2 * np.pi) + spec.roll / (2 * np.pi)
    turn = u / PITCH + lean
    ridge = np.abs(2 * (turn - np.floor(turn)) - 1)
    depth = 4.2 * smoothstep(0, 5, u - THREAD_START)
    if spec.crush is not None:
        start, stop, side, share = spec.crush
        inside = smoothstep(start - 2, start + 2, u) * smoothstep(stop + 2, stop - 2, u)
        inside = inside * smoothstep(-12, 2, side * v) * share
        ridge = ridge + inside * (0.75 - ridge)
        depth = depth + inside * 1.5
    radius = SHANK_RADIUS - depth * ridge
    chamfer = 7 * smoothstep(-8, 0, u - TIP)
    return radius - chamfer


def _hexagon(v: Array, roll: float) -> Array:
    """Upper surface of a hexagonal prism of circumradius HEAD_RADIUS, a flat within 12 degrees of the top."""
    lean = 0.2 * math.sin(roll)
    apothem = HEAD_RADIUS * 0.87
    faces = []
    for k in (-1, 0, 1):
        angle = lean + k * np.pi / 3
        faces.append((apothem - v * math.sin(angle)) / math.cos(angle))
    return np.clip(np.minimum(np.minimum(faces[0], faces[1]), faces[2]), 4, None)


def bolt_crushed(spec: Bolt, rng: np.random.Generator, ease: float) -> Bolt:
    start, side = rng.uniform(-10, 50), _either_way(rng)
    return replace(spec, crush=(start, start + sized(ease, rng.uniform(18, 32)), side, strength(ease, 0.95)))


def bolt_bent(spec: Bolt, rng: np.random.Generator, ease: float) -> Bolt:
    return replace(spec, bend=float(_either_way(rng) * ease * rng.uniform(13, 22)))


def bolt_broken(spec: Bolt, rng: np.random.Generator, ease: float) -> Bolt:
    return replace(spec, end=TIP - sized(ease, rng.uniform(14, 36)))


def bolt_scratched(spec: Bolt, rng: np.random.Generator, ease: float) -> Bolt:
    u, v = rng.uniform(-70, -30), rng.uniform(-8, 8)
    points = wander(rng, spec.pose.world(u, v), rng.uniform(0, 6.28), sized(ease, rng.uniform(24, 44)), 0.3)
    return spec.marked(Scratch(points, 1.8, 1.2, (40, 38, 38), strength(ease, 0.75)))


def bolt_rust(spec: Bolt, rng: np.random.Generator, ease: float) -> Bolt:
    u = rng.uniform(HEAD, TIP - 12)
    marks = []
    for _ in range(3):
        centre = spec.pose.world(u + rng.normal(0, 8), rng.normal(0, 7))
        radius = sized(ease, rng.uniform(6, 12))
        marks.append(
            Blot(centre, radius, (140, 76, 34), strength(ease, 0.7), any_seed(rng), softness=4, speckle=1.2)
        )
    return spec.marked(*marks)


# --- flange ---------------------------------------------------------------------------------------------

RIM, BORE, PITCH_CIRCLE, HOLE, HUB = 98.0, 30.0, 72.0, 10.0, 48.0


@dataclass(frozen=True)
class Flange(Spec):
    """A turned flange from above: six bolt holes, raised hub, bore with chamfer. `holes` are their (radius,
    angle) on the part; `bite` is a piece broken off the rim: (angle, radius, depth)."""

    pose: Pose = MIDDLE
    holes: tuple[tuple[float, float], ...] = ()
    bite: tuple[float, float] | None = None


def sample_flange(rng: np.random.Generator) -> Flange:
    holes = tuple((PITCH_CIRCLE, k * np.pi / 3) for k in range(6))
    spec = Flange(any_seed(rng), (), pick_pose(rng, 5, 0.2, 0.012), holes)
    if rng.random() < 0.5:
        spec = spec.marked(_scuff(spec, rng))
    return spec


def _scuff(spec: Flange, rng: np.random.Generator) -> Mark:
    angle = rng.uniform(0, 6.28)
    where = spec.pose.world(PITCH_CIRCLE * math.cos(angle), PITCH_CIRCLE * math.sin(angle))
    return Scuffs(where, 14, 4, 0.12, (225, 225, 228), any_seed(rng))


def build_flange(spec: Flange) -> Surface:
    rng = np.random.default_rng(spec.texture)
    surface = belt(rng, (74, 82, 92), grain=0.07)
    u, v = spec.pose.local()
    radius = np.hypot(u, v)
    rings = _turning_marks(rng, radius)
    finish = rgb(186, 188, 190) * (1 + 0.09 * rings + 0.04 * noise(rng, 2) + 0.04 * noise(rng, 50))[..., None]
    finish = finish * _anisotropic(u, v, spec.pose.angle)[..., None]

    outline = np.maximum(radius - RIM, BORE - radius)
    holes = np.full_like(radius, 999)
    for distance, angle in spec.holes:
        hole = spec.pose.at(distance * math.cos(angle), distance * math.sin(angle))
        where = window(hole.x, hole.y, HOLE + 8)
        np.minimum(holes[where], np.hypot(*hole.local(where)) - HOLE, out=holes[where])
    if spec.bite is not None:
        angle, size = spec.bite
        jagged = size * (1 + 0.12 * np.sin(u * 0.5) + 0.12 * np.cos(v * 0.6))
        bite = np.hypot(u - RIM * math.cos(angle), v - RIM * math.sin(angle)) - jagged
        outline = np.maximum(outline, -bite)
    height = 13 + 7 * smoothstep(HUB + 2, HUB - 2, radius) - 0.9 * smoothstep(-3, 0, radius - RIM) * 3
    height = height - 3.5 * smoothstep(BORE + 4, BORE, radius) - 2.5 * smoothstep(2.5, 0, holes)
    height = height - 1.2 * np.exp(-(((radius - 90) / 1.3) ** 2)) + 0.10 * rings
    surface.place(
        cover(np.maximum(outline, -holes)), height.astype(np.float32), finish, metal=0.35, gloss=0.12
    )
    return surface


def _turning_marks(rng: np.random.Generator, radius: Array) -> Array:
    """Concentric marks of the lathe tool."""
    profile = rng.normal(0, 1, 1200).astype(np.float32)
    profile = np.convolve(profile, np.ones(4) / 2, mode="same")
    return np.interp(radius * 4, np.arange(1200), profile).astype(np.float32)


def _anisotropic(u: Array, v: Array, angle: float) -> Array:
    """The bow-tie of light on a turned face; it stays with the lamp when the part turns."""
    return 1 + 0.28 * np.cos(2 * (np.arctan2(v, u) + angle + 0.9))


def _hole(rng: np.random.Generator) -> int:
    return int(rng.integers(6))


def flange_missing_hole(spec: Flange, rng: np.random.Generator, ease: float) -> Flange:
    gone = _hole(rng)
    return replace(spec, holes=tuple(h for k, h in enumerate(spec.holes) if k != gone))


def flange_misplaced_hole(spec: Flange, rng: np.random.Generator, ease: float) -> Flange:
    moved, holes = _hole(rng), list(spec.holes)
    radius, angle = holes[moved]
    off = sized(ease, rng.uniform(6, 11))
    heading = rng.uniform(0, 6.28)
    holes[moved] = (radius + 0.6 * off * np.cos(heading), angle + off * np.sin(heading) / radius)
    return replace(spec, holes=tuple(holes))


def flange_chipped(spec: Flange, rng: np.random.Generator, ease: float) -> Flange:
    return replace(spec, bite=(rng.uniform(0, 6.28), sized(ease, rng.uniform(5, 12))))


def on_face(spec: Flange, rng: np.random.Generator) -> tuple[float, float]:
    """A pixel on the flange's face."""
    radius, angle = rng.uniform(BORE + 6, RIM - 8), rng.uniform(0, 6.28)
    return spec.pose.world(radius * math.cos(angle), radius * math.sin(angle))


def flange_scratched(spec: Flange, rng: np.random.Generator, ease: float) -> Flange:
    points = wander(rng, on_face(spec, rng), rng.uniform(0, 6.28), sized(ease, rng.uniform(35, 80)), 0.3)
    colour = [(240, 240, 242), (58, 58, 60)][rng.integers(2)]
    return spec.marked(Scratch(points, 1.2, 0.8, colour, strength(ease, 0.55)))


def flange_stained(spec: Flange, rng: np.random.Generator, ease: float) -> Flange:
    colour = [(92, 74, 40), (70, 52, 84)][rng.integers(2)]
    radius = sized(ease, rng.uniform(11, 22))
    return spec.marked(
        Blot(on_face(spec, rng), radius, colour, strength(ease, 0.36), any_seed(rng), softness=5, rim=0.3)
    )


def flange_swarf(spec: Flange, rng: np.random.Generator, ease: float) -> Flange:
    start = on_face(spec, rng)
    curl = wander(rng, start, rng.uniform(0, 6.28), sized(ease, rng.uniform(30, 55)), 0.1)
    turns = np.linspace(0, rng.uniform(9, 15), len(curl) * 4)
    path = np.array(curl).repeat(4, axis=0) + 3.5 * np.stack([np.cos(turns), np.sin(turns)], 1)
    return spec.marked(Fibre([tuple(p) for p in path.tolist()], 1.6, (206, 190, 150), strength(ease, 0.85)))


# --- chip -----------------------------------------------------------------------------------------------

LEADS = 7
LEAD_PITCH, BODY_HALF_LENGTH, BODY_HALF_WIDTH = 19.0, 72.0, 38.0
RESISTORS = ((-74.0, -92.0), (-24.0, -92.0), (66.0, -92.0), (-70.0, 94.0), (28.0, 94.0))


@dataclass(frozen=True)
class Chip(Spec):
    """A small-outline chip soldered on a green board, with five resistors. `leads` holds (u, side, bend) of
    each lead, `resistors` (u, v, angle) of each; `bridges` (u, side) of solder between a lead and the next;
    `lot` is the number printed on the package."""

    pose: Pose = MIDDLE
    leads: tuple[tuple[float, int, float], ...] = ()
    resistors: tuple[tuple[float, float, float], ...] = ()
    bridges: tuple[tuple[float, int], ...] = ()
    lot: str = ""


def sample_chip(rng: np.random.Generator) -> Chip:
    first = -(LEADS - 1) / 2 * LEAD_PITCH
    leads = tuple((first + k * LEAD_PITCH, side, 0.0) for side in (-1, 1) for k in range(LEADS))
    resistors = tuple(
        (u + rng.normal(0, 0.6), v + rng.normal(0, 0.6), rng.normal(0, 0.02)) for u, v in RESISTORS
    )
    lot = f"{rng.integers(23, 27)}{rng.integers(10, 53)}"
    return Chip(any_seed(rng), (), pick_pose(rng, 7, 0.07, 0.015), leads, resistors, lot=lot)


def build_chip(spec: Chip) -> Surface:
    rng = np.random.default_rng(spec.texture)
    surface = _board(rng, spec.pose)
    solder = rgb(188, 190, 192)
    wobble = rng.normal(0, 0.4, (2 * LEADS, 2)).tolist()
    first = -(LEADS - 1) / 2 * LEAD_PITCH
    for k in range(2 * LEADS):
        pad = spec.pose.at(first + (k % LEADS) * LEAD_PITCH, 58.0 * (1 if k >= LEADS else -1))
        _solder(surface, pad, solder, 6.2 + wobble[k][0], 10 + wobble[k][1])
    for at, side, bend in spec.leads:
        _lead(surface, spec.pose.at(at, side * (BODY_HALF_WIDTH + 10), 0 if side > 0 else np.pi), side * bend)
    for at, side in spec.bridges:
        _solder(surface, spec.pose.at(at + LEAD_PITCH / 2, side * 57), solder, LEAD_PITCH / 2 + 1, 3.5)
    for number, (ru, rv, angle) in enumerate(spec.resistors):
        _resistor(surface, spec.pose.at(ru, rv, angle), "103" if number % 2 else "472")
    _package(surface, rng, spec)
    return surface


def _board(rng: np.random.Generator, pose: Pose) -> Surface:
    """Solder mask over glass weave, copper tracks, pads and drilled vias."""
    u, v = pose.local()
    surface = Surface.flat(rgb(26, 92, 58), gloss=0.03)
    weave = np.sin(u * 1.1) * np.sin(v * 1.1)
    surface.albedo *= (1 + 0.05 * weave + 0.05 * noise(rng, 2) + 0.06 * noise(rng, 60))[..., None]
    lane = np.abs(u - np.round(u / LEAD_PITCH) * LEAD_PITCH)  # distance to the nearest lead's axis
    runs = np.maximum(lane - 2.2, np.abs(np.abs(v) - 84) - 28)
    runs = np.maximum(runs, np.abs(u) - LEADS / 2 * LEAD_PITCH)
    tracks = np.minimum(runs, np.abs(np.abs(v) - 112) - 3)
    share = cover(tracks)
    surface.paint(0.8 * share, rgb(46, 128, 80))
    surface.height += 0.8 * cover(tracks, 2)
    for at, side in ((-100, -1), (-100, 1), (104, -1), (100, 1)):
        _via(surface, pose.at(at, side * 30))
    outline = np.abs(box(u, v, BODY_HALF_LENGTH + 9, BODY_HALF_WIDTH + 37)) - 0.7
    surface.paint(0.8 * cover(outline), rgb(222, 226, 220))
    return surface


def _via(surface: Surface, pose: Pose) -> None:
    where = window(pose.x, pose.y, 12)
    view, distance = surface.through(where), np.hypot(*pose.local(where))
    view.place(cover(np.abs(distance - 5) - 2.4), np.full_like(distance, 1.2), rgb(204, 170, 92), 0.5, 0.2)
    view.paint(cover(distance - 2.8), rgb(12, 14, 12))


def _solder(surface: Surface, pose: Pose, colour: Array, half_width: float, half_height: float) -> None:
    """A pillow of solder."""
    where = window(pose.x, pose.y, 1.5 * max(half_width, half_height) + 2)
    u, v = pose.local(where)
    distance = box(u, v, half_width, half_height, 2.5)
    dome = 3 * np.sqrt(np.clip(-distance / 5, 0, 1)) + 0.8
    surface.through(where).place(cover(distance), dome, colour, metal=0.65, gloss=0.35)


def _lead(surface: Surface, pose: Pose, bend: float) -> None:
    """A gull-wing lead down to its pad, 10 px out of the package; `bend` moves its foot sideways."""
    where = window(pose.x, pose.y, 30)
    u, v = pose.local(where)
    out = v + 10
    across = u - bend * np.clip(out / 24, 0, 1.2)
    distance = np.maximum(np.abs(across) - 3.6, np.maximum(-4 - out, out - 24))
    fall = 12 - 9 * smoothstep(5, 14, out) - 0.05 * across**2
    surface.through(where).place(cover(distance), fall, rgb(204, 205, 206), metal=0.7, gloss=0.3)


def _resistor(surface: Surface, pose: Pose, text: str) -> None:
    where = window(pose.x, pose.y, 26)
    u, v = pose.local(where)
    for end in (-1, 1):
        _solder(surface, pose.at(14 * end, 0), rgb(190, 192, 194), 6, 8.5)
    view = surface.through(where)
    view.place(cover(box(u, v, 14, 7.5, 1)), np.full_like(u, 6), rgb(202, 203, 205), 0.6, 0.3)
    view.place(cover(box(u, v, 9.5, 7.5)), np.full_like(u, 6.5), rgb(34, 34, 38), 0.0, 0.05)
    view.paint(0.85 * pose.stamp(printed(text, 40), 4.2, where), rgb(222, 222, 222))


def _package(surface: Surface, rng: np.random.Generator, spec: Chip) -> None:
    """Black moulded body with chamfered rim, notch, pin-one dimple and laser print."""
    pose = spec.pose
    where = window(pose.x, pose.y, BODY_HALF_LENGTH + 12)
    view, (u, v) = surface.through(where), pose.local(where)
    distance = box(u, v, BODY_HALF_LENGTH, BODY_HALF_WIDTH, 3)
    grain = noise(rng, 1.5)[where]
    height = 20 - 6 * smoothstep(-7, 0, distance) + 0.10 * grain
    notch = np.hypot(u + BODY_HALF_LENGTH, v) - 9
    dimple = np.hypot(u + 58, v - 25) - 5
    height = height - 2.5 * cover(notch, 2) - 2 * cover(dimple, 2)
    colour = rgb(50, 50, 53) * (1 + 0.10 * grain)[..., None]
    view.place(cover(distance), height, colour, 0.0, 0.06)
    for row, text, size in ((-11, "AD74L05", 72), (13, spec.lot, 60)):
        view.paint(0.62 * pose.at(2, row).stamp(printed(text, size), 4.0, where), rgb(190, 190, 186))


@cache
def printed(text: str, height: int) -> Image.Image:
    """White text on black, `height` pixels high, with a small margin."""
    font = ImageFont.load_default(height)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(picture).text((4 - left, 4 - top), text, fill=255, font=font)
    return picture


def chip_bent_lead(spec: Chip, rng: np.random.Generator, ease: float) -> Chip:
    leads, k = list(spec.leads), int(rng.integers(2 * LEADS))
    at, side, _ = leads[k]
    leads[k] = (at, side, float(_either_way(rng) * sized(ease, rng.uniform(3.5, 7.5))))
    return replace(spec, leads=tuple(leads))


def chip_missing_lead(spec: Chip, rng: np.random.Generator, ease: float) -> Chip:
    gone = int(rng.integers(2 * LEADS))
    return replace(spec, leads=tuple(lead for k, lead in enumerate(spec.leads) if k != gone))


def chip_bridge(spec: Chip, rng: np.random.Generator, ease: float) -> Chip:
    at, side, _ = spec.leads[int(rng.integers(LEADS - 1)) + LEADS * int(rng.integers(2))]
    return replace(spec, bridges=((at, side),))


def chip_shifted(spec: Chip, rng: np.random.Generator, ease: float) -> Chip:
    parts, k = list(spec.resistors), int(rng.integers(len(spec.resistors)))
    u, v, _ = parts[k]
    turn = _either_way(rng) * min(sized(ease, rng.uniform(0.15, 0.4)), 1.5)
    parts[k] = (u + rng.normal(0, 2), v + rng.normal(0, 2), turn)
    return replace(spec, resistors=tuple(parts))


def chip_scratched(spec: Chip, rng: np.random.Generator, ease: float) -> Chip:
    start = spec.pose.world(rng.uniform(-50, 50), rng.uniform(-25, 25))
    points = wander(rng, start, rng.uniform(0, 6.28), sized(ease, rng.uniform(30, 60)), 0.3)
    return spec.marked(Scratch(points, 1.3, 1.0, (150, 148, 144), strength(ease, 0.30)))


def chip_flux(spec: Chip, rng: np.random.Generator, ease: float) -> Chip:
    centre = spec.pose.world(rng.uniform(-80, 80), _either_way(rng) * rng.uniform(55, 90))
    radius, opacity = sized(ease, rng.uniform(6, 12)), strength(ease, 0.3)
    return spec.marked(
        Blot(centre, radius, (196, 160, 84), opacity, any_seed(rng), rise=1.5, gloss=0.3, softness=4)
    )


BOLT = Product(
    "bolt",
    sample_bolt,
    build_bolt,
    {
        "crushed_thread": bolt_crushed,
        "bent": bolt_bent,
        "broken_tip": bolt_broken,
        "scratch": bolt_scratched,
        "rust": bolt_rust,
    },
    shadows=True,
)
FLANGE = Product(
    "flange",
    sample_flange,
    build_flange,
    {
        "missing_hole": flange_missing_hole,
        "misplaced_hole": flange_misplaced_hole,
        "chipped_rim": flange_chipped,
        "scratch": flange_scratched,
        "stain": flange_stained,
        "swarf": flange_swarf,
    },
    shadows=True,
)
CHIP = Product(
    "chip",
    sample_chip,
    build_chip,
    {
        "bent_lead": chip_bent_lead,
        "missing_lead": chip_missing_lead,
        "solder_bridge": chip_bridge,
        "shifted_part": chip_shifted,
        "scratch": chip_scratched,
        "flux": chip_flux,
    },
    shadows=True,
)
