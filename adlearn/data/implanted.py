"""`implanted`: real solar cells with drawn defects, so that real background comes with exact masks.

ELPV (Buerhop-Lutz et al., 2018) has labels for whole cells only. Here the defects electroluminescence shows
(cracks, interrupted fingers, inactive areas, dark spots) are drawn into normal cells that are neither in
train nor among the normal test images. They darken the cell multiplicatively, as missing light does.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.signal import find_peaks
from scipy.special import expit

from .. import paths
from ..errors import DataError
from .base import AnomalyDataset, Benchmark, Sample, Size
from .elpv import elpv
from .factory.canvas import stream
from .factory.layout import Order, Task, fulfil, save_png
from .factory.pictures import changed

VERSION = 2
TOLERANCE = 4  # grey levels: a smaller change is not part of the defect
# Share of a full defect's darkening, drawn log-uniformly: about as hard to find as real defects. The crystal
# pattern of polycrystalline cells hides what would be plain on monocrystalline ones.
STRENGTH = {"mono": (0.1, 0.6), "poly": (0.4, 1.0)}
_NORMALS = 75  # of ELPV's 150 normal test cells; the others get a defect
_SUPERSAMPLING = 4
_BORDER = 5  # pixels of frame around a cell

Array = NDArray[np.float32]
Points = list[tuple[float, float]]
Darken = Callable[[Array, np.random.Generator], Array]


def implant(
    cell: np.ndarray, kind: str, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a defect of `kind` into a normal cell, (H, W) uint8: the new cell, and its mask (H, W) bool.

    `strength` in (0, 1] is the share of the full darkening. Outside the mask the cell is unchanged to the
    byte. Raises `DataError` for an unknown kind or a cell that is not grey 8 bit.
    """
    if kind not in KINDS:
        raise DataError(f"cannot implant {kind!r}: choose one of {', '.join(KINDS)}")
    if cell.ndim != 2 or cell.dtype != np.uint8:
        raise DataError(f"a cell must be (H, W) uint8, got {cell.shape} {cell.dtype}")
    light = cell.astype(np.float32)
    left = 1 - strength * (1 - KINDS[kind](light, rng))
    darker = np.clip(light * left + 0.5, 0, 255).astype(np.uint8)
    mask = changed(darker[..., None], cell[..., None], TOLERANCE)
    return np.where(mask, darker, cell), mask


def benchmark(cell_type: str, size: Size = 224, folder: Path | None = None, seed: int = 0) -> Benchmark:
    """ELPV's own train and validation cells; test: 75 normal cells and 75 with an implanted defect.

    The implanted cells are written once to `folder` (default: `implanted` in the data folder). Raises
    `DataError` for an unknown cell type and `StorageError` if the folder cannot be written.
    """
    real = elpv(cell_type, size)
    normals = [sample for sample in real.test.samples if sample.label == 0]
    folder = (Path(folder) if folder is not None else paths.data_dir() / "implanted") / cell_type
    hosts = tuple(sample.path for sample in normals[_NORMALS:])
    kinds = list(KINDS)
    tasks = [Task("test", kinds[i % len(kinds)], i) for i in range(len(hosts))]
    manifest = {"version": VERSION, "cell_type": cell_type, "seed": seed, "hosts": [h.name for h in hosts]}
    fulfil([Order(folder, tasks, partial(_write, hosts=hosts, cell_type=cell_type, seed=seed), manifest)])
    implanted = [_sample(folder, task) for task in sorted(tasks, key=lambda task: task.kind)]
    test = AnomalyDataset(f"implanted/{cell_type}/test", normals[:_NORMALS] + implanted, size, has_masks=True)
    return Benchmark(f"implanted/{cell_type}", real.train, real.validation, test)


