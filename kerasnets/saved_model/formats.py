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

from kerasnets.command import buffered_stderr
from kerasnets.saved_model.artifacts import FORMATS
from kerasnets.tasks.arrays import ArrayNetwork

TOLERANCE = 1e-4  # of logits, relative to the largest one if that is above 1
TEST_SIZES = ((1, 12), (3, 7))  # rows and steps of the inputs that test a file

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
    model, specs = ExportModel(network), input_specs(network, name)
    test_inputs = [random_inputs(network, specs, rows, steps) for rows, steps in TEST_SIZES]
    expected = [{key: value.numpy() for key, value in model(*inputs.values()).items()} for inputs in test_inputs]
    try:
        with buffered_stderr():  # the converters log every step
            with converter_workarounds():
                export(model, name, path, specs)
            run = RUNTIMES[name](path)
            outputs = [run(inputs) for inputs in test_inputs]
    except Exception as error:
        path.unlink(missing_ok=True)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FormatError(f"this {kind} cannot be written as {name}: {lines[-1]}.") from error
    max_difference = max(difference(*pair) for pair in zip(expected, outputs, strict=True))
    if max_difference > TOLERANCE:
        path.unlink()
        raise FormatError(f"as {name}, the outputs of this {kind} differ by {max_difference:.1e}.")
    return {
        "file": path.name,
        "megabytes": path.stat().st_size / 1e6,
        "inputs": {spec.name: [-1 if size is None else size for size in spec.shape] for spec in specs},
        "outputs": list(expected[0]),
        "difference": max_difference,
    }


class ExportModel(keras.Model):
    """The network as a Keras model, for Keras's exporters."""

    def __init__(self, network: ArrayNetwork):
        super().__init__()
        self.model, self.network, self.built = network.model, network, True

    def call(self, *inputs, training=None):
        return self.network.call(*inputs)


def input_specs(network: ArrayNetwork, name: str) -> list[tf.TensorSpec]:
    """-> the network's input specs for the format.

    LiteRT collects a loop's outputs in lists whose elements have a fixed shape: with a loop, the batch is 1.
    """
    batch = 1 if name == "litert" and network.recurrent else None
    return [tf.TensorSpec((batch, *spec.shape[1:]), spec.dtype, spec.name) for spec in network.inputs]


def random_inputs(network: ArrayNetwork, specs: list[tf.TensorSpec], rows: int, steps: int) -> Arrays:
    """-> random inputs with this number of rows (or the fixed batch size) and steps."""
    random = np.random.default_rng(rows)
    steps = min(steps, network.max_length or steps)
    inputs = {}
    for spec in specs:
        free_sizes = iter((rows, steps) if spec.shape[0] is None else (steps,))
        shape = [next(free_sizes) if size is None else size for size in spec.shape]
        if spec.dtype == tf.int32:
            inputs[spec.name] = random.integers(1, network.vocabulary_size, shape, np.int32)
        elif spec.name == "pixels":
            inputs[spec.name] = random.uniform(0, 255, shape).astype(np.float32)
        else:
            inputs[spec.name] = random.uniform(-1, 1, shape).astype(np.float32)
    for name in network.padded:
        inputs[name][:, -2:] = 0
    return inputs


def export(model: ExportModel, name: str, path: Path, specs: list[tf.TensorSpec]) -> None:
    """Write a file with Keras's exporters."""
    # Only LiteRT's operations: with TensorFlow's, an application would have to include all of TensorFlow.
    operations = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}} if name == "litert" else {}
    model.export(str(path), format=name, input_signature=specs, verbose=False, **operations)


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


def difference(expected: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> float:
    """-> the largest difference, relative to the largest expected value if that is above 1; infinite if shapes differ
    or an output is not finite."""
    largest = 0.0
    for name, value in expected.items():
        if value.shape != outputs[name].shape or not np.all(np.isfinite(outputs[name])):
            return np.inf
        error = np.max(np.abs(value - outputs[name])) / max(1.0, np.max(np.abs(value)))
        largest = max(largest, float(error))
    return largest


@contextlib.contextmanager
def converter_workarounds() -> Iterator[None]:
    """Work around bugs of the converters while a graph is traced and converted.

    Keras's `scan` keeps the carry in arrays of one element, which tf2onnx mistakes for outputs: the loop fails. And of
    two consecutive reshapes tf2onnx removes the first, even if the second one's shape is computed from its result. It
    has no erfc, in which TensorFlow writes GELU.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(keras.ops, "scan", scan))
        stack.enter_context(mock.patch.object(keras.ops, "gelu", gelu))
        if importlib.util.find_spec("tf2onnx"):
            from tf2onnx import optimizer

            passes = {name: cls for name, cls in optimizer._get_optimizers().items() if name != "remove_back_to_back"}
            stack.enter_context(mock.patch.object(optimizer, "_get_optimizers", return_value=passes))
        yield


def scan(f: Callable, init: Any, xs: tf.Tensor, reverse: bool = False) -> tuple[Any, Any]:
    """`keras.ops.scan` over one array, with the carry in the loop's variables."""
    carry = [tf.convert_to_tensor(value) for value in tf.nest.flatten(init)]
    steps = tf.shape(xs)[0]
    arrays = [tf.TensorArray(value.dtype, size=steps, element_shape=value.shape) for value in carry]

    def body(step, carry, arrays):
        index = steps - 1 - step if reverse else step
        carry, outputs = f(tf.nest.pack_sequence_as(init, carry), xs[index])
        arrays = [array.write(index, value) for array, value in zip(arrays, tf.nest.flatten(outputs), strict=True)]
        return step + 1, tf.nest.flatten(carry), arrays

    _, carry, arrays = tf.while_loop(lambda step, *_: step < steps, body, (0, carry, arrays))
    return tuple(tf.nest.pack_sequence_as(init, values) for values in (carry, [array.stack() for array in arrays]))


def gelu(x: tf.Tensor, approximate: bool = True) -> tf.Tensor:
    """`keras.ops.gelu`, the exact one by erf."""
    return tf.nn.gelu(x, approximate=True) if approximate else 0.5 * x * (1 + tf.math.erf(x / 2**0.5))
