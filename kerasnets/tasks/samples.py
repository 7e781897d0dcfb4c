"""Samples of what a model does during its training, for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Samples:
    """Results of a model for a few examples.

    Attributes:
        title: what the samples show, as the head of a list.
        rows: for each sample its fields by name, in the order in which they are shown.
        images: uint8 [N, Y, X, C]: an image for each row; None without images.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    images: np.ndarray | None = None
