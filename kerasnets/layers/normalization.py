"""Layer normalization: Ba et al. 2016.   D width."""

import keras
from keras import ops

from kerasnets.layers.gradients import written_out
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class LayerNormalization(MaskedLayer):
    """γ ⊙ (x - μ) / √(σ² + ε) + β, with mean μ and variance σ² of each position's D numbers (eq. 3 and 4).

    ε = 1e-6, the value of the Transformer's own code. The weights are those of `keras.layers.LayerNormalization`.

    Call: x [..., D].
    Returns: [..., D].
    """

    EPSILON = 1e-6

    def build(self, x_shape):
        self.gamma = self.add_weight((x_shape[-1],), "ones", name="gamma", autocast=False)
        self.beta = self.add_weight((x_shape[-1],), "zeros", name="beta", autocast=False)

    def call(self, x):
        # The statistics of half precision would be off by a percent.
        dtype = keras.backend.result_type(x.dtype, "float32")
        gamma, beta = ops.cast(self.gamma, dtype), ops.cast(self.beta, dtype)
        if len(x.shape) == 2:
            return ops.cast(normalize(ops.cast(x, dtype), gamma, beta), x.dtype)
        y = normalize(ops.reshape(ops.cast(x, dtype), (-1, x.shape[-1])), gamma, beta)
        return ops.cast(ops.reshape(y, ops.shape(x)), x.dtype)

    def compute_output_shape(self, x_shape):
        return x_shape


@written_out
def normalize(x, gamma, beta):
    """γ ⊙ n + β with n = (x - μ) / √(σ² + ε), and its gradient for the upstream dy:

        dx = (dn - mean(dn) - n mean(dn ⊙ n)) / √(σ² + ε)  with dn = γ ⊙ dy,     dγ = Σ dy ⊙ n,     dβ = Σ dy

    The means over a row and the sums over rows are products with γ and with ones, which read their arrays once.

    Args: x [R, D]; gamma, beta [D].
    Returns: [R, D].
    """
    centered = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    inverse = ops.rsqrt(variance + LayerNormalization.EPSILON)
    n = centered * inverse

    def gradient(dy):
        product = dy * n
        share = ops.expand_dims(gamma, 1) / gamma.shape[0]  # row @ share: mean of γ ⊙ row
        dx = (dy * gamma - ops.matmul(dy, share) - n * ops.matmul(product, share)) * inverse
        ones = ops.ones((1, ops.shape(dy)[0]), dy.dtype)
        return dx, ops.reshape(ops.matmul(ones, product), (-1,)), ops.reshape(ops.matmul(ones, dy), (-1,))

    return n * gamma + beta, gradient
