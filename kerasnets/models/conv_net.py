"""Convolutional networks for image classification: from LeCun et al. 1998, modernized, to residual networks."""

import itertools

import keras
from keras import ops

from kerasnets.checks import check_choice, check_counts, check_fractions
from kerasnets.layers import ConvBlock, GlobalPooling, ResidualBlock
from kerasnets.layers.convolution import batch_normalization

register = keras.saving.register_keras_serializable("kerasnets")


@register
class ConvNet(keras.Model):
    """Stages of convolutions, each of which halves the image; pooling; fully connected layers; logits.

    Plain (`residual_blocks` 0): a stage is a `ConvBlock` with maximum pooling.
    Residual (He et al. 2015, section 4.2): one convolution, then `residual_blocks` of `ResidualBlock` per stage; the
    first block of every stage but the first has stride 2. A stage has 2 n convolutions, so that three stages of 16, 32
    and 64 kernels with n = 3, 5, 9 give the paper's networks of 20, 32 and 56 layers.

    Args:
        classes: number of classes.
        filters: kernels of each stage; a residual network's first convolution has as many as its first stage.
        kernel_size: side of the kernels.
        padding: "same" or, for plain networks, "valid" (see `ConvBlock`).
        norm: place of batch normalization: "post", after each convolution; "pre", before each convolution of a
            residual block (see `ResidualBlock`); or "none", nowhere, in a plain network.
        residual_blocks: n, the residual blocks of a stage; 0 for a plain network.
        widen: filter multiplier of the residual blocks (Zagoruyko & Komodakis 2016, section 2.3).
        head: "average" or "max", global pooling of each feature map, or "flatten", all pixels of all maps, for images
            of one size.
        hidden: units of fully connected layers with ReLU between the head and the last layer.
        dropout: share of the last layer's inputs that training sets to zero.
    Call: pixels [B, Y, X, C], 0..255, integers or floats.
    Returns: logits [B, classes] in float32; their softmax is the class probabilities.
    """

    def __init__(
        self,
        classes,
        filters=(32, 64, 128),
        kernel_size=3,
        padding="same",
        norm="post",
        residual_blocks=0,
        widen=1,
        head="average",
        hidden=(),
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if classes < 2:
            raise ValueError(f"classes is {classes}; it must be 2 or more.")
        if not filters:
            raise ValueError("filters is empty; it must be the kernels of each stage, for example (32, 64, 128).")
        check_counts(widen=widen, **{f"hidden[{n}]": units for n, units in enumerate(hidden)})
        check_choice("head", head, "average", "max", "flatten")
        check_fractions(dropout=dropout)
        check_options(padding, norm, residual_blocks, widen)
        self.classes, self.filters, self.kernel_size = classes, tuple(filters), kernel_size
        self.padding, self.norm = padding, norm
        self.residual_blocks, self.widen = residual_blocks, widen
        self.head, self.hidden, self.dropout = head, tuple(hidden), dropout

    def build(self, input_shape):
        self.image_size = tuple(input_shape[1:3])  # `to_fully_convolutional` reads it
        self.blocks = self.residual_stages() if self.residual_blocks else self.plain_stages()
        if self.norm == "pre":
            self.last_norm = batch_normalization(self.dtype_policy, "last_norm")
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")
        self.make_head()
        shape = tuple(input_shape)
        for block in self.blocks:
            self.check_size(shape, input_shape)
            block.build(shape)
            shape = block.compute_output_shape(shape)
        self.check_size(shape, input_shape, minimum=1)
        if self.norm == "pre":
            self.last_norm.build(shape)
        if self.head == "flatten" and None in self.image_size:
            size = "×".join(map(str, self.image_size))
            raise ValueError(f'the image size is {size}; with the head "flatten" it must be known.')
        self.build_head(shape)

    def check_size(self, shape, input_shape, minimum=None):
        """Raise ValueError if feature maps of `shape` [B, Y, X, C] are too small for another kernel."""
        minimum = minimum or (self.kernel_size if self.padding == "valid" else 1)
        if any(side is not None and side < minimum for side in shape[1:3]):
            raise ValueError(
                f"images of {input_shape[1]}×{input_shape[2]} are too small for {len(self.filters)} stages, "
                f"each of which halves them (kernel_size {self.kernel_size}, padding {self.padding!r}); "
                f"use fewer filters or larger images."
            )

    def plain_stages(self):
        normalization = None if self.norm == "none" else "batch"
        return [
            ConvBlock(
                filters,
                self.kernel_size,
                padding=self.padding,
                normalization=normalization,
                pool_size=2,
                dtype=self.dtype_policy,
                name=f"block_{n}",
            )
            for n, filters in enumerate(self.filters)
        ]

    def residual_stages(self):
        # A "pre" block normalizes its input, so the first convolution has neither normalization nor activation.
        after = {} if self.norm == "post" else {"normalization": None, "activation": None}
        blocks = [ConvBlock(self.filters[0], self.kernel_size, **after, dtype=self.dtype_policy, name="first")]
        for stage, filters in enumerate(self.filters):
            for n in range(self.residual_blocks):
                strides = 2 if stage > 0 and n == 0 else 1
                name = f"stage_{stage}_block_{n}"
                arguments = (filters * self.widen, self.kernel_size, strides, self.norm)
                blocks.append(ResidualBlock(*arguments, dtype=self.dtype_policy, name=name))
        return blocks

    def make_head(self):
        """Create the head's layers before any layer is built: the weights from a seed depend on the order."""
        policy = self.dtype_policy
        if self.head == "flatten":
            self.pool = keras.layers.Flatten(data_format="channels_last", dtype=policy, name="pool")
        else:
            self.pool = GlobalPooling(self.head, dtype=policy, name="pool")
        self.fully_connected = [
            keras.layers.Dense(units, "relu", kernel_initializer="he_normal", dtype=policy, name=f"hidden_{n}")
            for n, units in enumerate(self.hidden)
        ]
        self.out = keras.layers.Dense(self.classes, dtype="float32", name="out")

    def build_head(self, shape):
        """Build the head for feature maps of `shape` [B, Y, X, C]."""
        for layer in (self.pool, *self.fully_connected, self.out):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, pixels, training=None):
        return self.classify(self.features(pixels, training=training), training)

    def features(self, pixels, training=None):
        """pixels [B, Y, X, C] -> the last block's output [B, Y', X', filters]."""
        x = self.rescale(pixels)
        for block in self.blocks:
            x = block(x, training=training)
        return ops.relu(self.last_norm(x, training=training)) if self.norm == "pre" else x

    def classify(self, features, training=None):
        """Result of `features` -> logits [B, classes]."""
        x = self.pool(features)
        for layer in self.fully_connected:
            x = layer(x)
        return self.out(self.drop(x, training=training))

    def feature_maps(self, pixels):
        """pixels -> the feature maps of the first and of the last block, before pooling, each [B, Y', X', n].

        Explanations show them; `classify_maps` computes the logits from the latter. Layers run in inference mode.
        """
        first = last = self.blocks[0].feature_maps(self.rescale(pixels))
        for earlier, block in itertools.pairwise(self.blocks):
            last = block.feature_maps(earlier.pool_maps(last))
        return first, ops.relu(self.last_norm(last)) if self.norm == "pre" else last

    def classify_maps(self, maps):
        """Last feature maps, from `feature_maps` -> logits [B, classes]."""
        return self.classify(self.blocks[-1].pool_maps(maps))

    def rescale(self, pixels):
        """Map 0..255 to -1..1."""
        return ops.cast(pixels, self.compute_dtype) / 127.5 - 1.0

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.classes

    def get_config(self):
        return super().get_config() | {
            "classes": self.classes,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "norm": self.norm,
            "residual_blocks": self.residual_blocks,
            "widen": self.widen,
            "head": self.head,
            "hidden": self.hidden,
            "dropout": self.dropout,
        }


def check_options(padding, norm, residual_blocks, widen):
    check_choice("padding", padding, "same", "valid")
    check_choice("norm", norm, "post", "pre", "none")
    if residual_blocks < 0:
        raise ValueError(f"residual_blocks is {residual_blocks}; it must be 0, for a plain network, or more.")
    if residual_blocks and padding != "same":
        raise ValueError(
            f'padding is {padding!r}; with residual blocks it must be "same", so that the sums have equal shapes.'
        )
    if residual_blocks and norm == "none":
        raise ValueError(f'norm is {norm!r}; with residual blocks it must be "post" or "pre".')
    if not residual_blocks and norm == "pre":
        raise ValueError(f'norm is {norm!r}; without residual blocks it must be "post" or "none".')
    if not residual_blocks and widen != 1:
        raise ValueError(f"widen is {widen}; without residual blocks it must be 1: change filters instead.")
