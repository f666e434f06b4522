"""Notebook 09's question on photographs of real defects: which paint finds which defect of Magnetic Tile?

The learner of the notebook (`PaintedDefects`) once for each paint and once for all paints mixed, and PaDiM,
which sees no paint. For a kind of defect: pixel AUROC over the test images that show it, and image AUROC of
these images against all good test images. Beside them stands how well the detector finds its own paint,
drawn anew on good validation images. Several seeds repeat everything, damage and first weights; the mean is
printed, and for each column the largest difference between seeds. The folder holds MT_Free, MT_Blowhole and
the others (data/README.md).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from ..data import readers
from ..data.base import AnomalyDataset, Benchmark
from ..detector import Detector, FeatureDetector
from ..measure import score_by_kind
from ..methods.gaussian_density import PaDiM
from ..methods.synthetic_anomalies import PAINTS, PaintedDefects, paint_named
from ..metrics import pixel_auroc
from ..training import seeded
from ..trials import limited

_MIXED, _UNPAINTED = "all", "PaDiM"
_OWN_SEED, _OWN_IMAGES = 7, 40

Numbers = dict[tuple[str, str], float]


def learned(name: str, train: AnomalyDataset, copies: int, seed: int) -> FeatureDetector:
    """The detector of a row, fitted: PaDiM, or the learner with a paint."""
    detector = PaDiM() if name == _UNPAINTED else PaintedDefects(name, copies=copies, seed=seed)
    return detector.fit(train)


def by_kind(detector: Detector, test: AnomalyDataset) -> Numbers:
    """Pixel and image AUROC of each kind of defect in `test`, keyed ("pixel" or "image", kind)."""
    found = score_by_kind(detector.predict_dataset(test), test)
    measures = ("pixel", "image")
    return {(m, kind): numbers[f"{m}_auroc"] for kind, numbers in found.items() for m in measures}


def on_own_paint(detector: Detector, name: str, good: torch.Tensor) -> float:
    """Pixel AUROC of `detector` on good images (N, 3, H, W) under the paint it was trained on, drawn anew."""
    changed, masks = seeded(_OWN_SEED, lambda: paint_named(name)(good))
    return pixel_auroc(detector.predict(changed).map, masks)


def row(name: str, benchmark: Benchmark, copies: int, seed: int) -> Numbers:
    """All numbers of the detector `name`."""
    detector = learned(name, benchmark.train, copies, seed)
    numbers = by_kind(detector, benchmark.test)
    if name != _UNPAINTED:
        good = benchmark.validation.take(_OWN_IMAGES).images()
        numbers["pixel", "own paint"] = on_own_paint(detector, name, good)
    return numbers


def measured(
    benchmark: Benchmark, names: list[str], copies: int, seeds: list[int]
) -> Iterator[tuple[str, int, Numbers]]:
    """Name, seed and numbers of each detector, as soon as it is measured."""
    for seed in seeds:
        for name in names:
            yield name, seed, row(name, benchmark, copies, seed)


def main() -> None:
    names = [*PAINTS, _MIXED, _UNPAINTED]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="MT_Free, MT_Blowhole, MT_Break, MT_Crack, ...")
    parser.add_argument("--size", type=int, default=128, help="side of the images in px")
    parser.add_argument("--images", type=int, default=40, help="good images to train on")
    parser.add_argument("--copies", type=int, default=1, help="how often each of them is painted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--paints", nargs="+", default=names, choices=names)
    options = parser.parse_args()
    benchmark = limited(readers.magnetic_tile(options.folder, options.size), options.images)
    print(benchmark)
    found: dict[tuple[str, int], Numbers] = {}
    for name, seed, numbers in measured(benchmark, options.paints, options.copies, options.seeds):
        found[name, seed] = numbers
        print(f"{name}, seed {seed}:", *(f"{v:.3f} ({m}, {k})" for (m, k), v in numbers.items()), flush=True)
    rows = pd.DataFrame(found).T.groupby(level=0, sort=False)
    means, ranges = rows.mean(), rows.max() - rows.min()
    for measure in ("pixel", "image"):
        print(f"\n{measure} AUROC, mean of {len(options.seeds)} seeds")
        print(means[measure].round(3).to_string(na_rep=""))
        if len(options.seeds) > 1:
            print("largest difference between seeds")
            print(ranges[measure].max().round(3).to_frame().T.to_string(index=False))


if __name__ == "__main__":
    main()