def _write(folder: Path, task: Task, hosts: tuple[Path, ...], cell_type: str, seed: int) -> None:
    cell = np.asarray(Image.open(hosts[task.index]).convert("L"))
    rng = stream(seed, "implanted", cell_type, task.index)
    strength = float(np.exp(rng.uniform(*np.log(STRENGTH[cell_type]))))
    image, mask = implant(cell, task.kind, rng, strength)
    placed = _sample(folder, task)
    save_png(placed.path, image)
    save_png(placed.masks[0], mask)


def _sample(folder: Path, task: Task) -> Sample:
    stem = f"{task.index:03d}"
    mask = folder / "ground_truth" / task.kind / f"{stem}_mask.png"
    return Sample(folder / "test" / task.kind / f"{stem}.png", 1, task.kind, (mask,))


# --- the cell's own geometry ----------------------------------------------------------------------------


def busbars(cell: Array) -> list[int]:
    """Rows of the dark horizontal conductors, between the upper and the lower border of the cell."""
    profile = np.median(cell, axis=1)
    relief = gaussian_filter1d(profile, 20) - gaussian_filter1d(profile, 1)
    relief[:15] = relief[-15:] = 0
    peaks, _ = find_peaks(relief, height=0.03 * profile.mean(), distance=60)
    return peaks.tolist()


def _strips(cell: Array) -> list[tuple[int, int]]:
    """The (top, bottom) rows between neighbouring busbars or borders."""
    edges = [_BORDER, *busbars(cell), len(cell) - _BORDER]
    return [(top + 3, bottom - 3) for top, bottom in pairwise(edges) if bottom - top > 20]


def _painted(shape: tuple[int, int], paint: Callable[[ImageDraw.ImageDraw, int], None]) -> Array:
    """Antialiased coverage (H, W): `paint(pen, factor)` draws in white, magnified by `factor`."""
    factor = _SUPERSAMPLING
    image = Image.new("L", (shape[1] * factor, shape[0] * factor))
    paint(ImageDraw.Draw(image), factor)
    return np.asarray(image.reduce(factor), dtype=np.float32) / 255


def _line(shape: tuple[int, int], points: Points, width: float) -> Array:
    def paint(pen: ImageDraw.ImageDraw, factor: int) -> None:
        scaled = [(x * factor, y * factor) for x, y in points]
        pen.line(scaled, fill=255, width=round(width * factor), joint="curve")

    return _painted(shape, paint)


# --- defects: each returns the share of light that is left, (H, W) --------------------------------------


def _crack_path(rng: np.random.Generator, start: tuple[float, float], angle: float, length: float) -> Points:
    """Nearly straight, with small kinks, as silicon breaks."""
    x, y = start
    points, done = [(x, y)], 0.0
    while done < length:
        step = rng.uniform(6, 22)
        turn = angle + rng.normal(0, 0.10)
        x, y, done = x + step * math.cos(turn), y + step * math.sin(turn), done + step
        points.append((x, y))
    return points


def _crack(cell: Array, rng: np.random.Generator) -> Array:
    """A main crack near a diagonal, with up to three branches."""
    height, width = cell.shape
    start = rng.uniform(50, width - 50), rng.uniform(50, height - 50)
    angle = rng.choice([-1, 1]) * math.pi / 4 + rng.normal(0, 0.2) + rng.integers(2) * math.pi
    main = _crack_path(rng, start, angle, rng.uniform(80, 240))
    lines = [(main, rng.uniform(1.4, 2.0))]
    for _ in range(rng.integers(0, 4)):
        fork = main[int(rng.integers(len(main)))]
        off = angle + rng.choice([-1, 1]) * rng.uniform(0.5, 1.4)
        lines.append((_crack_path(rng, fork, off, rng.uniform(20, 80)), rng.uniform(1.0, 1.6)))
    covered = np.maximum.reduce([_line(cell.shape, points, wide) for points, wide in lines])
    return 1 - _inside(cell) * rng.uniform(0.45, 0.65) * gaussian_filter(covered, 0.8)


