"""What a product is: how a normal specimen is sampled, how it is built, and what can go wrong with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .defects import Mark
from .surface import Surface


@dataclass(frozen=True)
class Spec:
    """One specimen, decided before anything is drawn; a defect is an edit of it."""

    texture: int
    marks: tuple[Mark, ...] = ()

    def marked(self, *marks: Mark) -> "Spec":
        """The same specimen with further marks on it."""
        return replace(self, marks=(*self.marks, *marks))


Edit = Callable[[Any, np.random.Generator, float], Any]


@dataclass(frozen=True)
class Product:
    """`sample(rng)` decides a normal specimen, `build(spec)` makes its surface, `kinds` are its defects.

    An edit gets the spec, a generator and `ease` (1 / difficulty) and returns the defective spec.
    """

    name: str
    sample: Callable[[np.random.Generator], Any]
    build: Callable[[Any], Surface]
    kinds: Mapping[str, Edit]
    shadows: bool

    def surface(self, spec: Any) -> Surface:
        """The specimen with its marks on it."""
        surface = self.build(spec)
        for mark in spec.marks:
            mark(surface)
        return surface
