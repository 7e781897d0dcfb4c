"""The linear layer, of which attention and feed-forward are made.   D width, U units, R rows."""

import keras
from keras import ops

from kerasnets.layers.checks import check_counts
from kerasnets.layers.gradients import written_out
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class Linear(MaskedLayer):
    """x W + b, at every position alike; the weights are those of `keras.layers.Dense`, and so are their first values.

    Args: units U.
    Call: x [..., D]; factor, a number by which to multiply the result.
    Returns: [..., U].
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        check_counts(units=units)
        self.units = units

    def build(self, x_shape):
        self.kernel = self.add_weight((x_shape[-1], self.units), "glorot_uniform", name="kernel")
        self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def call(self, x, factor=1.0):
        kernel, bias = ops.cast(self.kernel, x.dtype), ops.cast(self.bias, x.dtype)
        if factor != 1:  # of the weights, which are fewer than what they give
            kernel, bias = kernel * factor, bias * factor
        if len(x.shape) == 2:
            return affine(x, kernel, bias)
        y = affine(ops.reshape(x, (-1, x.shape[-1])), kernel, bias)  # one large product instead of many small ones
        return ops.reshape(y, (*ops.shape(x)[:-1], self.units))

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@written_out
def affine(x, kernel, bias):
    """x W + b with its gradient: dx = dy Wᵀ, dW = xᵀ dy, db = the sum of dy's rows.

    On a CPU, TensorFlow multiplies by a matrix up to a third faster than by its transpose read in place, hence Wᵀ is
    laid out; and it sums rows faster as a product with ones.

    Args: x [R, D]; kernel W [D, U]; bias b [U].
    Returns: [R, U].
    """

    def gradient(upstream):
        ones = ops.ones((1, ops.shape(upstream)[0]), upstream.dtype)
        return (
            ops.matmul(upstream, laid_out_transpose(kernel)),
            ops.matmul(ops.transpose(x), upstream),
            ops.reshape(ops.matmul(ones, upstream), (-1,)),
        )

    return ops.matmul(x, kernel) + bias, gradient


def laid_out_transpose(matrix):
    """[D, U] -> [U, D], in memory: TensorFlow's optimizer would turn a plain transpose back into reading in place."""
    rows, columns = matrix.shape
    return ops.reshape(ops.transpose(ops.reshape(matrix, (rows, columns, 1)), (1, 2, 0)), (columns, rows))
