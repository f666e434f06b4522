"""`check("02.1", answer)`: does an answer have the properties the exercise asks for?

The checks of notebook NN live in `nbNN.py` beside this file; each is a function decorated with
`@exercise("NN.k")` that takes the answer and raises `Wrong` with a hint.
"""

import importlib
from collections.abc import Callable
from typing import Any

from ..errors import DataError

_CHECKS: dict[str, Callable[[Any], None]] = {}


class Wrong(AssertionError):
    """The answer lacks a property; the message is a hint."""


def exercise(number: str) -> Callable:
    """Register a check under `number` ("02.1")."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        _CHECKS[number] = function
        return function

    return register


def require(condition: bool, hint: str) -> None:
    """Raise `Wrong(hint)` unless `condition` holds."""
    if not condition:
        raise Wrong(hint)


def check(number: str, answer: Any) -> bool:
    """Say whether `answer` solves exercise `number`; True if it does.

    An answer of `...` (not tried yet) is only noted. Any other answer without the required properties raises
    `Wrong` with a hint.
    """
    module = f"{__name__}.nb{number.split('.')[0]}"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise DataError(f"there are no exercises for notebook {number.split('.')[0]!r}") from None
    if number not in _CHECKS:
        raise DataError(f"no exercise {number!r}; there are {', '.join(sorted(_CHECKS))}")
    if answer is ...:
        print(f"○ {number}: put your answer in place of ...")
        return False
    try:
        _CHECKS[number](answer)
    except Wrong as wrong:
        raise Wrong(f"✗ {number}: {wrong}") from None
    print(f"✓ {number}: {_CHECKS[number].__doc__}")
    return True
