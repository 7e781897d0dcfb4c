"""What the loop and the programs need to know of a task."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

Batch = Mapping[str, tf.Tensor]
Metrics = dict[str, Any]


class Task(Protocol):
    """A task joins data, model, loss, metrics and signatures of one use, and is the only place that knows all of them.

    Attributes:
        name: as on the command line.
        config: its configuration.
        steps_per_epoch: training batches an epoch.
        examples_per_step: what `examples_per_second` counts, a step.
        best: name of the validation metric that says which weights are best; the lowest or the highest (`best_is`).
    """

    name: str
    config: Any
    best: str
    best_is: str

    @property
    def examples_per_step(self) -> float: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def split_sizes(self) -> dict[str, Any]:
        """How many examples each split has that are used, where they come from, what was read and what left out."""

    @property
    def reading(self) -> Any:
        """What was read and what was left out; `str` makes it a sentence."""

    def save(self, directory: Path) -> None:
        """Writes the vocabulary or the classes into a run directory."""

    def model(self) -> keras.Model:
        """-> a fresh, built model."""

    def training_batches(self, start: int, stop: int) -> tf.data.Dataset:
        """-> the batches of steps `start` to `stop`; which they are depends on the seed and the step alone."""

    def initial_carry(self) -> Any:
        """-> what the first step of a whole batch starts from (an LSTM's states), as nested arrays [B, ...], or ()."""

    def loss(self, model: keras.Model, batch: Batch, carry: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """-> loss summed over the batch, its weight, and what the next step starts from."""

    def validate(self, model: keras.Model) -> Metrics:
        """-> metrics on the validation split that are quick to get."""

    def held_out(self, model: keras.Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """-> logits float32 [N, V] and labels int [N] of the validation split, a batch at a time: what a temperature is
        fitted on (see `kerasnets.calibration`)."""

    def evaluate(self, signatures: Mapping[str, Any], split: str, model: keras.Model | None = None) -> Metrics:
        """-> all metrics on a split, by the signatures of a model or of a SavedModel; `model` is None there."""

    def signatures(self, model: keras.Model) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """-> the functions that a SavedModel offers, raw values in, human values out."""

    def examples(self) -> list[dict[str, Any]]:
        """-> inputs of `serving_default`, one dictionary an example."""

    def requests(self, examples: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """-> inputs of every signature, batches made of the examples."""

    def answer(self, signatures: Mapping[str, Any], given: str) -> str:
        """-> the line that `kerasnets.predict` prints for a line or a path that it is given."""
