"""The network alone in the formats of other runtimes: LiteRT (once TensorFlow Lite), for phones and small devices, and
ONNX. Neither of them knows strings: what goes in are pixels or tokens, what comes out are logits.

    B batch, T, S lengths, U units, V classes or tokens; free sizes unless told otherwise

    ConvNet, SequenceClassifier   pixels [B, Y, X, C], 0..255                        -> logits [B, V]
    SequenceGenerator             pixels [B, Y, X, C], target [B, T]                 -> logits [B, T, V]
    CharLSTM                      tokens [B, T], h_N, c_N [B, U] of layer N          -> logits [B, T, V], next_h_N, ...
    Transformer, Seq2SeqLSTM      source [B, S], target [B, T]                       -> logits [B, T, V]

LiteRT keeps what a loop collects in lists whose elements have a fixed shape: there, B is 1 for networks with LSTMs.
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
from kerasnets.models import CharLSTM, ConvNet, SequenceClassifier, SequenceGenerator, Transformer
from kerasnets.saved_model.artifacts import FORMATS

TOLERANCE = 1e-4  # of logits, or of their largest where that is above 1
SIZES = ((1, 12), (3, 7))  # rows and steps with which a file is tried

Arrays = dict[str, np.ndarray]


class FormatError(RuntimeError):
    """A network that a format does not take, or that computes something else there: one sentence."""


def write_all(model: keras.Model, names: Iterable[str], directory: Path) -> dict[str, dict[str, Any]]:
    """Writes the network in each of the formats. -> what `write` tells of each; of one that fails, {"failed": why}."""
    told = {}
    for name in names:
        try:
            told[name] = write(model, name, directory)
        except FormatError as error:
            told[name] = {"failed": str(error)}
    return told


def write(model: keras.Model, name: str, directory: Path) -> dict[str, Any]:
    """Writes the network in one of FORMATS into the directory, and runs the file against it.

    Returns: for the model card: file; megabytes; inputs {name: shape}, -1 = free; names of the outputs; difference, the
        largest from the network's own outputs.
    Raises: FormatError, and there is no file.
    """
    network, path = Network(model), directory / FORMATS[name]
    specs = network.specs(batch=1 if name == "litert" and not isinstance(model, ConvNet | Transformer) else None)
    tried = [network.draw(specs, rows, steps) for rows, steps in SIZES]
    expected = [{key: value.numpy() for key, value in network(*inputs.values()).items()} for inputs in tried]
    try:
        with stderr_held_back():  # the converters tell of every step that they take
            with readable_loops():
                export(network, name, path, specs)
            answer = RUNTIMES[name](path)
            answers = [answer(inputs) for inputs in tried]
    except Exception as error:
        path.unlink(missing_ok=True)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FormatError(f"this {type(model).__name__} cannot be written as {name}: {lines[-1]}.") from error
    apart = max(difference(*pair) for pair in zip(expected, answers, strict=True))
    if apart > TOLERANCE:
        path.unlink()
        raise FormatError(f"this {type(model).__name__} computes something else as {name}: it differs by {apart:.1e}.")
    return {
        "file": path.name,
        "megabytes": path.stat().st_size / 1e6,
        "inputs": {spec.name: [-1 if size is None else size for size in spec.shape] for spec in specs},
        "outputs": list(expected[0]),
        "difference": apart,
    }


class Network(keras.Model):
    """A model with named arrays as inputs, and named ones as outputs."""

    def __init__(self, model: keras.Model):
        super().__init__()
        self.model, self.built = model, True

    def call(self, *inputs, training=None):
        model = self.model
        if isinstance(model, CharLSTM):
            tokens, *states = inputs
            logits, states = model.run(tokens, list(zip(states[::2], states[1::2], strict=True)))
            return {"logits": logits} | {
                f"next_{name}_{n}": state
                for n, pair in enumerate(states)
                for name, state in zip("hc", pair, strict=True)
            }
        if isinstance(model, ConvNet | SequenceClassifier):
            return {"logits": model(*inputs)}
        first = "given" if isinstance(model, SequenceGenerator) else "source"
        return {"logits": model({first: inputs[0], "target": inputs[1]})}

    def specs(self, batch: int | None) -> list[tf.TensorSpec]:
        """-> name, shape and type of each input."""
        model = self.model

        def tokens(name: str) -> tf.TensorSpec:
            return tf.TensorSpec((batch, None), tf.int32, name)

        def pixels(shape: Any) -> tf.TensorSpec:
            return tf.TensorSpec((batch, *shape[1:]), tf.float32, "pixels")

        if isinstance(model, CharLSTM):
            names = [f"{name}_{n}" for n in range(model.num_layers) for name in "hc"]
            return [tokens("tokens"), *(tf.TensorSpec((batch, model.units), tf.float32, name) for name in names)]
        built = model.get_build_config()["input_shape"]
        if isinstance(model, ConvNet | SequenceClassifier):
            return [pixels(built)]
        if isinstance(model, SequenceGenerator):
            return [pixels(built["given"]), tokens("target")]
        return [tokens("source"), tokens("target")]

    def draw(self, specs: list[tf.TensorSpec], rows: int, steps: int) -> Arrays:
        """-> inputs of that size, drawn at random; where the batch is fixed, of that batch."""
        random = np.random.default_rng(rows)
        steps = min(steps, getattr(self.model, "max_length", None) or steps)
        drawn = {}
        for spec in specs:
            free = iter((rows, steps) if spec.shape[0] is None else (steps,))
            shape = [next(free) if size is None else size for size in spec.shape]
            if spec.dtype == tf.int32:
                drawn[spec.name] = random.integers(1, self.model.vocabulary_size, shape, np.int32)
            elif spec.name == "pixels":
                drawn[spec.name] = random.uniform(0, 255, shape).astype(np.float32)
            else:
                drawn[spec.name] = random.uniform(-1, 1, shape).astype(np.float32)
        if "source" in drawn:
            drawn["source"][:, -2:] = 0  # padding
        return drawn


def export(network: Network, name: str, path: Path, specs: list[tf.TensorSpec]) -> None:
    """Through Keras's exporters."""
    # LiteRT's operations alone: with TensorFlow's, an application would have to carry all of TensorFlow.
    operations = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}} if name == "litert" else {}
    network.export(str(path), format=name, input_signature=specs, verbose=False, **operations)


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
    """-> the largest, as a share of the largest number expected where that is above 1; infinite if shapes differ or an
    answer is no number."""
    largest = 0.0
    for name, value in expected.items():
        if value.shape != answers[name].shape or not np.all(np.isfinite(answers[name])):
            return np.inf
        apart = np.max(np.abs(value - answers[name])) / max(1.0, np.max(np.abs(value)))
        largest = max(largest, float(apart))
    return largest


@contextlib.contextmanager
def readable_loops() -> Iterator[None]:
    """What the converters stumble over, left out while a graph is traced and converted.

    Keras's `scan` keeps what a step hands to the next in arrays of one element, which tf2onnx takes for outputs: the
    loop fails. And of two reshapes in a row tf2onnx removes the first, whose shape the second may have been made of.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(keras.ops, "scan", scan))
        if importlib.util.find_spec("tf2onnx"):
            from tf2onnx import optimizer

            kept = {name: kind for name, kind in optimizer._get_optimizers().items() if name != "remove_back_to_back"}
            stack.enter_context(mock.patch.object(optimizer, "_get_optimizers", return_value=kept))
        yield


def scan(f: Callable, init: Any, xs: tf.Tensor, reverse: bool = False) -> tuple[Any, Any]:
    """`keras.ops.scan` over one array, what is carried being the loop's own variables."""
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
