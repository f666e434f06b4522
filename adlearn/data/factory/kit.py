"""The logical kit: a tray whose normal state is a rule, not a look.

The sticker decides the contents: a blue tray holds three bolts and two washers, an orange one two bolts and
three washers. Bolts lie in the upper left compartment, washers in the upper right, one battery in the lower
left with its pole to the right. Layout and masks follow MVTec LOCO (Bergmann et al., IJCV 2022).
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from .canvas import Pose, X, Y, box, cover, noise, rgb, smoothstep, stream, wander, window
from .defects import Blot, Fibre, Mark, Scratch, any_seed, sized, strength
from .layout import Order, Task, save_png
from .objects import STEEL, Bolt, belt, lay_bolt, printed
from .pictures import changed, photograph
from .surface import Light, Surface

CONTENTS = {"blue": (3, 2), "orange": (2, 3)}  # sticker: bolts, washers
_COLOURS = {"blue": rgb(52, 96, 190), "orange": rgb(228, 128, 36)}
# Compartments as (x, y, half width, half height)
BOLTS, WASHERS = (84.0, 78.0, 66.0, 62.0), (198.0, 78.0, 44.0, 62.0)
BATTERY, STICKER = (84.0, 197.0, 66.0, 46.0), (198.0, 197.0, 44.0, 46.0)
_BOLT_SCALE, _WASHER = 0.46, (19.0, 9.5)
_BOLT_SLOTS = tuple((84.0, 34.0 + 29.5 * k) for k in range(4))
_WASHER_SLOTS = tuple((x, y) for x in (176.0, 220.0) for y in (52.0, 104.0))
AREA = {"bolt": 1090, "washer": 850, "battery": 4010, "sticker": 4250}  # pixels, for the saturation rules


@dataclass(frozen=True)
class Item:
    """One thing in the tray: "bolt", "washer" or "battery"; `bend` and `gap` are structural damage."""

    kind: str
    pose: Pose
    bend: float = 0.0
    gap: float = 0.0


@dataclass(frozen=True)
class Tray:
    """Sticker colour, where the tray lies, what is in it and what happened to it."""

    sticker: str
    pose: Pose
    items: tuple[Item, ...]
    texture: int
    marks: tuple[Mark, ...] = ()

    def of(self, kind: str) -> list[Item]:
        return [item for item in self.items if item.kind == kind]

    def without(self, *gone: Item) -> "Tray":
        return replace(self, items=tuple(item for item in self.items if item not in gone))

    def plus(self, *new: Item) -> "Tray":
        return replace(self, items=(*self.items, *new))


@dataclass(frozen=True)
class Anomaly:
    """What went wrong and where: each mask is one defect, as MVTec LOCO stores them."""

    name: str
    tray: Tray
    masks: tuple[np.ndarray, ...]


def sample_tray(rng: np.random.Generator) -> Tray:
    sticker = "blue" if rng.random() < 0.5 else "orange"
    pose = Pose(128 + rng.uniform(-2, 2), 128 + rng.uniform(-2, 2), rng.normal(0, 0.008))
    bolts, washers = CONTENTS[sticker]
    items = [_bolt(rng, pose, slot) for slot in _chosen(rng, _BOLT_SLOTS, bolts)]
    items += [_washer(rng, pose, slot) for slot in _chosen(rng, _WASHER_SLOTS, washers)]
    centre = pose.at(
        BATTERY[0] - 128 + rng.normal(0, 1), BATTERY[1] - 128 + rng.normal(0, 5), rng.normal(0, 0.05)
    )
    return Tray(sticker, pose, (*items, Item("battery", centre)), any_seed(rng))


def _chosen(rng: np.random.Generator, slots: tuple, count: int) -> list:
    return [slots[k] for k in sorted(rng.permutation(len(slots))[:count].tolist())]


def _bolt(rng: np.random.Generator, tray: Pose, slot: tuple[float, float]) -> Item:
    heading = rng.normal(0, 0.07) + (math.pi if rng.random() < 0.5 else 0)
    spot = tray.at(slot[0] - 128 + rng.normal(0, 4), slot[1] - 128 + rng.normal(0, 1), heading)
    return Item("bolt", replace(spot, scale=_BOLT_SCALE))


def _washer(rng: np.random.Generator, tray: Pose, slot: tuple[float, float]) -> Item:
    spot = tray.at(slot[0] - 128 + rng.normal(0, 1.5), slot[1] - 128 + rng.normal(0, 3), rng.uniform(0, 6.28))
    return Item("washer", spot)


# --- drawing --------------------------------------------------------------------------------------------


def build_tray(tray: Tray) -> Surface:
    rng = np.random.default_rng(tray.texture)
    surface = belt(rng, (150, 148, 142))
    u, v = tray.pose.local()
    plastic = rgb(52, 56, 62) * (1 + 0.06 * noise(rng, 1.5) + 0.05 * noise(rng, 60))[..., None]
    floor = np.full_like(u, 999)
    for x, y, half_width, half_height in (BOLTS, WASHERS, BATTERY, STICKER):
        floor = np.minimum(floor, box(u - (x - 128), v - (y - 128), half_width, half_height, 8))
    height = 4 + 9 * smoothstep(-2, 3, floor) + 0.1 * noise(rng, 1.5)
    surface.place(cover(box(u, v, 122, 122, 12)), height, plastic, 0.0, 0.05)
    _lay_sticker(surface, tray)
    roll = rng.uniform(0, 6.28, len(tray.items) + 2)
    for number, item in enumerate(tray.items):
        _LAY[item.kind](surface, item, float(roll[number % len(roll)]))
    for mark in tray.marks:
        mark(surface)
    return surface


def _lay_sticker(surface: Surface, tray: Tray) -> None:
    spot = tray.pose.at(STICKER[0] - 128, STICKER[1] - 128)
    where = window(spot.x, spot.y, 48)
    u, v = spot.local(where)
    view = surface.through(where)
    label = cover(box(u, v, 30, 36, 4))
    view.paint(label, rgb(232, 231, 226))
    view.paint(cover(box(u, v + 16, 30, 20, 4)), _COLOURS[tray.sticker])
    title = printed("KIT A" if tray.sticker == "blue" else "KIT B", 60)
    view.paint(0.95 * spot.at(0, -16).stamp(title, 4.2, where), rgb(245, 245, 245))
    bars = (np.sin(u * 1.9) + np.sin(u * 3.1 + 1) > 0.1) & (np.abs(u) < 24) & (np.abs(v - 17) < 11)
    view.paint(0.85 * bars.astype(np.float32), rgb(24, 24, 26))


def _lay_bolt(surface: Surface, item: Item, roll: float) -> None:
    lay_bolt(surface, Bolt(0, pose=item.pose, roll=roll, bend=item.bend), STEEL)


def _lay_washer(surface: Surface, item: Item, roll: float) -> None:
    where = window(item.pose.x, item.pose.y, _WASHER[0] + 4)
    u, v = item.pose.local(where)
    radius = np.hypot(u, v)
    ring = np.maximum(radius - _WASHER[0], _WASHER[1] - radius)
    if item.gap:
        ring = np.maximum(ring, item.gap - np.abs(v) - 99 * (u < 0))
    height = 8 - 1.5 * smoothstep(-2.5, 0, ring) + 0.15 * np.sin(radius * 4 + roll)
    surface.through(where).place(cover(ring), height, rgb(206, 186, 132), 0.65, 0.25)


def _lay_battery(surface: Surface, item: Item, roll: float) -> None:
    where = window(item.pose.x, item.pose.y, 66)
    u, v = item.pose.local(where)
    view = surface.through(where)
    length, radius = 52.0, 19.0
    rounding = np.sqrt(np.clip(radius**2 - v**2, 0, None))
    edge = 2 * smoothstep(length - 4, length, np.abs(u))
    body = np.maximum(np.abs(u) - length, np.abs(v) - radius)
    copper = smoothstep(20, 20.6, u)[..., None]
    colour = rgb(36, 36, 40) + copper * (rgb(206, 132, 72) - rgb(36, 36, 40))
    nub = np.maximum(np.abs(u - length - 2) - 3, np.abs(v) - 6)
    view.place(cover(nub), 6 + np.sqrt(np.clip(36 - v**2, 0, None)), rgb(200, 201, 203), 0.7, 0.3)
    view.place(cover(body), 6 + rounding - edge, colour, 0.15, 0.45)
    print_ = item.pose.at(-16, 0).stamp(printed("AA 1.5V", 64), 4.6, where)
    view.paint(0.9 * print_, rgb(226, 200, 120))


_LAY: dict[str, Callable[[Surface, Item, float], None]] = {
    "bolt": _lay_bolt,
    "washer": _lay_washer,
    "battery": _lay_battery,
}


# --- logical anomalies ----------------------------------------------------------------------------------


def _compartment(place: tuple[float, float, float, float]) -> np.ndarray:
    x, y, half_width, half_height = place
    return box(X - x, Y - y, half_width, half_height, 8) < 0


def _outline(*items: Item) -> np.ndarray:
    """The pixels that `items` cover."""
    surface = Surface.flat(rgb(0, 0, 0), part=0.0)
    for item in items:
        _LAY[item.kind](surface, item, 0.0)
    return surface.part > 0.5


def _missing(
    kind: str, place: tuple[float, float, float, float], tray: Tray, rng: np.random.Generator
) -> Anomaly:
    gone = tray.of(kind)[int(rng.integers(len(tray.of(kind))))]
    left = tray.without(gone)
    free = _compartment(place) & ~_outline(*left.of(kind))
    return Anomaly(f"missing_{kind}", left, (free,))


def _extra_bolt(tray: Tray, rng: np.random.Generator) -> Anomaly:
    taken = {round(item.pose.y / 29.5) for item in tray.of("bolt")}
    free = [slot for slot in _BOLT_SLOTS if round(slot[1] / 29.5) not in taken]
    more = tray.plus(_bolt(rng, tray.pose, free[int(rng.integers(len(free)))]))
    return Anomaly("extra_bolt", more, (_outline(*more.of("bolt")),))


def _extra_washer(tray: Tray, rng: np.random.Generator) -> Anomaly:
    more = tray.plus(_washer(rng, tray.pose, _free_washer_slot(tray)))
    return Anomaly("extra_washer", more, (_outline(*more.of("washer")),))


def _free_washer_slot(tray: Tray) -> tuple[float, float]:
    def gap(slot: tuple[float, float]) -> float:
        return min(math.hypot(i.pose.x - slot[0], i.pose.y - slot[1]) for i in tray.of("washer"))

    return max(_WASHER_SLOTS, key=gap)


def _swapped(tray: Tray, rng: np.random.Generator) -> Anomaly:
    """A washer lies among the bolts and a bolt among the washers; the counts are right."""
    bolt, washer = tray.of("bolt")[0], tray.of("washer")[0]
    others = tray.without(*tray.of("washer"))
    moved_bolt = replace(bolt, pose=replace(bolt.pose, x=198.0, y=washer.pose.y))
    moved_washer = replace(washer, pose=replace(washer.pose, x=bolt.pose.x, y=bolt.pose.y))
    spare = [slot for slot in _WASHER_SLOTS if abs(slot[1] - washer.pose.y) > 30]
    kept = [_washer(rng, tray.pose, slot) for slot in spare[: len(tray.of("washer")) - 1]]
    swapped = others.without(bolt).plus(moved_washer, moved_bolt, *kept)
    return Anomaly("swapped", swapped, (_outline(moved_bolt), _outline(moved_washer)))


def _wrong_sticker(tray: Tray, rng: np.random.Generator) -> Anomaly:
    """Each part alone is normal: the sticker and the contents do not belong together."""
    wrong = replace(tray, sticker="orange" if tray.sticker == "blue" else "blue")
    spot = tray.pose.at(STICKER[0] - 128, STICKER[1] - 128)
    sticker = box(*spot.local(), 30, 36, 4) < 0
    return Anomaly("wrong_combination", wrong, (sticker | _compartment(BOLTS) | _compartment(WASHERS),))


def _reversed_battery(tray: Tray, rng: np.random.Generator) -> Anomaly:
    battery = tray.of("battery")[0]
    turned = replace(battery, pose=replace(battery.pose, angle=battery.pose.angle + math.pi))
    return Anomaly("reversed_battery", tray.without(battery).plus(turned), (_outline(battery, turned),))


LOGICAL: tuple[Callable[[Tray, np.random.Generator], Anomaly], ...] = (
    partial(_missing, "bolt", BOLTS),
    partial(_missing, "washer", WASHERS),
    partial(_missing, "battery", BATTERY),
    _extra_bolt,
    _extra_washer,
    _swapped,
    _wrong_sticker,
    _reversed_battery,
)


# --- structural anomalies -------------------------------------------------------------------------------


def _damaged(tray: Tray, item: Item, **damage: float) -> Tray:
    return replace(tray, items=tuple(replace(i, **damage) if i is item else i for i in tray.items))


def _bent_bolt(tray: Tray, rng: np.random.Generator, ease: float) -> Tray:
    bend = sized(ease, rng.uniform(12, 20)) * (1 if rng.random() < 0.5 else -1)
    return _damaged(tray, tray.of("bolt")[0], bend=bend)


def _broken_washer(tray: Tray, rng: np.random.Generator, ease: float) -> Tray:
    return _damaged(tray, tray.of("washer")[0], gap=sized(ease, rng.uniform(3, 6)))


def _scratched_battery(tray: Tray, rng: np.random.Generator, ease: float) -> Tray:
    start = tray.of("battery")[0].pose.world(rng.uniform(-30, 20), rng.uniform(-10, 10))
    points = wander(rng, start, rng.uniform(0, 6.28), sized(ease, rng.uniform(25, 45)), 0.4)
    return replace(tray, marks=(Scratch(points, 1.6, 1.0, (210, 210, 208), strength(ease, 0.7)),))


def _leaking_battery(tray: Tray, rng: np.random.Generator, ease: float) -> Tray:
    centre = tray.of("battery")[0].pose.world(rng.choice([-50.0, 50.0]), rng.uniform(-12, 12))
    radius = sized(ease, rng.uniform(8, 14))
    crust = Blot(
        centre, radius, (206, 214, 204), strength(ease, 0.8), any_seed(rng), rise=4, softness=3, speckle=1.5
    )
    return replace(tray, marks=(crust,))


def _hair(tray: Tray, rng: np.random.Generator, ease: float) -> Tray:
    start = tuple(rng.uniform(60, 196, 2).tolist())
    points = wander(rng, start, rng.uniform(0, 6.28), sized(ease, rng.uniform(50, 90)), 2.0)
    return replace(tray, marks=(Fibre(points, 1.5, (226, 222, 210), strength(ease, 0.85)),))


STRUCTURAL: dict[str, Callable[[Tray, np.random.Generator, float], Tray]] = {
    "bent_bolt": _bent_bolt,
    "broken_washer": _broken_washer,
    "scratched_battery": _scratched_battery,
    "leaking_battery": _leaking_battery,
    "hair": _hair,
}

# Pixel value and saturation of every defect, as in MVTec LOCO: where any one of several parts may be pointed
# at, finding the area of one is enough; elsewhere all of the mask is asked for.
_ABSOLUTE = {
    "missing_bolt": AREA["bolt"],
    "missing_washer": AREA["washer"],
    "missing_battery": AREA["battery"],
    "extra_bolt": AREA["bolt"],
    "extra_washer": AREA["washer"],
    "wrong_combination": AREA["sticker"],
    "reversed_battery": AREA["battery"],
}
_NAMES = (*_ABSOLUTE, "swapped", *STRUCTURAL)
PIXEL_VALUE = {name: 255 - number for number, name in enumerate(_NAMES)}


def defects_config() -> list[dict[str, object]]:
    """The content of `defects_config.json`."""
    return [
        {
            "defect_name": name,
            "pixel_value": PIXEL_VALUE[name],
            "saturation_threshold": _ABSOLUTE.get(name, 1.0),
            "relative_saturation": name not in _ABSOLUTE,
        }
        for name in _NAMES
    ]


# --- pictures -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KitPicture:
    """`image` (H, W, 3) uint8; `name` of the anomaly or "good"; `masks`, one (H, W) bool per defect."""

    image: np.ndarray
    name: str
    masks: tuple[np.ndarray, ...]


def kit_picture(task: Task, seed: int, difficulty: float) -> KitPicture:
    """Draw one tray: `task.kind` is "good", "logical_anomalies" or "structural_anomalies"; the anomaly is
    chosen by the picture's number, so that all occur equally often."""
    keys = (seed, "kit", task.split, task.kind, task.index)
    tray = sample_tray(stream(*keys, "tray"))
    light = Light.sample(stream(*keys, "light"))
    rng = stream(*keys, "defect")
    if task.kind == "good":
        return KitPicture(photograph(build_tray(tray), light), "good", ())
    if task.kind == "logical_anomalies":
        anomaly = LOGICAL[task.index % len(LOGICAL)](tray, rng)
        return KitPicture(photograph(build_tray(anomaly.tray), light), anomaly.name, anomaly.masks)
    name = list(STRUCTURAL)[task.index % len(STRUCTURAL)]
    clean = photograph(build_tray(tray), light)
    image = photograph(build_tray(STRUCTURAL[name](tray, rng, 1 / difficulty)), light)
    mask = changed(image, clean)
    return KitPicture(np.where(mask[..., None], image, clean), name, (mask,))


