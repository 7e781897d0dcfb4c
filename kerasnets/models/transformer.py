"""The Transformer: Vaswani et al. 2017.   B batch, T target, S source, D width, N heads, V vocabulary."""

import keras
from keras import ops

from kerasnets.layers import DecoderBlock, EncoderBlock, PositionalEncoding
from kerasnets.layers.transformer import layer_normalization

register = keras.saving.register_keras_serializable("kerasnets")


@register
class Transformer(keras.Model):
    """P(next target token | source, earlier target tokens), with an encoder and a decoder of `num_blocks` each.

    One matrix embeds source and target and turns the decoder's output into logits (section 3.4), so both
    languages share a vocabulary. Token 0 is padding, which nobody sees.

    Args:
        vocabulary_size V; width D; num_heads N; hidden_units of the feed-forward; num_blocks;
        dropout: on what every sublayer adds and on the embeddings (section 5.4);
        norm: "post", as the paper, or "pre" (see `Residual`).
    Call: {"source": int [B, S], "target": int [B, T], which begins with the start token}.
    Returns: logits [B, T, V] in float32 for the token after each target position.
    """

    def __init__(
        self,
        vocabulary_size,
        width=512,
        num_heads=8,
        hidden_units=2048,
        num_blocks=6,
        dropout=0.1,
        norm="post",
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in [("vocabulary_size", vocabulary_size), ("width", width), ("num_blocks", num_blocks)]:
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        self.vocabulary_size, self.width, self.num_heads = vocabulary_size, width, num_heads
        self.hidden_units, self.num_blocks, self.dropout, self.norm = hidden_units, num_blocks, dropout, norm

    def build(self, inputs_shape):
        policy = self.dtype_policy
        # Multiplied by √D on the way in, and unit variance there; used as it is on the way out.
        self.embedding = keras.layers.Embedding(
            self.vocabulary_size,
            self.width,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=self.width**-0.5),
            dtype=policy,
            name="embedding",
        )
        self.positions = PositionalEncoding(dtype=policy, name="positions")
        self.drop = keras.layers.Dropout(self.dropout, dtype=policy, name="drop")
        arguments = (self.num_heads, self.hidden_units, self.dropout, self.norm)
        self.encoder = [EncoderBlock(*arguments, dtype=policy, name=f"encoder_{n}") for n in range(self.num_blocks)]
        self.decoder = [DecoderBlock(*arguments, dtype=policy, name=f"decoder_{n}") for n in range(self.num_blocks)]
        # The sum that pre-norm blocks pass on is never normalized, so each stack ends with a normalization.
        self.last_norms = {
            side: layer_normalization(policy, f"{side}_norm") for side in ("encoder", "decoder") if self.norm == "pre"
        }
        shape = (None, None, self.width)
        self.embedding.build((None, None))
        for layer in (self.positions, *self.encoder, *self.last_norms.values()):
            layer.build(shape)
        for block in self.decoder:
            block.build(shape, shape)

    def call(self, inputs, training=None):
        memory, valid = self.encode(inputs["source"], training)
        x = self.embed(inputs["target"], training=training)
        for block in self.decoder:
            x = block(x, memory, cross_mask=valid, training=training)
        return self.logits(x)

    def encode(self, source, training=None):
        """source int [B, S] -> memory [B, S, D], valid bool [B, 1, S]: where it is no padding."""
        valid = ops.expand_dims(source != 0, 1)
        x = self.embed(source, training=training)
        for block in self.encoder:
            x = block(x, attention_mask=valid, training=training)
        return self.normalized("encoder", x), valid

    def embed(self, tokens, start=0, training=None):
        """tokens int [B, T], of which the first stands at position `start` -> [B, T, D]."""
        return self.drop(self.positions(self.embedding(tokens) * self.width**0.5, start=start), training=training)

    def normalized(self, side, x):
        return self.last_norms[side](x) if self.last_norms else x

    def logits(self, x):
        """x [B, T, D] -> [B, T, V]: how well it fits each token's embedding."""
        x = self.normalized("decoder", x)
        scores = ops.matmul(x, ops.transpose(ops.cast(self.embedding.embeddings, x.dtype)))
        return ops.cast(scores, "float32")

    def start(self, source, length):
        """source int [B, S], for at most `length` target tokens -> memory, cache.

        The memory stays the same while decoding: the keys and values of the source for each block, and where they
        are valid. The cache, keys and values of the target so far, goes through `step`.
        """
        encoded, valid = self.encode(source)
        memory = [block.project(encoded) for block in self.decoder], valid
        return memory, [block.start(ops.shape(source)[0], length, encoded.dtype) for block in self.decoder]

    def step(self, token, index, memory, cache):
        """token int [B] at position `index` -> logits [B, V] for the next one, cache."""
        projected, valid = memory
        x, after = self.embed(ops.expand_dims(token, 1), start=index), []
        for block, source, target in zip(self.decoder, projected, cache, strict=True):
            x, target = block.step(x, index, target, source, valid)
            after.append(target)
        return self.logits(x)[:, 0], after

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape["target"], self.vocabulary_size)

    def get_config(self):
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "width": self.width,
            "num_heads": self.num_heads,
            "hidden_units": self.hidden_units,
            "num_blocks": self.num_blocks,
            "dropout": self.dropout,
            "norm": self.norm,
        }
