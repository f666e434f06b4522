"""Image, mask and point files as tensors: every pixel format a camera or a labelling tool writes."""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps

from ..errors import DataError

if TYPE_CHECKING:
    from .base import Size

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap width and height


def load_image(path: Path, size: "Size" = None) -> torch.Tensor:
    """Read an image as (3, H, W) float32 in [0, 1].

    Grey images are repeated over the three channels; 16-bit ones are divided by 65535, not cut to 8 bit;
    transparent pixels are laid on black, so that what is seen counts and not the colour hidden under them;
    palette, CMYK and 1-bit images become RGB; the EXIF orientation is applied. `size` is a square's side,
    (height, width), or None for the image's own size; resizing is bilinear and antialiased.

    Raises `DataError` if the file is missing, cut off or not an image, or `size` is not positive.
    """
    with _opened(path) as image:
        return _to_tensor(_plain_pixels(_upright(image), path), size)


def load_mask(masks: tuple[Path, ...], image_path: Path, size: "Size" = None) -> torch.Tensor | None:
    """Read the union of mask files as (H, W) bool, or None if there are none.

    Every pixel that is not black is defect, whatever its value or colour. Masks are resized with the nearest
    neighbour, as the field does, so that they stay masks. Where every defect pixel falls between the sampled
    ones, and an anomalous image would get an empty mask, a pixel is defect if any pixel it covers is.

    Raises `DataError` if a mask is missing, unreadable or not of the size of its image.
    """
    if not masks:
        return None
    with _opened(image_path) as image:
        expected = _upright_size(image)
    full = np.logical_or.reduce([_defect_pixels(path, image_path, expected) for path in masks])
    return torch.from_numpy(full if size is None else _shrink(full, _height_width(size)))


def load_xyz(path: Path) -> torch.Tensor:
    """Read a float TIFF of points, as MVTec 3D-AD stores them, as (3, H, W) float32.

    The channels are x, y and z in the file's unit. A pixel where all three are 0 was not measured: resize
    with the nearest neighbour, never by averaging.

    Raises `DataError` if the file is missing, cut off or not of shape (H, W, 3).
    """
    try:
        points = tifffile.imread(path)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (*_UNREADABLE, IndexError, KeyError) as error:
        raise _unreadable(path, error) from error
    if points.ndim != 3 or points.shape[-1] != 3:
        raise DataError(f"{path} has shape {points.shape}: a point image has shape (height, width, 3)")
    return torch.from_numpy(np.ascontiguousarray(points.transpose(2, 0, 1), dtype=np.float32))


def _missing(path: Path) -> DataError:
    return DataError(f"{path} is missing: copy the dataset again, or check the folder's name")


def _unreadable(path: Path, error: Exception) -> DataError:
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return DataError(f"{path} is empty (0 bytes): copy or download this file again")
    return DataError(
        f"{path} cannot be read ({error}): it is cut off or not an image; copy or download it again, "
        "or convert it to PNG"
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open `path`; whatever Pillow raises while it decodes becomes a `DataError` naming the file."""
    try:
        # From a file object: Pillow maps a file it opens itself, and mixes up the rows of a turned TIFF.
        with open(path, "rb") as file, Image.open(file) as image:
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise _missing(path) from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied; 1 is upright."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asking a PNG for EXIF that is not in its header would decode the whole image
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if image.format == "TIFF" and orientation != 1:
        image.load()  # Pillow turns TIFF images while it decodes them
        return 1
    return orientation


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as seen, from the header alone."""
    sideways = _orientation(image) in _SIDEWAYS
    return image.size[::-1] if sideways else image.size


def _plain_pixels(image: Image.Image, path: Path) -> Image.Image:
    """The image in mode L, RGB (8 bit) or F (deep grey, already in [0, 1])."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, path)
    if image.has_transparency_data:
        return _on_black(image)
    return image.convert("RGB")


def _deep_grey(image: Image.Image, path: Path) -> Image.Image:
    grey = np.asarray(image, dtype=np.float32)
    if image.mode != "F":
        grey = grey / 65535
    if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
        raise DataError(
            f"{path} holds values outside what 16-bit images (0 to 65535) or float images (0 to 1) may hold: "
            "rescale it, or read a point image with load_xyz"
        )
    return Image.fromarray(grey)


def _on_black(image: Image.Image) -> Image.Image:
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "black"), seen).convert("RGB")


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise DataError(f"size={size!r}: give a side of at least 1 pixel, (height, width), or None")
    return height, width


def _to_tensor(image: Image.Image, size: "Size") -> torch.Tensor:
    if size is not None:
        height, width = _height_width(size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    planes = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels.expand(3, -1, -1)
    planes = planes.to(torch.float32, memory_format=torch.contiguous_format)
    return planes.clone() if image.mode == "F" else planes.div_(255)


def _defect_pixels(path: Path, image_path: Path, expected: tuple[int, int]) -> np.ndarray:
    with _opened(path) as opened:
        mask = _upright(opened)
        if mask.size != expected:
            raise DataError(
                f"mask {path} is {mask.width}x{mask.height} but image {image_path} is "
                f"{expected[0]}x{expected[1]}: they must be of one size; draw or export the mask again"
            )
        if mask.mode in ("P", "PA") or mask.has_transparency_data:
            mask = _on_black(mask)
        values = np.asarray(mask) != 0
    return values.any(axis=2) if values.ndim == 3 else values


def _shrink(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    nearest = np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
    if nearest.any() or not mask.any():
        return nearest
    return F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), size)[0].bool().numpy()
