"""BTAD (Mishra et al., ISIE 2021): three industrial products."""

from pathlib import Path

from ..base import Benchmark, Size
from .common import assemble, first_mask, folder_in, hold_out, images_in, known, labelled, normal

BTAD = ("01", "02", "03")


def btad(root: Path, category: str, size: Size = 224) -> Benchmark:
    """BTAD: `train/ok`, `test/ok`, `test/ko`, and masks `ground_truth/ko/<stem>` as .png or .bmp.

    15 % of the training images are held out for validation.
    """
    folder = folder_in(root, known(category, BTAD, "BTAD"))
    truth = folder / "ground_truth" / "ko"

    def masks_of(image: Path) -> tuple[Path, ...]:
        return first_mask(image, [truth / f"{image.stem}{suffix}" for suffix in (".png", ".bmp")])

    train, validation = hold_out(normal(images_in(folder / "train" / "ok")))
    test = normal(images_in(folder / "test" / "ok"))
    test += labelled(images_in(folder / "test" / "ko"), "ko", masks_of)
    return assemble(f"btad/{category}", train, validation, test, size, has_masks=True)
