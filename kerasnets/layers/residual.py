"""Residual connections with their normalization: Vaswani et al. 2017, section 3.1.   B batch, T positions, D width."""

import keras

from kerasnets.checks import check_fractions
from kerasnets.layers.masking import MaskedLayer
from kerasnets.layers.normalization import LayerNormalization

register = keras.saving.register_keras_serializable("kerasnets")


@register
class Residual(MaskedLayer):
    """Add the output of a sublayer f to its input, and normalize before f or after the sum.

        post:  norm(x + dropout(f(x)))        Vaswani et al. 2017, section 3.1: needs a warm-up of the learning rate
        pre:   x + dropout(f(norm(x)))        Xiong et al. 2020: trains from the start; the sum is never normalized,
                                              so that a stack of such blocks ends with one more normalization

    No other layer depends on the place of the normalization.

    Args: norm, "post" or "pre"; dropout.
    Call: x [B, T, D]; sublayer, a function from [B, T, D] to the same shape.
    Returns: [B, T, D].
    """

    def __init__(self, norm="post", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if norm not in ("post", "pre"):
            raise ValueError(f'norm is {norm!r}; it must be "post" or "pre".')
        check_fractions(dropout=dropout)
        self.norm, self.dropout = norm, dropout

    def build(self, x_shape):
        self.normalization = LayerNormalization(dtype=self.dtype_policy, name="normalization")
        self.normalization.build(x_shape)
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def call(self, x, sublayer, training=None):
        if self.norm == "pre":
            return x + self.drop(sublayer(self.normalization(x)), training=training)
        return self.normalization(x + self.drop(sublayer(x), training=training))

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {"norm": self.norm, "dropout": self.dropout}
