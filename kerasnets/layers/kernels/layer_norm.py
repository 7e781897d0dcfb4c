"""Layer normalization: Ba et al. 2016.   D width, R rows."""

import keras
from keras import ops

from kerasnets.layers.kernels.gradients import explicit_gradient

EPSILON = 1e-6  # as in the Transformer's own code


def plain_layer_norm(x, gamma, beta):
    """γ ⊙ (x - μ) / √(σ² + ε) + β, with mean μ and variance σ² of each position's D numbers (eq. 3 and 4).

    Args: x [..., D]; gamma, beta [D].
    Returns: [..., D].
    """
    mean = ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(x - mean), axis=-1, keepdims=True)
    return gamma * (x - mean) / ops.sqrt(variance + EPSILON) + beta


def layer_norm(x, gamma, beta):
    """`plain_layer_norm`, in float32 if x is in half precision, in which the statistics would be off by a percent."""
    dtype = keras.backend.result_type(x.dtype, "float32")
    exact, gamma, beta = (ops.cast(a, dtype) for a in (x, gamma, beta))
    if len(x.shape) == 2:
        return ops.cast(layer_norm_of_rows(exact, gamma, beta), x.dtype)
    y = layer_norm_of_rows(ops.reshape(exact, (-1, x.shape[-1])), gamma, beta)
    return ops.cast(ops.reshape(y, ops.shape(x)), x.dtype)


@explicit_gradient
def layer_norm_of_rows(x, gamma, beta):
    """γ ⊙ n + β with n = (x - μ) / √(σ² + ε), and its gradient for the upstream dy:

        dx = (dn - mean(dn) - n mean(dn ⊙ n)) / √(σ² + ε)  with dn = γ ⊙ dy,     dγ = Σ dy ⊙ n,     dβ = Σ dy

    The means over a row and the sums over rows are products with γ and with ones: each reads its array once.

    Args: x [R, D]; gamma, beta [D].
    Returns: [R, D].
    """
    centered = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    inverse = ops.rsqrt(variance + EPSILON)
    n = centered * inverse

    def gradient(dy):
        product = dy * n
        share = ops.expand_dims(gamma, 1) / gamma.shape[0]  # row @ share: mean of γ ⊙ row
        dx = (dy * gamma - ops.matmul(dy, share) - n * ops.matmul(product, share)) * inverse
        ones = ops.ones((1, ops.shape(dy)[0]), dy.dtype)
        return dx, ops.reshape(ops.matmul(ones, product), (-1,)), ops.reshape(ops.matmul(ones, dy), (-1,))

    return n * gamma + beta, gradient
