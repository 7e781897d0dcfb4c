"""Temperature scaling (Guo et al. 2017, section 4.2): one number that calibrates a network's probabilities.

A network is calibrated if 80 % of its answers with confidence 80 % are correct. Most trained networks are
overconfident; softmax(logits / T) with T above 1 is less confident, and no answer changes, since the order of the
logits does not.

    N examples, V classes or tokens
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerasnets.calibration.bins import BINS, Bins, bin_sums
from kerasnets.checks import RequestError

FILE = "calibration.json"
LOWEST, HIGHEST = 0.05, 20.0  # temperatures: the best one is 0 for a model without mistakes, infinite for noise
GRID = 16  # temperatures evaluated in one pass over the examples

Batches = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Calibration:
    """The content of calibration.json.

    Attributes:
        temperature: T, in LOWEST..HIGHEST.
        bounded: whether T is one of these bounds, since the best temperature lies beyond it.
        examples: number in the validation split: images, characters or tokens.
        nll_before, nll_after: negative log-likelihood in nats per example, with T = 1 and with T.
        ece_before, ece_after: expected calibration error, 0..1.
        bins_before, bins_after: the data of the reliability diagram.
    """

    temperature: float
    bounded: bool
    examples: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    bins_before: Bins
    bins_after: Bins


def load_temperature(directory: Path | None) -> float:
    """-> the temperature in calibration.json of `directory`; without the file 1.0, which has no effect."""
    if directory is None or not (directory / FILE).exists():
        return 1.0
    try:
        temperature = float(json.loads((directory / FILE).read_text("utf-8"))["temperature"])
    except (ValueError, KeyError, TypeError):
        temperature = math.nan
    if not LOWEST <= temperature <= HIGHEST:
        raise RequestError(
            f"{directory / FILE} has no temperature from {LOWEST} to {HIGHEST}; remove it to disable calibration."
        )
    return temperature


def fit(batches: Batches) -> Calibration:
    """-> the temperature that minimizes the negative log-likelihood of softmax(logits / T), with its effects."""
    temperature = best_temperature(batches)
    before, after = Totals(1.0), Totals(temperature)
    for logits, labels in batches():
        before.add(logits, labels)
        after.add(logits, labels)
    return Calibration(
        temperature,
        temperature in (LOWEST, HIGHEST),
        before.examples,
        before.nll,
        after.nll,
        before.bins.error,
        after.bins.error,
        before.bins,
        after.bins,
    )


def best_temperature(batches: Batches) -> float:
    """Find the zero of the slope of the negative log-likelihood, which is convex in 1 / T: search a grid, then a finer
    grid between the two points around the zero, where linear interpolation is accurate enough."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(2):
        grid = np.linspace(low, high, GRID)
        slopes = likelihood_slopes(batches, np.exp(-grid))  # falls from left to right
        if not slopes.any():
            return 1.0  # all classes are equally probable for every T
        if slopes[0] <= 0:
            return LOWEST
        if slopes[-1] >= 0:
            return HIGHEST
        right = int(np.argmax(slopes < 0))
        low, high = grid[right - 1], grid[right]
    return float(np.exp(low + (high - low) * slopes[right - 1] / (slopes[right - 1] - slopes[right])))


def likelihood_slopes(batches: Batches, inverses: np.ndarray) -> np.ndarray:
    """-> for each β = 1 / T the derivative of the summed -log softmax(β z)[label], which is the sum of

        (mean of z under softmax(β z)) - z[label]        over all examples

    Raises: RequestError if there are no examples; FloatingPointError for logits that are NaN or infinite.
    """
    slopes, examples = np.zeros(len(inverses)), 0
    for logits, labels in batches():
        if not np.isfinite(logits).all():
            raise FloatingPointError(
                "calibration found logits that are NaN or infinite; train with a lower learning rate."
            )
        shifted = logits - logits.max(axis=1, keepdims=True)  # [N, V], 0 at the top
        examples += len(labels)
        slopes -= shifted[np.arange(len(labels)), labels].sum(dtype=np.float64)
        weights = np.empty_like(shifted)
        for n, inverse in enumerate(inverses):
            np.exp(np.multiply(shifted, np.float32(inverse), out=weights), out=weights)
            slopes[n] += (np.einsum("nv,nv->n", weights, shifted) / weights.sum(axis=1)).sum(dtype=np.float64)
    if not examples:
        raise RequestError("calibration found no example in the validation split; use a larger one.")
    return slopes


class Totals:
    """Sums over batches of examples, for one temperature."""

    def __init__(self, temperature: float):
        self.temperature, self.loss, self.sums = temperature, 0.0, np.zeros((3, BINS))

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        shifted = (logits - logits.max(axis=1, keepdims=True)) / np.float32(self.temperature)
        total = np.exp(shifted).sum(axis=1)  # exp(0) of the most probable class is one of its terms
        self.loss += (np.log(total) - shifted[np.arange(len(labels)), labels]).sum(dtype=np.float64)
        self.sums += bin_sums(1 / total, logits.argmax(axis=1) == labels)

    @property
    def examples(self) -> int:
        return int(self.sums[2].sum())

    @property
    def nll(self) -> float:
        return float(self.loss) / self.examples

    @property
    def bins(self) -> Bins:
        return Bins.from_sums(self.sums)
