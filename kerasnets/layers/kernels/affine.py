"""x W + b.   D width, U units, R rows."""

from keras import ops

from kerasnets.layers.kernels.gradients import explicit_gradient


def plain_affine(x, kernel, bias):
    """x W + b: x [..., D], kernel W [D, U], bias b [U] -> [..., U]."""
    return ops.matmul(x, kernel) + bias


def affine(x, kernel, bias):
    """`plain_affine` as one large product instead of many small ones; weights are cast to the dtype of x."""
    kernel, bias = ops.cast(kernel, x.dtype), ops.cast(bias, x.dtype)
    if len(x.shape) == 2:
        return affine_of_rows(x, kernel, bias)
    y = affine_of_rows(ops.reshape(x, (-1, x.shape[-1])), kernel, bias)
    return ops.reshape(y, (*ops.shape(x)[:-1], kernel.shape[-1]))


@explicit_gradient
def affine_of_rows(x, kernel, bias):
    """x W + b with its gradient for the upstream dy:

        dx = dy Wᵀ        dW = xᵀ dy        db = Σ dy over the rows

    On a CPU, TensorFlow multiplies by a matrix up to a third faster than by a transpose read in place, so Wᵀ is copied;
    and it sums rows faster as a product with ones.

    Args: x [R, D]; kernel W [D, U]; bias b [U].
    Returns: [R, U].
    """

    def gradient(upstream):
        ones = ops.ones((1, ops.shape(upstream)[0]), upstream.dtype)
        return (
            ops.matmul(upstream, transpose_copy(kernel)),
            ops.matmul(ops.transpose(x), upstream),
            ops.reshape(ops.matmul(ones, upstream), (-1,)),
        )

    return ops.matmul(x, kernel) + bias, gradient


def transpose_copy(matrix):
    """[D, U] -> [U, D], copied: TensorFlow's optimizer would turn a plain transpose back into a read in place."""
    rows, columns = matrix.shape
    return ops.reshape(ops.transpose(ops.reshape(matrix, (rows, columns, 1)), (1, 2, 0)), (columns, rows))
