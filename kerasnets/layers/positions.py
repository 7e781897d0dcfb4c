"""Positions: Vaswani et al. 2017, section 3.5; learned; rotary.   B batch, T positions, D width, N heads, H = D / N."""

import keras
from keras import ops

from kerasnets.checks import check_counts
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class PositionalEncoding(MaskedLayer):
    """Add sinusoids to the embeddings: they encode the order of the tokens.

        PE(p, 2i) = sin(p / 10000^(2i/D))        PE(p, 2i+1) = cos(p / 10000^(2i/D))

    It needs no tables or weights and can compute any position, even past the longest training sentence.
    PE(p+k) is a linear function of PE(p), a rotation by an angle that depends only on k.

    Call: x [B, T, D], start: position of x[:, 0], an integer or an integer tensor, for all rows or [B]; or all
        positions, int [B|1, T|1].
    Returns: x + PE, [B, T, D].
    """

    def build(self, x_shape):
        if x_shape[-1] % 2:
            raise ValueError(f"the width is {x_shape[-1]}; it must be even, since sines and cosines come in pairs.")

    def call(self, x, start=0):
        return x + ops.cast(self.encoding(position_ids(start, ops.shape(x)[1]), x.shape[-1]), x.dtype)

    @staticmethod
    def encoding(positions, width):
        """positions [...] -> [..., D] in float32."""
        phases = angles(positions, width)
        pairs = ops.stack([ops.sin(phases), ops.cos(phases)], axis=-1)  # [..., D/2, 2]
        return ops.reshape(pairs, (*ops.shape(positions), width))

    def compute_output_shape(self, x_shape):
        return x_shape


@register
class LearnedPositions(MaskedLayer):
    """Add a learned vector for each position up to `length` (Gehring et al. 2017, section 3.1).

    A sequence past the end of the table raises ValueError if its length is known when the graph is built, and gives
    NaN if it is known only at run time (a position inside `step`, an axis of any length).

    Args: length L of the table.
    Call: x [B, T, D], start: position of x[:, 0], as for `PositionalEncoding`.
    Returns: x + table[start : start + T], [B, T, D].
    """

    def __init__(self, length, **kwargs):
        super().__init__(**kwargs)
        check_counts(length=length)
        self.length = length

    def build(self, x_shape):
        initializer = keras.initializers.RandomNormal(stddev=x_shape[-1] ** -0.5)
        self.table = self.add_weight((self.length, x_shape[-1]), initializer, name="table")

    def call(self, x, start=0):
        end = start + ops.shape(x)[1]
        if isinstance(end, int) and end > self.length:
            raise ValueError(f"the sequence ends at position {end}; the table of learned positions has {self.length}.")
        # Past the table some devices would silently read zeros or the last row, so append a row of NaN.
        table = ops.pad(self.table, [[0, 1], [0, 0]], constant_values=float("nan"))
        rows = ops.take(table, ops.minimum(position_ids(start, ops.shape(x)[1]), self.length), axis=0)  # [B|1, T, D]
        return x + ops.cast(rows, x.dtype)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {"length": self.length}


def rotate(x, start=0):
    """Rotate each pair of features by an angle proportional to the position (Su et al. 2021, eq. 34: RoPE).

        (a, b) -> (a cos pθ_i - b sin pθ_i,  a sin pθ_i + b cos pθ_i)       θ_i = 10000^(-2i/H)

    The product of a query at p with a key at q then depends only on their features and on p - q, so that positions
    are relative, and any can be computed. Feature i is paired with i + H/2, so that whole halves are moved; the paper
    pairs neighbours, which is equivalent up to the order of the weights.

    Args: x [B, N, T, H], start: position of x[:, :, 0], as for `PositionalEncoding`.
    Returns: [B, N, T, H].
    """
    half = x.shape[-1] // 2
    phases = ops.expand_dims(angles(position_ids(start, ops.shape(x)[2]), x.shape[-1]), 1)  # [B|1, 1, T, H/2]
    cos, sin = ops.cast(ops.cos(phases), x.dtype), ops.cast(ops.sin(phases), x.dtype)
    a, b = x[..., :half], x[..., half:]
    return ops.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def position_ids(start, length):
    """-> int [B|1, T]. `start` is the first position, an integer or [B], or all positions, int [B|1, T|1]."""
    start = ops.convert_to_tensor(start)
    if len(ops.shape(start)) == 2:
        return start
    return ops.reshape(start, (-1, 1)) + ops.expand_dims(ops.arange(length, dtype="int32"), 0)


def angles(positions, width):
    """p 10000^(-2i/D): positions [...] -> [..., D/2] in float32: half precision rounds 2049 to 2048."""
    frequencies = 10000.0 ** (-ops.arange(0, width, 2, dtype="float32") / width)
    return ops.expand_dims(ops.cast(positions, "float32"), -1) * frequencies
