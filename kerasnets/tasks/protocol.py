"""All that training and the programs know of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kerasnets.config.run import Config
from kerasnets.tasks.facts import Facts

if TYPE_CHECKING:  # programs read the facts of tasks before TensorFlow is there
    import keras
    import numpy as np
    import tensorflow as tf

    from kerasnets.data.splits import Reading, Splits
    from kerasnets.tasks.arrays import ArrayNetwork

    Batch = Mapping[str, tf.Tensor]

Signatures = Mapping[str, Callable[..., Any]]
Metrics = dict[str, Any]


class Task(Protocol):
    """A task joins data, model, loss, metrics and signatures of one use, and is the only place that knows all of them.

    Members with a body are what most tasks need; a task may have its own.

    Attributes:
        facts: what is known of it beforehand.
        config: its configuration, a `facts.config`.
        best: name of the validation metric that says which weights are best, the lowest or the highest (`best_is`).
    """

    facts: Facts
    config: Config
    best: str
    best_is: Literal["lowest", "highest"]

    @property
    def name(self) -> str:
        """As on the command line."""
        return self.facts.name

    # Data.

    @property
    def data(self) -> Splits:
        """The data, read when they are first asked for. Raises: DataError if they cannot be had."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, in the order of their labels, of a task that has such."""
        return ()

    @property
    def reading(self) -> Reading:
        """What was read and what was left out; `str` makes it a sentence."""
        return self.data.reading

    def split_sizes(self) -> dict[str, Any]:
        """How many examples each split has that are used, where they come from, what was read and what left out."""

    def save(self, directory: Path) -> None:
        """Writes the vocabulary or the classes into a run directory, as `facts.vocabulary_file`."""

    def check(self) -> None:
        """Refuses what cannot be trained, before anything is written.

        Raises: RequestError if data, network and options do not suit each other.
        """
        self.model()

    # Training.

    def model(self) -> keras.Model:
        """-> a fresh, built model. Raises: RequestError if its options do not suit the data."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches an epoch."""

    @property
    def examples_per_step(self) -> float:
        """What `examples_per_second` counts, a step."""

    def training_batches(self, start: int, stop: int) -> tf.data.Dataset:
        """-> the batches of steps `start` to `stop`; which they are depends on the seed and the step alone."""

    def initial_carry(self) -> Any:
        """-> what the first step of a whole batch starts from (an LSTM's states), as nested arrays [B, ...], or ()."""
        return ()

    def loss(self, model: keras.Model, batch: Batch, carry: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """-> loss summed over the batch, its weight, and what the next step starts from."""

    # Scores.

    def validate(self, model: keras.Model) -> Metrics:
        """-> metrics on the validation split that are quick to get."""

    def held_out(self, model: keras.Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """-> logits float32 [N, V] and labels int [N] of the validation split, a batch at a time: what a temperature is
        fitted on (see `kerasnets.calibration`)."""

    def evaluate(
        self, signatures: Signatures, split: str, model: keras.Model | None = None, most: int | None = None
    ) -> Metrics:
        """-> all metrics on a split, by the signatures of a model or of a SavedModel.

        Args: model: None of a SavedModel; most: units of the split, of which the first ones are taken; None: all.
        """

    # What is exported.

    def signatures(self, model: keras.Model) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """-> the functions that a SavedModel offers, raw values in, human values out.

        Raises: RequestError if calibration.json is damaged.
        """

    def defaults(self, model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
        """-> what a server gives for an input that a request leaves out, of each signature that has such."""
        return {}

    def tables(self) -> tf.Module | None:
        """-> what holds the lookup tables of the signatures, if they have any: a SavedModel has to keep it."""
        return None

    def arrays(self, model: keras.Model) -> ArrayNetwork:
        """-> the network alone, from arrays to arrays, for formats without strings."""

    @property
    def card_values(self) -> dict[str, Any]:
        """Values of the model card's sentences, beside those of the configuration: what bounds a request."""

    # Requests.

    def examples(self) -> list[dict[str, Any]]:
        """-> inputs of `serving_default`, one dictionary an example."""

    def requests(self, examples: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
        """-> inputs of every signature, batches made of the examples."""

    def answer(self, signatures: Signatures, given: str) -> str:
        """-> the line that `kerasnets.predict` prints for a line or a path that it is given."""