def _fingers(cell: Array, rng: np.random.Generator) -> Array:
    """Interrupted grid fingers: dark vertical streaks that begin at a busbar and fade out."""
    top, bottom = _strips(cell)[int(rng.integers(len(_strips(cell))))]
    down = bool(rng.integers(2))
    left = np.ones_like(cell)
    centre = rng.uniform(40, cell.shape[1] - 40)
    for _ in range(rng.integers(2, 7)):
        x, reach = centre + rng.normal(0, 22), rng.uniform(0.4, 1.0) * (bottom - top)
        start, stop = (top, top + reach) if down else (bottom, bottom - reach)
        streak = gaussian_filter(_line(cell.shape, [(x, start), (x, stop)], rng.uniform(1.5, 4)), (2.5, 1))
        left *= 1 - rng.uniform(0.2, 0.42) * streak
    return 1 - (1 - left) * _inside(cell)


def _inactive(cell: Array, rng: np.random.Generator) -> Array:
    """An area cut off by a crack: dark from a busbar or border to the crack, streaked along the fingers."""
    top, bottom = _strips(cell)[int(rng.integers(len(_strips(cell))))]
    width = cell.shape[1]
    middle, half = rng.uniform(60, width - 60), rng.uniform(30, 85)
    down = bool(rng.integers(2))
    base, tip = (top, bottom) if down else (bottom, top)
    depth = base + (tip - base) * rng.uniform(0.55, 1.0)
    corners = [(middle - half, base), (middle + half, base)]
    crest = middle + rng.uniform(-0.9, 0.4) * half
    ridge = crest + rng.uniform(0.1, 0.8) * half
    right = _kinked(rng, (middle + half, base), (ridge, depth + rng.normal(0, 6)))
    left = _kinked(rng, (crest, depth), (middle - half, base))
    outline = [*corners, *right, *left]

    def paint(pen: ImageDraw.ImageDraw, factor: int) -> None:
        pen.polygon([(x * factor, y * factor) for x, y in outline], fill=255)

    area = gaussian_filter(_painted(cell.shape, paint), 0.8)
    crack = gaussian_filter(_line(cell.shape, [*right, *left], 1.6), 0.7)
    streaks = 1 + 0.5 * gaussian_filter1d(rng.standard_normal(width), 2.5).astype(np.float32)[None, :]
    dark = np.clip(rng.uniform(0.25, 0.6) * streaks, 0, 0.95) * area
    return 1 - np.maximum(dark, 0.5 * crack) * _inside(cell)


def _kinked(rng: np.random.Generator, start: tuple[float, float], stop: tuple[float, float]) -> Points:
    shares = np.linspace(0, 1, 7)[1:-1]
    jitter = rng.normal(0, 2.5, (len(shares), 2))
    between = np.array(start) + shares[:, None] * (np.array(stop) - np.array(start)) + jitter
    return [start, *map(tuple, between.tolist()), stop]


def _spot(cell: Array, rng: np.random.Generator) -> Array:
    """Contamination: a ragged dark blob, soft at its edge, often drawn out along the busbars."""
    height, width = cell.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    centre_x, centre_y = rng.uniform(50, width - 50), rng.uniform(50, height - 50)
    long, short = rng.uniform(10, 26), rng.uniform(6, 13)
    wander = 5 * gaussian_filter(rng.standard_normal(cell.shape).astype(np.float32), 5)
    distance = np.hypot((x - centre_x) / long, (y - centre_y) / short) + wander
    blob = expit(7 * (1 - distance))
    return 1 - rng.uniform(0.45, 0.85) * blob * _inside(cell)


def _inside(cell: Array) -> Array:
    """1 on the cell, 0 on the frame around it and its cut corners."""
    inside = np.zeros_like(cell)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = 1
    corner = gaussian_filter(cell, 2) < 0.45 * np.median(cell)
    return gaussian_filter(inside * ~corner, 0.7)


KINDS: dict[str, Darken] = {"crack": _crack, "finger": _fingers, "inactive": _inactive, "spot": _spot}
