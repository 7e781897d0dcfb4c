"""The network in the formats of other runtimes: LiteRT (formerly TensorFlow Lite), for phones and small devices, and
ONNX. They do not support strings: the inputs are pixels or tokens, the outputs logits (`Task.arrays`).
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from kerasnets.command import stderr_held_back
from kerasnets.saved_model.artifacts import FORMATS
from kerasnets.tasks.arrays import ArrayNetwork

TOLERANCE = 1e-4  # of logits, relative to the largest one if that is above 1
SIZES = ((1, 12), (3, 7))  # rows and steps of the inputs that test a file

Arrays = dict[str, np.ndarray]


class FormatError(RuntimeError):
    """A network cannot be converted to a format, or its outputs differ there: one sentence."""


def write_all(network: ArrayNetwork, names: Iterable[str], directory: Path) -> dict[str, dict[str, Any]]:
    """Write the network in each format; -> the result of `write` for each, or {"failed": reason}."""
    results = {}
    for name in names:
        try:
            results[name] = write(network, name, directory)
        except FormatError as error:
            results[name] = {"failed": str(error)}
    return results


def write(network: ArrayNetwork, name: str, directory: Path) -> dict[str, Any]:
    """Write the network in one of FORMATS into the directory, and compare the file's outputs with the network's.

    Returns: for the model card: file; megabytes; inputs {name: shape}, -1 = free; names of the outputs; difference, the
        largest from the network's own outputs.
    Raises: FormatError; the file is then removed.
    """
    path, kind = directory / FORMATS[name], type(network.model).__name__
    exported, specs = Exported(network), specs_of(network, name)
    tried = [draw(network, specs, rows, steps) for rows, steps in SIZES]
    expected = [{key: value.numpy() for key, value in exported(*inputs.values()).items()} for inputs in tried]
    try:
        with stderr_held_back():  # the converters log every step
            with readable_loops():
                export(exported, name, path, specs)
            answer = RUNTIMES[name](path)
            answers = [answer(inputs) for inputs in tried]
    except Exception as error:
        path.unlink(missing_ok=True)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FormatError(f"this {kind} cannot be written as {name}: {lines[-1]}.") from error
    apart = max(difference(*pair) for pair in zip(expected, answers, strict=True))
    if apart > TOLERANCE:
        path.unlink()
        raise FormatError(f"this {kind} computes something else as {name}: it differs by {apart:.1e}.")
    return {
        "file": path.name,
        "megabytes": path.stat().st_size / 1e6,
        "inputs": {spec.name: [-1 if size is None else size for size in spec.shape] for spec in specs},
        "outputs": list(expected[0]),
        "difference": apart,
    }


class Exported(keras.Model):
    """The network as a Keras model, for Keras's exporters."""

    def __init__(self, network: ArrayNetwork):
        super().__init__()
        self.model, self.network, self.built = network.model, network, True

    def call(self, *inputs, training=None):
        return self.network.call(*inputs)


def specs_of(network: ArrayNetwork, name: str) -> list[tf.TensorSpec]:
    """-> the network's input specs for the format.

    LiteRT collects a loop's outputs in lists whose elements have a fixed shape: with a loop, the batch is 1.
    """
    batch = 1 if name == "litert" and network.recurrent else None
    return [tf.TensorSpec((batch, *spec.shape[1:]), spec.dtype, spec.name) for spec in network.inputs]


def draw(network: ArrayNetwork, specs: list[tf.TensorSpec], rows: int, steps: int) -> Arrays:
    """-> random inputs with this number of rows (or the fixed batch size) and steps."""
    random = np.random.default_rng(rows)
    steps = min(steps, network.max_length or steps)
    drawn = {}
    for spec in specs:
        free = iter((rows, steps) if spec.shape[0] is None else (steps,))
        shape = [next(free) if size is None else size for size in spec.shape]
        if spec.dtype == tf.int32:
            drawn[spec.name] = random.integers(1, network.vocabulary_size, shape, np.int32)
        elif spec.name == "pixels":
            drawn[spec.name] = random.uniform(0, 255, shape).astype(np.float32)
        else:
            drawn[spec.name] = random.uniform(-1, 1, shape).astype(np.float32)
    for name in network.padded:
        drawn[name][:, -2:] = 0
    return drawn


def export(exported: Exported, name: str, path: Path, specs: list[tf.TensorSpec]) -> None:
    """Write a file with Keras's exporters."""
    # Only LiteRT's operations: with TensorFlow's, an application would have to include all of TensorFlow.
    operations = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}} if name == "litert" else {}
    exported.export(str(path), format=name, input_signature=specs, verbose=False, **operations)


def onnx_runtime(path: Path) -> Callable[[Arrays], Arrays]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def litert_runtime(path: Path) -> Callable[[Arrays], Arrays]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda inputs: runner(**inputs)


RUNTIMES = {"litert": litert_runtime, "onnx": onnx_runtime}


def difference(expected: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray]) -> float:
    """-> the largest difference, relative to the largest expected value if that is above 1; infinite if shapes differ
    or an answer is not finite."""
    largest = 0.0
    for name, value in expected.items():
        if value.shape != answers[name].shape or not np.all(np.isfinite(answers[name])):
            return np.inf
        apart = np.max(np.abs(value - answers[name])) / max(1.0, np.max(np.abs(value)))
        largest = max(largest, float(apart))
    return largest


@contextlib.contextmanager
def readable_loops() -> Iterator[None]:
    """Work around bugs of the converters while a graph is traced and converted.

    Keras's `scan` keeps the carry in arrays of one element, which tf2onnx mistakes for outputs: the loop fails. And of
    two consecutive reshapes tf2onnx removes the first, even if the second one's shape is computed from its result.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(keras.ops, "scan", scan))
        if importlib.util.find_spec("tf2onnx"):
            from tf2onnx import optimizer

            kept = {name: kind for name, kind in optimizer._get_optimizers().items() if name != "remove_back_to_back"}
            stack.enter_context(mock.patch.object(optimizer, "_get_optimizers", return_value=kept))
        yield


def scan(f: Callable, init: Any, xs: tf.Tensor, reverse: bool = False) -> tuple[Any, Any]:
    """`keras.ops.scan` over one array, with the carry in the loop's variables."""
    carried = [tf.convert_to_tensor(value) for value in tf.nest.flatten(init)]
    count = tf.shape(xs)[0]
    emitted = [tf.TensorArray(value.dtype, size=count, element_shape=value.shape) for value in carried]

    def body(step, carried, emitted):
        place = count - 1 - step if reverse else step
        carry, outputs = f(tf.nest.pack_sequence_as(init, carried), xs[place])
        written = [array.write(place, value) for array, value in zip(emitted, tf.nest.flatten(outputs), strict=True)]
        return step + 1, tf.nest.flatten(carry), written

    _, carried, emitted = tf.while_loop(lambda step, *_: step < count, body, (0, carried, emitted))
    return tuple(tf.nest.pack_sequence_as(init, values) for values in (carried, [array.stack() for array in emitted]))
