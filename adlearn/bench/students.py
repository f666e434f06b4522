"""The students of notebooks 05 and 06 beside anomalib's: training, an image alone and four at once."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from ..data import load
from ..data.base import AnomalyDataset
from ..detector import Detector
from ..methods.reverse_distillation import ReverseDistillation, UniNet
from ..methods.student_teacher import STFPM, EfficientAD
from . import Row, benchmark, seconds
from .anomalib import ask, present
from .peer_export import export_penalty, export_weights

_SIZE, _IMAGES, _BATCH, _PDN_BATCH, _SHORT, _LONG = 128, 32, 8, 4, 1, 5
_LEVELS = (4, 8, 16)
# ResNet-18's, which anomalib's decoders have.
_WIDTHS, _CODE = (64, 128, 256), 512
# Name of anomalib's model -> ours at the same size, to be trained for so many epochs.
_OURS: dict[str, Callable[[int], Detector]] = {
    "stfpm": lambda epochs: STFPM(layers=_LEVELS, batch_size=_BATCH, epochs=epochs),
    "reversedistillation": lambda epochs: ReverseDistillation(
        layers=_LEVELS, widths=_WIDTHS, code=_CODE, batch_size=_BATCH, epochs=epochs
    ),
    "uninet": lambda epochs: UniNet(
        layers=_LEVELS, widths=_WIDTHS, code=_CODE, batch_size=_BATCH, epochs=epochs
    ),
    "efficientad": lambda epochs: EfficientAD(batch_size=_PDN_BATCH, epochs=epochs),
}


@benchmark("students")
def students() -> list[Row]:
    """Images of 128 px; needs $ADLEARN_ANOMALIB.

    Ours computes a frozen teacher's features once, before the first epoch; anomalib does in every step.
    """
    if not present("students"):
        return []
    cells = load("elpv/mono", _SIZE).train.take(_IMAGES)
    images = cells.images()
    fitted = {name: build(_SHORT).fit(cells) for name, build in _OURS.items()}
    theirs = _theirs(images, fitted["efficientad"])
    return [row for name in _OURS for row in _rows(name, cells, images, fitted[name], theirs[name])]


def _theirs(images: torch.Tensor, efficientad: EfficientAD) -> dict[str, dict[str, float]]:
    """Run `peer_anomalib_students.py --speed`, EfficientAd at the widths of our teacher."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_weights(folder)
        export_penalty(folder, _IMAGES, _SIZE)
        torch.save((images - 0.5) / 0.5, folder / "images.pt")
        torch.save(efficientad.networks.teacher.state_dict(), folder / "teacher.pt")
        options = ["--batch", str(_BATCH), "--pdn-batch", str(_PDN_BATCH)]
        return ask(
            "peer_anomalib_students.py", folder, *options, "--recipes", "ours", "--decoders", "as shipped"
        )


def _rows(
    name: str, cells: AnomalyDataset, images: torch.Tensor, detector: Detector, theirs: dict[str, float]
) -> list[Row]:
    rows = [Row(f"{name}, training, an image", _training(name, cells), "anomalib", theirs["step_ms"] / 1e3)]
    for count in (1, 4):
        few = images[:count]
        ours = seconds(lambda few=few: detector.predict(few), repeats=20) / count
        what = f"{name}, an image, batch of {count}"
        rows.append(Row(what, ours, "anomalib", theirs[f"image_ms_{count}"] / 1e3))
    return rows


def _training(name: str, cells: AnomalyDataset) -> float:
    """Seconds per image and epoch: by how much a longer `fit` is slower, so without what is done once."""
    short, long = (seconds(lambda n=n: _OURS[name](n).fit(cells), repeats=2) for n in (_SHORT, _LONG))
    return (long - short) / (_LONG - _SHORT) / len(cells)
