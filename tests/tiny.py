"""A dataset of 64 px images, drawn in milliseconds: grey stripes; the defect is a bright square."""

from pathlib import Path

import numpy as np
from PIL import Image

from adlearn.data.base import AnomalyDataset, Benchmark, Sample

SIDE = 64
SQUARE = (slice(16, 48), slice(20, 52))


def draw_image(seed: int, defect: bool) -> np.ndarray:
    """(64, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    x = np.arange(SIDE)
    stripes = 0.4 + 0.1 * np.sin(2 * np.pi * (x / 8 + rng.uniform()))
    image = np.broadcast_to(stripes[None, :, None], (SIDE, SIDE, 3)) + rng.normal(0, 0.02, (SIDE, SIDE, 3))
    if defect:
        image[SQUARE] = 0.97
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def draw_sample(folder: Path, seed: int, defect: bool = False) -> Sample:
    """Write one image (and its mask) and describe it."""
    path = folder / f"{seed:03}.png"
    Image.fromarray(draw_image(seed, defect)).save(path)
    if not defect:
        return Sample(path, 0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[SQUARE] = 255
    mask_path = folder / f"{seed:03}_mask.png"
    Image.fromarray(mask).save(mask_path)
    return Sample(path, 1, "square", (mask_path,))


def draw_benchmark(folder: Path) -> Benchmark:
    def part(name: str, seeds: range, defects: range = range(0)) -> AnomalyDataset:
        samples = [draw_sample(folder, seed) for seed in seeds]
        samples += [draw_sample(folder, seed, defect=True) for seed in defects]
        return AnomalyDataset(f"tiny/{name}", samples, size=SIDE, has_masks=True)

    train, validation = part("train", range(8)), part("validation", range(8, 11))
    return Benchmark("tiny", train, validation, part("test", range(11, 15), range(15, 19)))
