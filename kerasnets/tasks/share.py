"""The share that a process has of a validation."""

from typing import Protocol

import numpy as np


class Share(Protocol):
    """Number `index` of `count` processes, each of which scores a part of the examples; all of them sum the results."""

    index: int
    count: int

    def sum(self, array: np.ndarray) -> np.ndarray:
        """-> the sum of the arrays of all processes, which have the same shape and type."""


class Whole:
    """The share of a single process."""

    index, count = 0, 1

    def sum(self, array: np.ndarray) -> np.ndarray:
        return array


WHOLE = Whole()
