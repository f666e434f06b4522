"""Grids of photographs whose cells are whole pixels, so that nothing is resampled twice."""

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from .style import DPI, WIDTH, new_figure

PAGE = round(WIDTH * DPI)
GAP = 4
LARGEST_CELL = 190
PHOTO_PIXELS = 180_000
"""As many pixels of noisy photographs as fit into `compact_png`'s budget with tones enough."""


class Sheet:
    """A figure of `rows` x `columns` cells, placed in pixels; the cells fill the page up to `LARGEST_CELL`.

    `aspect` is a cell's height over its width. `left`, `right`, `top` and `bottom` are margins in pixels;
    `title` is the space kept above every row.
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
        return self.figure.add_axes((x / self.width, fraction_up, width / self.width, height / self.height))

    def write(self, x: float, y: float, text: str, **options: object) -> None:
        """Text at a pixel, `x` and `y` from the figure's top left."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **options)


def largest_cell(count: int, aspect: float) -> int:
    """The widest cell with which `count` photographs stay within `PHOTO_PIXELS`."""
    return min(LARGEST_CELL, int((PHOTO_PIXELS / (count * aspect)) ** 0.5))


def resize_photos(photos: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """(N, H, W, 3) uint8 to the cell's (width, height)."""
    return np.stack([Image.fromarray(p).resize(cell, Image.Resampling.BICUBIC) for p in photos])


def resize_plane(plane: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """One (h, w) float map or mask to the cell's (width, height)."""
    return np.asarray(Image.fromarray(plane, mode="F").resize(cell, Image.Resampling.BILINEAR))
