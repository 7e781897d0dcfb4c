"""Weights in less space: float16, or int8 with a scale for each output. What computes with them is float32.

    float16   w ≈ float32(h),  h the nearest number of 16 bits
    int8      w ≈ s · q,       q = round(w / s),  s = max |w| / 127 over the weights that make one output

(symmetric quantization of weights alone, a scale a channel: Krishnamoorthi 2018, section 3.1.) An exported graph holds
h, or q and s, and makes w of them at the beginning of a call, once, before any loop over time or over what is written.
Vectors stay as they are: biases, normalizations and their statistics are few and matter most.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets.data.splits import DataError
from kerasnets.tasks import Task

TABLES = ("embeddings", "table")  # variables of which a row, not a column, belongs together
LEAST = 8  # weights that share a scale; fewer are not worth one

MOST_PREDICTIONS = 10_000  # of the validation split, so that an export does not wait for a large one


class StoredWeight:
    """A variable of a model as it is stored: `parts`, of which `restore` makes its value again."""

    def __init__(self, variable: keras.Variable, storage: str):
        self.variable = variable
        weight = np.asarray(variable.value)
        if storage == "float16":
            values = [weight.astype(np.float16)]
        else:
            scale = np.max(np.abs(weight), axis=input_axes(variable), keepdims=True) / 127
            scale = np.where(scale == 0, 1, scale).astype(np.float32)
            values = [np.rint(weight / scale).astype(np.int8), scale]
        self.parts = [tf.Variable(value, trainable=False, name=variable.name) for value in values]

    def restore(self) -> tf.Tensor:
        number, *scale = (tf.convert_to_tensor(part) for part in self.parts)
        return functools.reduce(tf.multiply, scale, tf.cast(number, tf.float32))


class CompressedModel:
    """A model's weights as they are stored, and its signatures computing with them.

    Attributes:
        model: the Keras model, which stays as it was.
        stored: those of its variables that are stored smaller; the others are stored as they are.
    """

    def __init__(self, model: keras.Model, storage: str):
        self.model, self.storage = model, storage
        self.stored = [StoredWeight(v, storage) for v in model.variables if is_worth(v, storage)]

    def signatures(self, task: Task) -> dict[str, Any]:
        """-> the task's signatures, each of which restores the weights before anything else."""
        signatures = task.signatures(self.model)
        if not self.stored:
            return signatures
        # Signatures call each other, and one that has been traced holds on to the weights of that graph: so each is
        # taken from a set of its own.
        return {name: self._restoring(task.signatures(self.model)[name]) for name in signatures}

    def _restoring(self, function: Any) -> Callable:
        @functools.wraps(function.python_function)
        def restored(*inputs):
            weights = [(weight.variable, weight.restore()) for weight in self.stored]
            with keras.StatelessScope(state_mapping=weights):
                return function(*inputs)

        # What is called in here is a graph function already, and says itself how Python becomes one.
        return tf.function(restored, input_signature=function.input_signature, autograph=False)

    @contextlib.contextmanager
    def rounded(self) -> Iterator[keras.Model]:
        """The model itself with the weights that the stored ones are restored to, until the end of the block."""
        exact = [weight.variable.numpy() for weight in self.stored]
        for weight in self.stored:
            weight.variable.assign(weight.restore())
        try:
            yield self.model
        finally:
            for weight, value in zip(self.stored, exact, strict=True):
                weight.variable.assign(value)

    def megabytes(self) -> tuple[float, float]:
        """-> megabytes (10^6 bytes) of all variables as they were, as they are stored."""
        before = sum(size(variable.value) for variable in self.model.variables)
        saved = sum(size(weight.variable.value) - sum(map(size, weight.parts)) for weight in self.stored)
        return before / 1e6, (before - saved) / 1e6


def input_axes(variable: keras.Variable) -> tuple[int, ...]:
    """-> the axes over which the weights of one output lie: all but the last; of a table, all but the first."""
    axes = tuple(range(len(variable.shape)))
    return axes[1:] if variable.name in TABLES else axes[:-1]


def is_worth(variable: keras.Variable, storage: str) -> bool:
    """Whether a variable is stored smaller: float32 matrices that the storage can hold."""
    if storage == "float32" or len(variable.shape) < 2 or variable.dtype != "float32":
        return False
    if storage == "float16":
        return bool(np.max(np.abs(variable.numpy()), initial=0) <= np.finfo(np.float16).max)
    return int(np.prod([variable.shape[axis] for axis in input_axes(variable)])) >= LEAST


def size(variable: tf.Variable) -> int:
    return int(np.prod(variable.shape)) * variable.dtype.size


def card(task: Task, compressed: CompressedModel) -> dict[str, Any]:
    """-> the section of the model card: how weights are stored, their size, and what that costs.

    With a storage other than float32 it has "quality": see `quality`.
    """
    before, after = compressed.megabytes()
    told = {"storage": compressed.storage, "megabytes_before": before, "megabytes_after": after}
    return told if compressed.storage == "float32" else told | {"quality": quality(task, compressed)}


def quality(task: Task, compressed: CompressedModel) -> dict[str, Any]:
    """What the validation split says of a model with its own weights and with the stored ones.

    Returns:
        split, what of it was used; before and after: the task's metrics of it; predictions: of how many of them (of a
        class, a character, a subword) the logits were compared; largest_logit_difference; same_prediction, the share
        whose most probable one is the same. If the data cannot be had: not_measured, a sentence.
    """
    most = task.facts.most_measured
    # One graph for both: it reads the variables when it is called.
    signatures = task.signatures(compressed.model)
    try:
        before = task.evaluate(signatures, "validation", compressed.model, most)
    except DataError as error:
        return {"not_measured": str(error)}
    with compressed.rounded() as model:
        after = task.evaluate(signatures, "validation", model, most)
    return {
        "split": f"validation, its first {most:,} {task.facts.unit}",
        "before": scores(before),
        "after": scores(after),
    } | compare(task, compressed)


def scores(evaluation: dict[str, Any]) -> dict[str, Any]:
    """-> the metrics that are numbers, and how many examples they are of."""
    counts = ("examples", "sentences", "characters")
    return {name: value for name, value in evaluation.items() if isinstance(value, float) or name in counts}


def compare(task: Task, compressed: CompressedModel) -> dict[str, Any]:
    """-> how far the logits of the held-out examples are apart."""
    rounded = task.held_out(compressed.model)
    predictions, same, largest = 0, 0, 0.0
    for logits, _ in task.held_out(compressed.model):
        with compressed.rounded():
            others, _ = next(rounded)
        predictions += len(logits)
        same += int(np.sum(logits.argmax(axis=-1) == others.argmax(axis=-1)))
        largest = max(largest, float(np.max(np.abs(logits - others), initial=0)))
        if predictions >= MOST_PREDICTIONS:
            break
    return {
        "predictions": predictions,
        "largest_logit_difference": largest,
        "same_prediction": same / max(predictions, 1),
    }


def summary(told: dict[str, Any]) -> str:
    """-> a line or two about what `card` tells."""
    lines = [f"weights in {told['storage']}: {told['megabytes_before']:.2f} MB -> {told['megabytes_after']:.2f} MB"]
    measured = told["quality"]
    if "not_measured" in measured:
        return f"{lines[0]}; what that costs is not known: {measured['not_measured']}"
    for name, value in measured["before"].items():
        if isinstance(value, float):
            lines.append(f"{name} {value:.4g} -> {measured['after'][name]:.4g}")
    lines.append(f"same prediction {measured['same_prediction']:.2%}")
    return f"{lines[0]}\non the validation split: {', '.join(lines[1:])}"
