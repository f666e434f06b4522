"""Grids of photographs whose cells are whole pixels, small enough to be stored in a notebook.

A photograph hardly compresses as PNG: 18 cells of 133 pixels take 240 KB, and a notebook has 1 MB for all its
outputs. So each photograph is resized once to the cell's pixels and its tones are rounded to the finest steps
that fit a budget; sensor noise hides the steps.
"""

import io

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from .style import DPI, WIDTH, new_figure

PAGE = round(WIDTH * DPI)
GAP = 4
LARGEST_CELL = 190
PHOTO_BUDGET = 64 * 1024
TONES = (64, 48, 32, 24, 16, 12, 8)


class Sheet:
    """A figure of `rows` x `columns` cells, placed in pixels; the cells fill the page up to `LARGEST_CELL`.

    `aspect` is a cell's height over its width. `left`, `right`, `top` and `bottom` are margins in pixels; `title`
    is the space kept above every row.
    """

    def __init__(
        self, rows: int, columns: int, aspect: float, *, left: int = 0, right: int = 0, top: int = 0,
        bottom: int = 0, title: int = 0, largest: int = LARGEST_CELL,
    ):  # fmt: skip
        room = (PAGE - left - right - GAP * (columns - 1)) // columns
        width = max(8, min(room, largest))
        self.cell = (width, max(8, round(width * aspect)))
        self.left, self.top, self.title = left, top, title
        self.width = left + right + columns * (width + GAP) - GAP
        self.height = top + bottom + rows * (self.cell[1] + title + GAP) - GAP
        self.figure = new_figure(self.height / DPI, self.width / DPI, layout="none")

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The cell's left and top pixel, from the figure's top left."""
        width, height = self.cell
        x = self.left + column * (width + GAP)
        return x, self.top + self.title + row * (height + self.title + GAP)

    def axes(self, row: int, column: int) -> Axes:
        """An empty picture frame on the cell."""
        axes = self.place(*self.corner(row, column), *self.cell)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def place(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes on a rectangle in pixels, `x` and `y` from the figure's top left."""
        fraction_up = 1 - (y + height) / self.height
        return self.figure.add_axes(
            (x / self.width, fraction_up, width / self.width, height / self.height)
        )

    def write(self, x: float, y: float, text: str, **options: object) -> None:
        """Text at a pixel, `x` and `y` from the figure's top left."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **options)


def resize_photos(photos: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """(N, H, W, 3) uint8 to the cell's (width, height)."""
    return np.stack([Image.fromarray(p).resize(cell, Image.Resampling.BICUBIC) for p in photos])


def resize_plane(plane: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """One (h, w) float map or mask to the cell's (width, height)."""
    return np.asarray(Image.fromarray(plane, mode="F").resize(cell, Image.Resampling.BILINEAR))


def fit_tones(photos: np.ndarray, budget: int = PHOTO_BUDGET) -> np.ndarray:
    """Round the tones of (N, H, W, 3) uint8 to the finest steps with which they take `budget` bytes as PNG."""
    for tones in TONES:
        step = 255 / (tones - 1)
        rounded = (np.round(photos / step) * step).astype(np.uint8)
        if png_bytes(rounded) <= budget:
            break
    return rounded


def png_bytes(photos: np.ndarray) -> int:
    """The size of (N, H, W, 3) uint8 as one PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(photos))).save(buffer, "png")
    return buffer.tell()
