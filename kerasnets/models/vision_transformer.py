"""The Vision Transformer for image classification: Dosovitskiy et al. 2021.

B batch, images of Y × X pixels with C channels, P side of a patch, T = Y/P · X/P patches, D width
"""

import keras
from keras import ops

from kerasnets.checks import check_choice, check_counts, check_fractions
from kerasnets.layers import EncoderBlock, GlobalPooling, LayerNormalization, LearnedPositions, PositionalEncoding
from kerasnets.models.transformer import apply_norm

register = keras.saving.register_keras_serializable("kerasnets")


@register
class VisionTransformer(keras.Model):
    """The encoder of a Transformer reads an image as a sequence of patches, from the top left, row by row.

        z_0 = dropout([x_1 E; ...; x_T E] + positions)         eq. 1: x_t, the pixels of a patch; E, one matrix for all
        z_n = EncoderBlock(z_{n-1})                            eq. 2 and 3
        logits = mean over t of norm(z_N) · W + b              eq. 4, without a class token

    The mean over the patches replaces the paper's class token, which is not better (appendix D.3) and on a dataset of
    medium size worse (Beyer et al. 2022). A position is the index of a patch: the paper finds no gain in positions of
    rows and columns (appendix D.4).

    Args:
        classes: number of classes.
        patch_size P: rows and columns of a patch; it must divide those of the images.
        width D; num_heads, hidden_units, dropout, norm, activation: those of the blocks (see `EncoderBlock`).
        num_blocks: number of blocks.
        positions: "learned", as in the paper, or "sinusoidal".
    Call: pixels [B, Y, X, C], 0..255, integers or floats, of the size that the model is built for.
    Returns: logits [B, classes] in float32; their softmax is the class probabilities.
    """

    def __init__(
        self,
        classes,
        patch_size=4,
        width=128,
        num_heads=4,
        hidden_units=256,
        num_blocks=6,
        dropout=0.0,
        norm="pre",
        activation="gelu",
        positions="learned",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if classes < 2:
            raise ValueError(f"classes is {classes}; it must be 2 or more.")
        check_counts(patch_size=patch_size, width=width, num_blocks=num_blocks)
        check_fractions(dropout=dropout)
        check_choice("positions", positions, "learned", "sinusoidal")
        self.classes, self.patch_size, self.width, self.num_heads = classes, patch_size, width, num_heads
        self.hidden_units, self.num_blocks, self.dropout, self.norm = hidden_units, num_blocks, dropout, norm
        self.activation, self.positions = activation, positions

    def build(self, input_shape):
        _, rows, columns, _ = input_shape
        self.grid = self.check_size(rows, columns)
        policy, maps = self.dtype_policy, (None, *self.grid, self.width)
        tokens = (None, self.grid[0] * self.grid[1], self.width)
        # One matrix product per patch is a convolution whose windows do not overlap.
        self.patches = keras.layers.Conv2D(
            self.width, self.patch_size, self.patch_size, data_format="channels_last", dtype=policy, name="patches"
        )
        self.patches.build(input_shape)
        learned = self.positions == "learned"
        position = LearnedPositions(tokens[1], dtype=policy, name="positions") if learned else None
        self.position = position or PositionalEncoding(dtype=policy, name="positions")
        self.position.build(tokens)
        self.drop = keras.layers.Dropout(self.dropout, dtype=policy, name="drop")
        arguments = (self.num_heads, self.hidden_units, self.dropout, self.norm, self.activation)
        self.blocks = [EncoderBlock(*arguments, dtype=policy, name=f"block_{n}") for n in range(self.num_blocks)]
        for block in self.blocks:
            block.build(tokens)
        self.last_norm = None  # blocks with post-norm normalize their sums already
        if self.norm == "pre":
            self.last_norm = LayerNormalization(dtype=policy, name="last_norm")
            self.last_norm.build(tokens)
        self.pool = GlobalPooling("average", dtype=policy, name="pool")
        self.pool.build(maps)
        self.out = keras.layers.Dense(self.classes, dtype="float32", name="out")
        self.out.build((None, self.width))

    def check_size(self, rows, columns):
        """-> rows and columns of patches. Raises: ValueError unless the images divide into patches."""
        if None in (rows, columns) or rows % self.patch_size or columns % self.patch_size:
            raise ValueError(
                f"images are {rows}×{columns}; rows and columns must be multiples of patch_size, "
                f"which is {self.patch_size}."
            )
        return rows // self.patch_size, columns // self.patch_size

    def call(self, pixels, training=None):
        x = self.embed(pixels, training)
        for block in self.blocks:
            x = block(x, training=training)
        return self.classify_maps(self.as_maps(apply_norm(x, self.last_norm)))

    def embed(self, pixels, training=None):
        """pixels [B, Y, X, C] -> the patches with their positions, z_0 [B, T, D]."""
        pixels = ops.cast(pixels, self.compute_dtype) / 127.5 - 1.0
        patches = ops.reshape(self.patches(pixels), (-1, self.grid[0] * self.grid[1], self.width))
        return self.drop(self.position(patches), training=training)

    def as_maps(self, x):
        """[B, T, D] -> D feature maps on the grid of the patches, [B, Y / P, X / P, D]."""
        return ops.reshape(x, (-1, *self.grid, self.width))

    def feature_maps(self, pixels):
        """pixels -> the outputs of the first block and of the last (normalized), as maps [B, Y / P, X / P, D].

        Explanations show them; `classify_maps` computes the logits from the latter. Layers run in inference mode.
        """
        first = x = self.blocks[0](self.embed(pixels))
        for block in self.blocks[1:]:
            x = block(x)
        return self.as_maps(first), self.as_maps(apply_norm(x, self.last_norm))

    def classify_maps(self, maps):
        """Last feature maps -> logits [B, classes]."""
        return self.out(self.pool(maps))

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.classes

    def get_config(self):
        names = ["classes", "patch_size", "width", "num_heads", "hidden_units", "num_blocks"]
        names += ["dropout", "norm", "activation", "positions"]
        return super().get_config() | {name: getattr(self, name) for name in names}
