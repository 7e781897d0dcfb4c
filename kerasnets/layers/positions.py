"""Positions: Vaswani et al. 2017, section 3.5."""

import keras
from keras import ops

register = keras.saving.register_keras_serializable("kerasnets")


@register
class PositionalEncoding(keras.layers.Layer):
    """Adds sinusoids to the embeddings, so that the network can tell the order of the words.

        PE(p, 2i) = sin(p / 10000^(2i/D))        PE(p, 2i+1) = cos(p / 10000^(2i/D))

    There is no table and no weight: any position can be computed, also past the longest training sentence, and
    PE(p+k) is a linear function of PE(p), a rotation by an angle that depends on k alone.

    Call: x [B, T, D], start: position of x[:, 0], an integer or an integer tensor.
    Returns: x + PE, [B, T, D].
    """

    def build(self, x_shape):
        if x_shape[-1] % 2:
            raise ValueError(f"the width is {x_shape[-1]}; sines and cosines come in pairs, so it must be even.")

    def call(self, x, start=0):
        positions = ops.cast(start + ops.arange(ops.shape(x)[1]), "float32")
        return x + ops.cast(self.encoding(positions, x.shape[-1]), x.dtype)

    @staticmethod
    def encoding(positions, width):
        """positions [T] -> [T, D] in float32: half precision cannot tell position 2049 from 2050."""
        frequencies = 10000.0 ** (-ops.arange(0, width, 2, dtype="float32") / width)  # [D/2]
        angles = ops.expand_dims(positions, 1) * frequencies  # [T, D/2]
        return ops.reshape(ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1), (-1, width))

    def compute_output_shape(self, x_shape):
        return x_shape
