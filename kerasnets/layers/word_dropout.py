"""Dropout of whole words.   B batch, T positions, D width."""

import keras
from keras import ops

from kerasnets.checks import check_fractions
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class WordDropout(MaskedLayer):
    """In training, zero the embeddings of a share of the words of each sequence (Gal & Ghahramani 2016, section 4.2).

    A word is zeroed wherever it occurs in its sequence, so that the network cannot copy it from another position. The
    others are divided by 1 - rate.

    Args: rate, the share of words, in [0, 1).
    Call: x [B, T, D], the embeddings of tokens int [B, T].
    Returns: [B, T, D].
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        check_fractions(rate=rate)
        self.rate = rate

    def build(self, x_shape, tokens_shape):
        self.drop = keras.layers.Dropout(self.rate, dtype=self.dtype_policy, name="drop")

    def call(self, x, tokens, training=None):
        if not (training and self.rate):
            return x
        # One draw for each position, not for each word of the vocabulary. All positions of a word use its first draw.
        same = ops.equal(ops.expand_dims(tokens, 2), ops.expand_dims(tokens, 1))  # [B, T, T]
        length = ops.shape(tokens)[1]
        first = ops.min(ops.where(same, ops.arange(length, dtype="int32"), length), axis=-1)  # [B, T]
        mask = self.drop(ops.ones(ops.shape(tokens), dtype=self.compute_dtype), training=True)
        return x * ops.expand_dims(ops.take_along_axis(mask, first, axis=1), -1)

    def compute_output_shape(self, x_shape, tokens_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {"rate": self.rate}
