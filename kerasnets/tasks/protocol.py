"""The interface of a task, for training and the programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kerasnets.checks import RequestError
from kerasnets.config.run import Config
from kerasnets.tasks.facts import Facts
from kerasnets.tasks.share import WHOLE, Share

if TYPE_CHECKING:  # programs read the facts of tasks before they import TensorFlow
    import keras
    import numpy as np
    import tensorflow as tf
    from matplotlib.figure import Figure

    from kerasnets.data.splits import DataSummary, Splits
    from kerasnets.tasks.arrays import ArrayNetwork
    from kerasnets.tasks.samples import Samples

    Batch = Mapping[str, tf.Tensor]

Signatures = Mapping[str, Callable[..., Any]]
Metrics = dict[str, Any]


class Task(Protocol):
    """A task connects data, model, loss, metrics and signatures; no other class knows all of them.

    Members with a body are defaults that most tasks use.

    Attributes:
        facts: description that needs neither data nor TensorFlow.
        config: its configuration, a `facts.config`.
        directory: that of a run or of an export's extra files, with the vocabulary or the classes; None: untrained.
        best: name of the validation metric that selects the best weights, by its lowest or highest value (`best_is`).
        weight_unit: what the weight of `loss` counts, in the plural: images, characters, tokens.
    """

    facts: Facts
    config: Config
    directory: Path | None
    best_metric: str
    best_is: Literal["lowest", "highest"]
    weight_unit: str = "examples"

    def __init__(self, config: Config, directory: Path | None = None) -> None:
        self.config, self.directory = config, directory

    @property
    def name(self) -> str:
        """The task's name on the command line."""
        return self.facts.name

    # Data.

    @property
    def data(self) -> Splits:
        """The data, read on first access. Raises: DataError if they cannot be read."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes in the order of their labels; empty for a task without classes."""
        return ()

    @property
    def data_summary(self) -> DataSummary:
        """Summary of the data read and left out; `str` formats it as a sentence."""
        return self.data.summary

    def split_sizes(self) -> dict[str, Any]:
        """-> the number of used examples of each split, their source, and the counts of data read and left out."""
        from kerasnets.data.splits import SPLITS, describe

        return describe(self.data, {name: self.data.count(name) for name in SPLITS}, self.data_summary)

    def save(self, directory: Path) -> None:
        """Write the vocabulary or the classes into a run directory, as `facts.vocabulary_file`."""

    def check(self) -> None:
        """Check that the task can be trained, before any file is written.

        Raises: RequestError if data, network and options are incompatible.
        """
        self.model()

    # Training.

    def model(self) -> keras.Model:
        """-> a new, built model. Raises: RequestError if its options do not fit the data."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch."""

    @property
    def examples_per_step(self) -> float:
        """Examples per step, in the unit of `examples_per_second`."""

    def check_split(self, parts: int) -> None:
        """Check that each batch can be split into parts of equal size, one for each device and accumulated part.

        A task whose rows of zeros weigh nothing (padding) takes any number, since rows are added where needed.

        Raises: RequestError if it cannot.
        """
        rows = self.config.training.batch_size
        if rows % parts:
            raise RequestError(
                f"training.batch_size is {rows}; it must be divisible by {parts}, the number of devices times "
                f"training.accumulation ({self.config.training.accumulation})."
            )

    @property
    def padding(self) -> float:
        """Share of padding in the training batches, 0 to 1."""
        return 0.0

    def training_batches(self, start: int, stop: int) -> tf.data.Dataset:
        """-> the batches of steps `start` to `stop`; each depends on the seed and its step alone."""

    def initial_carry(self) -> Any:
        """-> the initial carry of a whole batch (an LSTM's states), as nested arrays [B, ...], or ()."""
        return ()

    def loss(self, model: keras.Model, batch: Batch, carry: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """-> loss summed over the batch, its weight, and the carry for the next step."""

    # Scores.

    def validate(self, model: keras.Model, share: Share = WHOLE) -> Metrics:
        """-> metrics on the validation split that are fast to compute, the same on all workers with a share of it."""

    def samples(self, model: keras.Model) -> Samples | None:
        """-> what the model does with a few validation examples, for people to read; None: nothing to show.

        Called during training: it must be fast, and must change neither weights nor random states.
        """
        return None

    @functools.cached_property
    def temperature(self) -> float:
        """The divisor of the signatures' logits (see `kerasnets.calibration`).

        Raises: RequestError if calibration.json is damaged.
        """
        from kerasnets.calibration.temperature import load_temperature

        return load_temperature(self.directory)

    def validation_logits(self, model: keras.Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """-> logits float32 [N, V] and labels int [N] of the validation split, batch by batch, to fit a temperature
        (see `kerasnets.calibration`)."""

    def evaluate(
        self, signatures: Signatures, split: str, model: keras.Model | None = None, limit: int | None = None
    ) -> Metrics:
        """-> all metrics on a split, computed with the signatures of a model or of a SavedModel.

        "worst_examples", if present, are dictionaries with the same keys, the worst first; their first value is their
        score.

        Args: model: None for a SavedModel; limit: use only this many units from the start of the split; None: all.
        """

    def evaluation_figures(self, metrics: Metrics) -> dict[str, Figure]:
        """-> pictures for people by name, drawn from the metrics of `evaluate` and the name of the split, "split"."""
        return {}

    # Export.

    def signatures(self, model: keras.Model) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """-> the functions of a SavedModel, from raw inputs (texts, files) to readable outputs.

        Raises: RequestError if calibration.json is damaged.
        """

    def defaults(self, model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
        """-> default values for inputs that a request omits, for each signature with optional inputs."""
        return {}

    def tables(self) -> tf.Module | None:
        """-> the module that owns the signatures' lookup tables, which a SavedModel must reference; None if none."""
        return None

    def array_network(self, model: keras.Model) -> ArrayNetwork:
        """-> the network as a function of arrays, for formats without strings."""

    @property
    def card_values(self) -> dict[str, Any]:
        """Values for the model card's texts beside those of the configuration, such as the limits of a request."""

    # Requests.

    def examples(self) -> list[dict[str, Any]]:
        """-> inputs of `serving_default`, one dictionary per example."""

    def requests(self, examples: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
        """-> for each signature a batch of inputs, built from the examples."""

    def predict(self, signatures: Signatures, value: str) -> str:
        """-> the line that `kerasnets.predict` prints for one input, a text or a path."""

    def draw_explanation(self, signatures: Signatures, value: str) -> Figure:
        """-> a picture of what the signature `explain` returns for an input of `predict`.

        Raises: RequestError if the task has no such picture.
        """
        raise RequestError(f"{self.name} has no explanations to draw; run the command without --explain.")
