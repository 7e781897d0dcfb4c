"""Compressed weights: float16, or int8 with a scale for each output. Computation is in float32.

    float16   w ≈ float32(h),  h = w rounded to 16 bits
    int8      w ≈ s · q,       q = round(w / s),  s = max |w| / 127 over the weights of one output

(symmetric weight-only quantization, one scale per channel: Krishnamoorthi 2018, section 3.1.) An exported graph stores
h, or q and s, and restores w once at the beginning of a call, before any loop over time or generated tokens. Vectors
are not compressed: biases, normalizations and their statistics are few and matter most.
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

TABLES = ("embeddings", "table")  # variables with one output per row, not per column
MIN_WEIGHTS_PER_SCALE = 8  # fewer save too little
MAX_PREDICTIONS = 10_000  # of the validation split, so that an export does not wait for a large one


class StoredWeight:
    """The stored form of a model's variable: `parts`, from which `restore` computes its value."""

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
        values, *scale = (tf.convert_to_tensor(part) for part in self.parts)
        return functools.reduce(tf.multiply, scale, tf.cast(values, tf.float32))


class CompressedModel:
    """A model's stored weights, and its signatures that compute with them.

    Attributes:
        model: the Keras model, unchanged.
        stored: its compressed variables; the others are stored in float32.
    """

    def __init__(self, model: keras.Model, storage: str):
        self.model, self.storage = model, storage
        self.stored = [StoredWeight(v, storage) for v in model.variables if is_compressible(v, storage)]

    def signatures(self, task: Task) -> dict[str, Any]:
        """-> the task's signatures, each of which first restores the weights."""
        signatures = task.signatures(self.model)
        if not self.stored:
            return signatures
        # Signatures call each other, and a traced one keeps the weights of the graph that called it: so each comes from
        # a separate set.
        return {name: self._with_restored_weights(task.signatures(self.model)[name]) for name in signatures}

    def _with_restored_weights(self, function: Any) -> Callable:
        @functools.wraps(function.python_function)
        def restore_and_call(*inputs):
            weights = [(weight.variable, weight.restore()) for weight in self.stored]
            with keras.StatelessScope(state_mapping=weights):
                return function(*inputs)

        # `function` is already a graph function with its own autograph setting.
        return tf.function(restore_and_call, input_signature=function.input_signature, autograph=False)

    @contextlib.contextmanager
    def rounded_weights(self) -> Iterator[keras.Model]:
        """Assign the restored weights to the model until the end of the block."""
        original = [weight.variable.numpy() for weight in self.stored]
        for weight in self.stored:
            weight.variable.assign(weight.restore())
        try:
            yield self.model
        finally:
            for weight, value in zip(self.stored, original, strict=True):
                weight.variable.assign(value)

    def megabytes(self) -> tuple[float, float]:
        """-> megabytes (10^6 bytes) of all variables before and after compression."""
        before = sum(size(variable.value) for variable in self.model.variables)
        saved = sum(size(weight.variable.value) - sum(map(size, weight.parts)) for weight in self.stored)
        return before / 1e6, (before - saved) / 1e6


def input_axes(variable: keras.Variable) -> tuple[int, ...]:
    """-> the axes of the weights of one output: all but the last; for a table, all but the first."""
    axes = tuple(range(len(variable.shape)))
    return axes[1:] if variable.name in TABLES else axes[:-1]


def is_compressible(variable: keras.Variable, storage: str) -> bool:
    """Whether to compress a variable: only float32 matrices that the storage can represent."""
    if storage == "float32" or len(variable.shape) < 2 or variable.dtype != "float32":
        return False
    if storage == "float16":
        return bool(np.max(np.abs(variable.numpy()), initial=0) <= np.finfo(np.float16).max)
    return int(np.prod([variable.shape[axis] for axis in input_axes(variable)])) >= MIN_WEIGHTS_PER_SCALE


def size(variable: tf.Variable) -> int:
    return int(np.prod(variable.shape)) * variable.dtype.size


def card(task: Task, compressed: CompressedModel) -> dict[str, Any]:
    """-> the section `weights` of the model card: storage and size, and "quality" (see `quality`) unless the storage is
    float32.
    """
    before, after = compressed.megabytes()
    section = {"storage": compressed.storage, "megabytes_before": before, "megabytes_after": after}
    return section if compressed.storage == "float32" else section | {"quality": quality(task, compressed)}


def quality(task: Task, compressed: CompressedModel) -> dict[str, Any]:
    """Compare a model with its own weights and with the stored ones on the validation split.

    Returns:
        split: the part that was used; before and after: the task's metrics; predictions: number of predictions (of a
        class, a character, a subword) whose logits were compared; largest_logit_difference; same_prediction: share of
        predictions with the same argmax. If the data cannot be read: not_measured, a sentence.
    """
    limit = task.facts.evaluation_limit
    # One graph for both: it reads the variables at each call.
    signatures = task.signatures(compressed.model)
    try:
        before = task.evaluate(signatures, "validation", compressed.model, limit)
    except DataError as error:
        return {"not_measured": str(error)}
    with compressed.rounded_weights() as model:
        after = task.evaluate(signatures, "validation", model, limit)
    return {
        "split": f"validation, its first {limit:,} {task.facts.unit}",
        "before": scores(before),
        "after": scores(after),
    } | compare(task, compressed)


def scores(evaluation: dict[str, Any]) -> dict[str, Any]:
    """-> the metrics that are numbers, and the number of examples."""
    counts = ("examples", "sentences", "characters")
    return {name: value for name, value in evaluation.items() if isinstance(value, float) or name in counts}


def compare(task: Task, compressed: CompressedModel) -> dict[str, Any]:
    """-> the differences between the logits of held-out examples."""
    rounded_batches = task.validation_logits(compressed.model)
    predictions, same, largest = 0, 0, 0.0
    for logits, _ in task.validation_logits(compressed.model):
        with compressed.rounded_weights():
            rounded_logits, _ = next(rounded_batches)
        predictions += len(logits)
        same += int(np.sum(logits.argmax(axis=-1) == rounded_logits.argmax(axis=-1)))
        largest = max(largest, float(np.max(np.abs(logits - rounded_logits), initial=0)))
        if predictions >= MAX_PREDICTIONS:
            break
    return {
        "predictions": predictions,
        "largest_logit_difference": largest,
        "same_prediction": same / max(predictions, 1),
    }


def summary(section: dict[str, Any]) -> str:
    """-> one or two lines about the result of `card`."""
    before, after, quality = section["megabytes_before"], section["megabytes_after"], section["quality"]
    size = f"weights in {section['storage']}: {before:.2f} MB -> {after:.2f} MB"
    if "not_measured" in quality:
        return f"{size}; the effect on the scores was not measured: {quality['not_measured']}"
    metrics = [
        f"{name} {value:.4g} -> {quality['after'][name]:.4g}"
        for name, value in quality["before"].items()
        if isinstance(value, float)
    ]
    metrics.append(f"same prediction {quality['same_prediction']:.2%}")
    return f"{size}\non the validation split: {', '.join(metrics)}"
