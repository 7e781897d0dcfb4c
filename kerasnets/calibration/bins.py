"""Examples binned by confidence, and the calibration error.

N examples, V classes or tokens
"""

import math
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Bins:
    """Examples binned by the probability of their most probable class: BINS intervals (a, b] of equal width in 0..1.

    Attributes, for each interval, 0 if it is empty: confidence, the mean probability; accuracy, the share of correct
        answers; count of examples.
    """

    confidence: list[float]
    accuracy: list[float]
    count: list[int]

    @classmethod
    def from_sums(cls, sums: np.ndarray) -> "Bins":
        """sums [3, BINS]: of probabilities, of correct answers, of examples."""
        confidence, accuracy = sums[:2] / np.maximum(sums[2], 1)
        return cls(confidence.tolist(), accuracy.tolist(), sums[2].astype(int).tolist())

    @property
    def error(self) -> float:
        """Expected calibration error: |accuracy - confidence|, averaged over the examples (Naeini et al. 2015; Guo et
        al. 2017, equation 3)."""
        gaps = np.abs(np.subtract(self.accuracy, self.confidence))
        return float(np.average(gaps, weights=self.count)) if any(self.count) else math.nan


def bin_sums(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """confidence and correct [N] -> the sums for `Bins.from_sums`, [3, BINS]."""
    bins = np.clip(np.ceil(confidence.astype(np.float64) * BINS).astype(int) - 1, 0, BINS - 1)
    return np.array([np.bincount(bins, weights, BINS) for weights in (confidence, correct, np.ones(len(bins)))])


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """probabilities [N, V], labels [N] -> expected calibration error."""
    return Bins.from_sums(bin_sums(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)).error