def kit_order(folder: Path, seed: int, difficulty: float, version: int) -> Order:
    """How to draw the kit's folder: 80 train, 20 validation, test 30 good, 40 logical, 40 structural."""
    counts = {("train", "good"): 80, ("validation", "good"): 20, ("test", "good"): 30}
    counts |= {("test", "logical_anomalies"): 40, ("test", "structural_anomalies"): 40}
    tasks = [Task(split, kind, i) for (split, kind), count in counts.items() for i in range(count)]
    manifest = {"version": version, "product": "kit", "seed": seed, "difficulty": difficulty}
    write = partial(_write, seed=seed, difficulty=difficulty)
    return Order(folder / "kit", tasks, write, manifest, _write_config)


def _write(folder: Path, task: Task, seed: int, difficulty: float) -> None:
    drawn, stem = kit_picture(task, seed, difficulty), f"{task.index:03d}"
    save_png(folder / task.split / task.kind / f"{stem}.png", drawn.image)
    for number, mask in enumerate(drawn.masks):
        values = np.where(mask, PIXEL_VALUE[drawn.name], 0).astype(np.uint8)
        save_png(folder / "ground_truth" / task.kind / stem / f"{number:03d}.png", values)


def _write_config(folder: Path) -> None:
    text = json.dumps(defects_config(), indent=2)
    (folder / "defects_config.json").write_text(text, encoding="utf-8")
