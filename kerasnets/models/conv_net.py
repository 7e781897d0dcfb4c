"""A convolutional network for image classification (LeCun et al. 1998, in today's parts)."""

import keras
from keras import ops

from kerasnets.layers import ConvBlock

register = keras.saving.register_keras_serializable("kerasnets")


@register
class ConvNet(keras.Model):
    """Convolution blocks, each of which halves the picture, then global average pooling and one linear layer.

    Args:
        classes: number of classes.
        filters: kernels of each block, one block an entry.
        kernel_size: side of the kernels.
        dropout: share of the pooled features that training sets to zero.
    Call: pixels [B, Y, X, C], 0..255, integers or floats.
    Returns: logits [B, classes] in float32; their softmax are the class probabilities.
    """

    def __init__(self, classes, filters=(32, 64, 128), kernel_size=3, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if classes < 2:
            raise ValueError(f"classes is {classes}; a classifier needs 2 or more.")
        if not filters:
            raise ValueError("filters is empty; give the kernels of each block, for example (32, 64, 128).")
        self.classes, self.filters = classes, tuple(filters)
        self.kernel_size, self.dropout = kernel_size, dropout

    def build(self, pixels_shape):
        self.blocks = [
            ConvBlock(count, self.kernel_size, pool_size=2, dtype=self.dtype_policy, name=f"block_{n}")
            for n, count in enumerate(self.filters)
        ]
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")
        self.out = keras.layers.Dense(self.classes, dtype="float32", name="out")
        shape = tuple(pixels_shape)
        for block in self.blocks:
            block.build(shape)
            shape = block.compute_output_shape(shape)
            if 0 in shape:
                raise ValueError(
                    f"pictures of {pixels_shape[1]}×{pixels_shape[2]} are too small for {len(self.filters)} blocks, "
                    f"each of which halves them; give fewer filters or larger pictures."
                )
        self.out.build((shape[0], shape[-1]))

    def call(self, pixels, training=None):
        x = ops.cast(pixels, self.compute_dtype) / 127.5 - 1.0  # -1..1
        for block in self.blocks:
            x = block(x, training=training)
        x = ops.mean(x, axis=(1, 2))  # [B, C]
        return self.out(self.drop(x, training=training))

    def compute_output_shape(self, pixels_shape):
        return pixels_shape[0], self.classes

    def get_config(self):
        return super().get_config() | {
            "classes": self.classes,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "dropout": self.dropout,
        }
