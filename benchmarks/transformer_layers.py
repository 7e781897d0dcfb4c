"""The Transformer's layers compared with Keras and KerasHub: rows of `python -m benchmarks.layers`.

KerasHub (`pip install keras-hub`) is not a dependency: without it its rows are skipped.
"""

import sys
from collections.abc import Iterator

import keras

from benchmarks.layers import REPEATS, Row, normal, training_step
from benchmarks.timing import compare
from kerasnets.layers import DecoderBlock, EncoderBlock, MultiHeadAttention

BATCHES = [(64, 32), (8, 512)]  # sentences, their length


class SelfAttention(keras.layers.Layer):
    """Self-attention with Keras's attention layer."""

    def __init__(self, attention, **options):
        super().__init__()
        self.attention, self.options = attention, options

    def call(self, x, training=None):
        return self.attention(x, x, training=training, **self.options)


def rows() -> Iterator[Row]:
    yield from attention_rows()
    yield from block_rows()


def attention_rows() -> Iterator[Row]:
    for width in (128, 512):
        for heads in (4, 8):
            for batch, length in BATCHES:
                for causal in (False, True):
                    x = normal(batch, length, width)
                    stock = SelfAttention(
                        keras.layers.MultiHeadAttention(heads, width // heads), use_causal_mask=causal
                    )
                    steps = training_step(MultiHeadAttention(heads), [x], causal=causal), training_step(stock, [x])
                    mask = ", causal" if causal else ""
                    configuration = f"{width} wide, {heads} heads, batch {batch}×{length}{mask}; stock"
                    yield "MultiHeadAttention", configuration, *compare(*steps, REPEATS)


def block_rows() -> Iterator[Row]:
    try:
        from keras_hub.layers import TransformerDecoder, TransformerEncoder
    except ImportError:
        print(
            "keras-hub is not installed (pip install keras-hub); the rows of its blocks are skipped.", file=sys.stderr
        )
        return
    for dropout in (0.0, 0.1):
        for width, heads in [(128, 4), (512, 8)]:
            for batch, length in BATCHES:
                x, memory = normal(batch, length, width), normal(batch, length, width)
                hidden = 4 * width
                sides = [
                    (EncoderBlock(heads, hidden, dropout), TransformerEncoder(hidden, heads, dropout), [x]),
                    (DecoderBlock(heads, hidden, dropout), TransformerDecoder(hidden, heads, dropout), [x, memory]),
                ]
                for ours, theirs, inputs in sides:
                    steps = training_step(ours, inputs), training_step(theirs, inputs)
                    configuration = f"{width} wide, {heads} heads, batch {batch}×{length}, dropout {dropout}; KerasHub"
                    yield type(ours).__name__, configuration, *compare(*steps, REPEATS)
