"""The Transformer's encoder as a separate model.   B batch, T positions, D width, V vocabulary."""

import keras
from keras import ops

from kerasnets.models.transformer import TokenTransformer, apply_norm

register = keras.saving.register_keras_serializable("kerasnets")


@register
class EncoderTransformer(TokenTransformer):
    """P(token | all others), at every position: the encoder only (Devlin et al. 2019, section 3: BERT).

    It learns to predict the masked or replaced tokens of its input; `encode` returns the features for other heads.

    Args: as in `Transformer`.
    Call: tokens int [B, T], 0 = padding, which is masked.
    Returns: logits [B, T, V] in float32 for the token at each position itself.
    """

    def build(self, input_shape):
        self.build_input_layers(self.vocabulary_size)
        self.encoder, self.encoder_norm = self.build_stack("encoder")

    def call(self, tokens, training=None):
        return self.logits(self.encode(tokens, training))

    def encode(self, tokens, training=None):
        """tokens int [B, T] -> [B, T, D]."""
        valid = ops.expand_dims(tokens != 0, 1)
        x = self.embed(tokens, training=training)
        for block in self.encoder:
            x = block(x, attention_mask=valid, training=training)
        return apply_norm(x, self.encoder_norm)
