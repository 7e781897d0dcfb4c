"""Convolution (LeCun et al. 1998).   Images are B×Y×X×C: rows, columns, channels."""

import keras
from keras import ops

from kerasnets.checks import check_choice, check_counts, check_fractions

register = keras.saving.register_keras_serializable("kerasnets")


@register
class ConvBlock(keras.layers.Layer):
    """pool(φ(norm(W * x))): convolution, batch normalization (Ioffe & Szegedy 2015), activation, pooling.

    Each of the `filters` kernels spans all channels of its input and is shared by all positions.
    The convolution has a bias only without normalization, whose shift replaces it.
    Weights are initialized as in He et al. 2015 (normal, variance 2 / fan-in), which keeps the variance through ReLUs.

    Args:
        filters: number of kernels, and so of output channels.
        kernel_size: rows and columns of a kernel.
        strides: step of the kernel; above 1 only without dilation.
        padding: "same", zeros around the image keep its size, or "valid", kernels stay inside it.
        dilation: step between the pixels under a kernel, which spans dilation (kernel_size - 1) + 1 pixels
            (Yu & Koltun 2016).
        groups: number of parts into which the channels are split; each kernel sees one part.
        normalization: "batch" or None.
        activation: φ, the name of a function of `keras.activations`, or None.
        pooling: "max" or "average".
        pool_size: side and step of the pooling window; 1: no pooling.
        dropout: share of the output channels that training sets to zero, each as a whole (Tompson et al. 2015), since
            neighbouring pixels are correlated.
    Call: x [B, Y, X, C].
    Returns: [B, Y', X', filters]; "same": Y' = ⌈Y / strides⌉ // pool_size,
        "valid": Y' = ⌈(Y - dilation (kernel_size - 1)) / strides⌉ // pool_size.
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        strides=1,
        padding="same",
        dilation=1,
        groups=1,
        normalization="batch",
        activation="relu",
        pooling="max",
        pool_size=1,
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_counts(filters=filters, kernel_size=kernel_size, strides=strides)
        check_counts(dilation=dilation, groups=groups, pool_size=pool_size)
        check_choice("padding", padding, "same", "valid")
        check_choice("normalization", normalization, "batch", None)
        check_choice("pooling", pooling, "max", "average")
        check_fractions(dropout=dropout)
        if strides > 1 and dilation > 1:
            raise ValueError(f"dilation is {dilation} and strides is {strides}; one of them must be 1.")
        if filters % groups:
            raise ValueError(f"groups is {groups}; it must divide filters, which is {filters}.")
        self.filters, self.kernel_size, self.strides, self.padding = filters, kernel_size, strides, padding
        self.dilation, self.groups = dilation, groups
        self.normalization, self.activation = normalization, activation
        self.activate = activation_function(activation)
        self.pooling, self.pool_size, self.dropout = pooling, pool_size, dropout

    def build(self, x_shape):
        if x_shape[-1] % self.groups:
            raise ValueError(f"groups is {self.groups}; it must divide the channels of the input, {x_shape[-1]}.")
        extent = self.windows()[0][0]
        if self.padding == "valid" and any(side is not None and side < extent for side in x_shape[1:3]):
            raise ValueError(
                f'the image is {x_shape[1]}×{x_shape[2]}; with padding "valid" it must be at least {extent}×{extent}, '
                f"the extent of a kernel."
            )
        self.conv = Convolution(
            self.filters,
            self.kernel_size,
            self.strides,
            padding=self.padding,
            dilation_rate=self.dilation,
            groups=self.groups,
            data_format="channels_last",
            use_bias=self.normalization is None,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name="conv",
        )
        self.conv.build(x_shape)
        if self.normalization is not None:
            self.norm = batch_normalization(self.dtype_policy, "norm")
            self.norm.build(self.conv.compute_output_shape(x_shape))
        self.drop = keras.layers.SpatialDropout2D(
            self.dropout, data_format="channels_last", dtype=self.dtype_policy, name="drop"
        )

    def call(self, x, training=None):
        return self.pool_maps(self.feature_maps(x, training), training)

    def feature_maps(self, x, training=None):
        """x -> the feature maps [B, Y, X, filters] before pooling."""
        x = self.conv(x)
        if self.normalization is not None:
            x = self.norm(x, training=training)
        return self.activate(x)

    def pool_maps(self, maps, training=None):
        if self.pool_size > 1:
            pool = ops.max_pool if self.pooling == "max" else ops.average_pool
            # Keras on JAX requires explicit strides.
            maps = pool(maps, self.pool_size, strides=self.pool_size, data_format="channels_last")
        return self.drop(maps, training=training)

    def windows(self):
        """-> [(extent in pixels, step), ...] of the windows, in the order of the computation."""
        return [(self.dilation * (self.kernel_size - 1) + 1, self.strides), (self.pool_size, self.pool_size)]

    def compute_output_shape(self, x_shape):
        batch, *sides = self.conv.compute_output_shape(x_shape)[:3]
        return (batch, *(side and side // self.pool_size for side in sides), self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "normalization": self.normalization,
            "activation": self.activation,
            "pooling": self.pooling,
            "pool_size": self.pool_size,
            "dropout": self.dropout,
        }


class Convolution(keras.layers.Conv2D):
    """A convolution that works around two faults of TensorFlow on CPUs.

    The gradient of a strided 1×1 kernel writes past the end of its memory (2.21), so the input is subsampled first.
    Grouped convolutions run only under XLA, with which Keras would compile them; that takes many times as long, so each
    group is a separate convolution.
    """

    def convolution_op(self, inputs, kernel):
        rows, columns = self.strides
        if self.kernel_size == (1, 1) and (rows > 1 or columns > 1):
            inputs, rows, columns = inputs[:, ::rows, ::columns], 1, 1

        def convolve(x, w):
            return ops.conv(x, w, (rows, columns), self.padding, self.data_format, self.dilation_rate)

        if self.groups == 1:
            return convolve(inputs, kernel)
        groups = zip(ops.split(inputs, self.groups, -1), ops.split(kernel, self.groups, -1), strict=True)
        return ops.concatenate([convolve(*group) for group in groups], axis=-1)


@register
class ResidualBlock(keras.layers.Layer):
    """x + F(x), where F is two convolutions: the block learns the change to its input (He et al. 2015, section 3).

        post:  relu(s(x) + norm(W₂ * relu(norm(W₁ * x))))              He et al. 2015, figure 2
        pre:   s(x) + W₂ * relu(norm(W₁ * h)),  h = relu(norm(x))      He et al. 2016, figure 1(b): the sum is never
                                                                       normalized, so that a stack ends with norm, relu

    The shortcut s is the identity, or a 1×1 convolution where the number of channels or the size changes
    (option B of section 4.1); in "pre" the convolution is applied to h.

    Args:
        filters: kernels of each convolution, and so output channels.
        kernel_size: side of the kernels; odd, since an even kernel would shift F(x) by half a pixel against x.
        strides: step of the first convolution.
        norm: "post" or "pre".
        dropout: share of the maps between the convolutions that training sets to zero
            (Zagoruyko & Komodakis 2016, section 2.4).
    Call: x [B, Y, X, C].
    Returns: [B, ⌈Y / strides⌉, ⌈X / strides⌉, filters].
    """

    def __init__(self, filters, kernel_size=3, strides=1, norm="post", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_counts(filters=filters, kernel_size=kernel_size, strides=strides)
        check_choice("norm", norm, "post", "pre")
        check_fractions(dropout=dropout)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it must be odd, so that F(x) is aligned with x.")
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides
        self.norm, self.dropout = norm, dropout

    def build(self, x_shape):
        normalization = "batch" if self.norm == "post" else None
        last = {"normalization": normalization, "activation": None, "dtype": self.dtype_policy}
        if self.norm == "pre":
            self.first_norm = batch_normalization(self.dtype_policy, "first_norm")
            self.first_norm.build(x_shape)
        self.first = ConvBlock(
            self.filters, self.kernel_size, self.strides, dropout=self.dropout, dtype=self.dtype_policy, name="first"
        )
        self.second = ConvBlock(self.filters, self.kernel_size, **last, name="second")
        self.first.build(x_shape)
        self.second.build(self.compute_output_shape(x_shape))
        self.shortcut = None
        if self.strides > 1 or x_shape[-1] != self.filters:
            self.shortcut = ConvBlock(self.filters, 1, self.strides, **last, name="shortcut")
            self.shortcut.build(x_shape)

    def call(self, x, training=None):
        return self.pool_maps(self.feature_maps(x, training), training)

    def feature_maps(self, x, training=None):
        """As `ConvBlock.feature_maps`, for the sum."""
        h = ops.relu(self.first_norm(x, training=training)) if self.norm == "pre" else x
        change = self.second(self.first(h, training=training), training=training)
        total = change + (x if self.shortcut is None else self.shortcut(h, training=training))
        return total if self.norm == "pre" else ops.relu(total)

    def pool_maps(self, maps, training=None):
        """As `ConvBlock.pool_maps`, without pooling."""
        return maps

    def windows(self):
        """As `ConvBlock.windows`, for the two convolutions; the shortcut sees fewer pixels."""
        return self.first.windows() + self.second.windows()

    def compute_output_shape(self, x_shape):
        return self.first.compute_output_shape(x_shape)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "norm": self.norm,
            "dropout": self.dropout,
        }


@register
class GlobalPooling(keras.layers.Layer):
    """Reduce each feature map to its average (Lin et al. 2014, section 3.2) or its maximum.

    Args: kind, "average" or "max".
    Call: x [B, Y, X, C].
    Returns: [B, C].
    """

    def __init__(self, kind="average", **kwargs):
        super().__init__(**kwargs)
        check_choice("kind", kind, "average", "max")
        self.kind = kind
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, x):
        return ops.mean(x, axis=(1, 2)) if self.kind == "average" else ops.max(x, axis=(1, 2))

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[-1]

    def get_config(self):
        return super().get_config() | {"kind": self.kind}


def batch_normalization(dtype_policy, name):
    """-> batch normalization with momentum 0.9, which adapts fast enough for short trainings.

    Under tf.distribute the statistics are those of the global batch, so that several devices give the result of one;
    other backends compile one program for all devices and need no such switch.
    """
    synchronized = keras.backend.backend() == "tensorflow"
    return keras.layers.BatchNormalization(momentum=0.9, synchronized=synchronized, dtype=dtype_policy, name=name)


def activation_function(name):
    """-> the function of `keras.activations`; None is the identity."""
    try:
        return keras.activations.get(name)
    except ValueError:
        raise ValueError(
            f'activation is {name!r}; it must be the name of a function of keras.activations, such as "relu", or None.'
        ) from None
