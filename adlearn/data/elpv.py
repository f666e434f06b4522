"""ELPV: electroluminescence images of solar cells, from the package `elpv-dataset` (no download).

Buerhop-Lutz et al., EU PVSEC 2018; Deitsch et al., Solar Energy 2019. 2,624 cells of 300x300 pixels from 44
modules, each with a probability of being defective: 0, 1/3, 2/3 or 1.
"""

import importlib.util
from pathlib import Path

from ..errors import DataError
from .base import Benchmark, Sample, Size
from .readers.common import assemble, known, shuffled

CELL_TYPES = ("mono", "poly")
TEST, VALIDATION = 150, 100


def elpv(cell_type: str, size: Size = 224) -> Benchmark:
    """One cell type of ELPV, "mono" or "poly", in a fixed split; there are no masks.

    Probability 0 is normal, 1 defective. Test: 150 normal, then 150 defective; validation: 100 normal; train:
    the other normal ones (338 mono, 670 poly), in an order that makes the first n a fair choice. The choice
    is by hash of the file name, so it never changes. `extra["defective"]` holds the defective cells not in
    test, `extra["uncertain"]` the probabilities 1/3 (label 0, kind "uncertain 0.33") and 2/3 (label 1,
    "uncertain 0.67"). The package does not say which cells are of one module, so the split cannot keep
    modules apart.

    Raises `DataError` if the package is not installed.
    """
    cells = _cells(package_data(), known(cell_type, CELL_TYPES, "ELPV"))
    normals = shuffled([c for c in cells if c.kind == "good"])
    defective = shuffled([c for c in cells if c.kind == "defective"])
    return assemble(
        f"elpv/{cell_type}",
        train=normals[TEST + VALIDATION :],
        validation=normals[TEST : TEST + VALIDATION],
        test=normals[:TEST] + defective[:TEST],
        size=size,
        has_masks=False,
        defective=defective[TEST:],
        uncertain=[c for c in cells if c.kind.startswith("uncertain")],
    )


def package_data() -> Path:
    """The data folder of the installed package (looked up, not imported)."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DataError("the solar cell images are not installed: pip install elpv-dataset")
    return Path(spec.origin).parent / "data"


def _cells(folder: Path, cell_type: str) -> list[Sample]:
    labels = folder / "labels.csv"
    if not labels.is_file():
        raise DataError(f"{labels} is missing: pip install --force-reinstall elpv-dataset")
    rows = [line.split() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [_cell(folder / name, float(probability)) for name, probability, kind in rows if kind == cell_type]


def _cell(path: Path, probability: float) -> Sample:
    certain = {0.0: "good", 1.0: "defective"}
    return Sample(path, int(probability > 0.5), certain.get(probability, f"uncertain {probability:.2f}"))
