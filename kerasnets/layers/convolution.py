"""Convolution (LeCun et al. 1998).   Images are B×Y×X×C: rows, columns, channels."""

import keras
from keras import ops

register = keras.saving.register_keras_serializable("kerasnets")


@register
class ConvBlock(keras.layers.Layer):
    """pool(relu(norm(W * x))): convolution, batch normalization (Ioffe & Szegedy 2015), ReLU, maximum pooling.

    Every one of the `filters` kernels is as deep as its input has channels and is shared by all positions.
    The convolution has no bias: the normalization's shift does its work.
    Weights start as He et al. 2015 (normal with variance 2 / fan-in), which keeps the variance through ReLUs.

    Args:
        filters: number of kernels, the channels that come out.
        kernel_size: rows and columns of a kernel.
        strides: step of the kernel.
        pool_size: side and step of the pooling window; 1 is no pooling.
        dropout: share of the output channels that training sets to zero, a whole map at a time
            (Tompson et al. 2015), since neighbouring pixels tell nearly the same.
    Call: x [B, Y, X, C].
    Returns: [B, Y', X', filters] with Y' = ⌈Y / strides⌉ // pool_size.
    """

    def __init__(self, filters, kernel_size=3, strides=1, pool_size=1, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        sizes = {"filters": filters, "kernel_size": kernel_size, "strides": strides, "pool_size": pool_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be in [0, 1).")
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.pool_size, self.dropout = pool_size, dropout

    def build(self, x_shape):
        self.conv = keras.layers.Conv2D(
            self.filters,
            self.kernel_size,
            self.strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name="conv",
        )
        # Under tf.distribute the statistics are those of the whole batch, so that several devices equal one;
        # other backends compile one program for all devices and need no such switch.
        self.norm = keras.layers.BatchNormalization(
            momentum=0.9,
            synchronized=keras.backend.backend() == "tensorflow",
            dtype=self.dtype_policy,
            name="norm",
        )
        self.drop = keras.layers.SpatialDropout2D(self.dropout, dtype=self.dtype_policy, name="drop")
        self.conv.build(x_shape)
        self.norm.build(self.conv.compute_output_shape(x_shape))

    def call(self, x, training=None):
        x = ops.relu(self.norm(self.conv(x), training=training))  # [B, Y, X, filters]
        if self.pool_size > 1:
            x = ops.max_pool(x, self.pool_size)
        return self.drop(x, training=training)

    def compute_output_shape(self, x_shape):
        batch, *sides = self.conv.compute_output_shape(x_shape)[:3]
        return (batch, *(side and side // self.pool_size for side in sides), self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "pool_size": self.pool_size,
            "dropout": self.dropout,
        }
