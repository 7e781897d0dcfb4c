"""`python -m benchmarks.layers [recurrent] [convolution] [transformer]`: compare training steps of layers of kerasnets
with those of Keras and KerasHub.

A step is the forward pass in training and the gradients with respect to the inputs and all weights, as one TensorFlow
graph. Both layers have the same sizes. Without arguments all families are measured.
"""

import os
import sys
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from benchmarks.timing import compare
from kerasnets.layers import LSTM, ConvBlock

Row = tuple[str, str, float, float, float]
REPEATS = 15


def training_step(layer: keras.layers.Layer, inputs: list[tf.Tensor], **call: object) -> Callable[[], object]:
    """-> a function that runs one complete step. `layer` returns its output, or several arrays with it as the first."""
    outputs = keras.tree.flatten(layer(*inputs, **call))
    upstream = tf.random.stateless_normal(outputs[0].shape, (0, 1))
    variables = [v.value for v in layer.trainable_variables]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = keras.tree.flatten(layer(*inputs, **call, training=True))[0]
            total = tf.reduce_sum(output * upstream)
        # Sums need every gradient, and only scalars are copied.
        return [tf.reduce_sum(g) for g in tape.gradient(total, [*inputs, *variables])]

    return lambda: [x.numpy() for x in step()]


def normal(*shape: int) -> tf.Tensor:
    return tf.random.stateless_normal(shape, (len(shape), shape[0]))


class TwoLayers(keras.layers.Layer):
    """Two stacked LSTMs; `outputs` extracts the output sequence from the results of a layer."""

    def __init__(self, first, second, outputs):
        super().__init__()
        self.first, self.second, self.outputs = first, second, outputs

    def call(self, x, training=None):
        x = self.outputs(self.first(x, training=training))
        return self.outputs(self.second(x, training=training))


def lstm_rows() -> Iterator[Row]:
    x = normal(64, 128, 256)
    ours = TwoLayers(LSTM(256), LSTM(256), lambda results: results[0])
    theirs = TwoLayers(*(keras.layers.LSTM(256, return_sequences=True) for _ in range(2)), lambda outputs: outputs)
    steps = training_step(ours, [x]), training_step(theirs, [x])
    yield "LSTM", "2×256, batch 64×128; keras.layers.LSTM", *compare(*steps, REPEATS)


def convolution_rows() -> Iterator[Row]:
    for channels, side in [(32, 28), (64, 14), (128, 7)]:
        x = normal(128, side, side, channels)
        stock = keras.Sequential(
            [
                keras.layers.Conv2D(channels, 3, padding="same", use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
            ]
        )
        steps = training_step(ConvBlock(channels), [x]), training_step(stock, [x])
        configuration = f"3×3, {channels} to {channels}, batch 128×{side}×{side}; stock layers in sequence"
        yield "ConvBlock", configuration, *compare(*steps, REPEATS)


def main(names: list[str]) -> None:
    from benchmarks.transformer_layers import rows as transformer_rows

    families = {"recurrent": lstm_rows, "convolution": convolution_rows, "transformer": transformer_rows}
    if unknown := set(names) - set(families):
        sys.exit(f"there are no layers {', '.join(sorted(unknown))}; choose from {', '.join(families)}.")
    print("| layer | configuration; against | ours, ms | theirs, ms | ratio |\n|---|---|---|---|---|")
    for family in names or families:
        for layer, configuration, ours, theirs, ratio in families[family]():
            print(f"| `{layer}` | {configuration} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
