"""Local connections without weight sharing (LeCun 1989, net 3): between a fully connected layer and a convolution."""

import keras
from keras import ops

from kerasnets.checks import check_counts

register = keras.saving.register_keras_serializable("kerasnets")


@register
class LocallyConnected2D(keras.layers.Layer):
    """y[p] = W[p] x[window at p] + b[p]: each output position p sees a window, as in a convolution, but has its own
    weights, as in a fully connected layer.

    Windows stay inside the image ("valid"). Since the weights belong to positions, the size of the image is fixed when
    the layer is built. Weights are initialized as in He et al. 2015.

    Args: filters, output channels; kernel_size, side of the window; strides, its step.
    Call: x [B, Y, X, C].
    Returns: [B, Y', X', filters] with Y' = (Y - kernel_size) // strides + 1.
    """

    def __init__(self, filters, kernel_size=3, strides=1, **kwargs):
        super().__init__(**kwargs)
        check_counts(filters=filters, kernel_size=kernel_size, strides=strides)
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides

    def build(self, x_shape):
        sides = x_shape[1:3]
        if None in sides or min(sides) < self.kernel_size:
            raise ValueError(
                f"the image is {sides[0]}×{sides[1]}; both sides must be known "
                f"and at least kernel_size, which is {self.kernel_size}."
            )
        window = self.kernel_size**2 * x_shape[-1]
        positions = self.compute_output_shape(x_shape)[1:3]
        initializer = keras.initializers.RandomNormal(stddev=(2 / window) ** 0.5)
        self.kernel = self.add_weight((*positions, window, self.filters), initializer, name="kernel")
        self.bias = self.add_weight((*positions, self.filters), "zeros", name="bias")

    def call(self, x):
        pairs = zip(self.compute_output_shape(x.shape)[1:3], self.kernel.shape[:2], strict=True)
        if any(side is not None and side != built for side, built in pairs):
            raise ValueError(
                f"the image is {x.shape[1]}×{x.shape[2]}; it must have the size that the layer was built for."
            )
        rows, columns = (self.strides * side for side in self.kernel.shape[:2])
        step = self.strides
        pixels = [
            x[:, row : row + rows : step, column : column + columns : step]
            for row in range(self.kernel_size)
            for column in range(self.kernel_size)
        ]
        return ops.einsum("byxw,yxwf->byxf", ops.concatenate(pixels, axis=-1), self.kernel) + self.bias

    def windows(self):
        """As `ConvBlock.windows`."""
        return [(self.kernel_size, self.strides)]

    def compute_output_shape(self, x_shape):
        sides = [None if side is None else (side - self.kernel_size) // self.strides + 1 for side in x_shape[1:3]]
        return (x_shape[0], *sides, self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
        }
