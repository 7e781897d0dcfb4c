"""The Transformer's encoder and decoder as separate models.   B batch, T positions, D width, V vocabulary."""

import keras
from keras import ops

from kerasnets.layers.cache import KeyValueCache
from kerasnets.layers.tied_logits import tied_logits_kernel
from kerasnets.models.transformer import TokenTransformer, apply_norm, as_hypotheses

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


@register
class DecoderTransformer(TokenTransformer):
    """P(next token | all tokens so far): the decoder only, a language model (Liu et al. 2018; Radford et al. 2018).

    Args: as in `Transformer`.
    Call: tokens int [B, T]; padding, 0, only at the end, where the causal mask hides it.
    Returns: logits [B, T, V] in float32 for the token after each position.
    """

    def build(self, input_shape):
        self.build_input_layers(self.vocabulary_size)
        self.decoder, self.decoder_norm = self.build_stack("decoder")

    def call(self, tokens, training=None):
        x = self.embed(tokens, training=training)
        for block in self.decoder:
            x = block(x, training=training)
        return self.logits(apply_norm(x, self.decoder_norm))

    def start(self, prompt, length):
        """prompt int [B, T], 0 = padding at its end, for at most `length` more tokens -> memory, cache.

        The memory is a pair: (the matrix of the logits, T); the number of tokens of each prompt [B, 1]. The cache, a
        `KeyValueCache`, has the keys and values of all tokens so far.
        """
        self.check_length(length + ops.shape(prompt)[1])
        x, blocks = self.embed(prompt), []
        for block in self.decoder:
            x, keys_and_values = block.prefill(x)
            blocks.append(keys_and_values)
        valid = prompt != 0
        cache = KeyValueCache(blocks, ops.expand_dims(valid, 1)).extend(length)
        lengths = ops.sum(ops.cast(valid, "int32"), axis=1, keepdims=True)
        return ((tied_logits_kernel(self.embedding), ops.shape(prompt)[1]), lengths), cache

    def step(self, token, index, memory, cache):
        """token int [B] or [B, K], `index` positions after its prompt -> logits [*, V] for the next one, cache."""
        (kernel, longest), lengths = memory
        token = ops.convert_to_tensor(token)
        slot = longest + index * as_hypotheses(token).shape[1]
        return self.decode_step(token, slot, lengths + index, kernel, cache)
