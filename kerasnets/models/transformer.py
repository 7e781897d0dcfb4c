"""The Transformer: Vaswani et al. 2017.   B batch, T target, S source, D width, N heads, V vocabulary."""

import keras
from keras import ops

from kerasnets.checks import check_counts
from kerasnets.layers import (
    DecoderBlock,
    EncoderBlock,
    LayerNormalization,
    LearnedPositions,
    PositionalEncoding,
    WordDropout,
)
from kerasnets.layers.cache import KeyValueCache
from kerasnets.layers.kernels.attention import mask_bias
from kerasnets.layers.tied_logits import tied_logits, tied_logits_kernel

register = keras.saving.register_keras_serializable("kerasnets")

POSITIONS = ("sinusoidal", "learned", "rotary")


class TokenTransformer(keras.Model):
    """Base class of all Transformers: embedding, positions, stacks of blocks, logits. Token 0 is padding.

    The embedding matrix also turns the last block's output into logits (section 3.4).
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
        activation="relu",
        positions="sinusoidal",
        max_length=None,
        attention_dropout=0.0,
        feed_forward_dropout=0.0,
        word_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_counts(vocabulary_size=vocabulary_size, width=width, num_blocks=num_blocks)
        if positions not in POSITIONS:
            raise ValueError(f"positions is {positions!r}; it must be one of {', '.join(POSITIONS)}.")
        if positions == "learned" and (max_length is None or max_length < 1):
            raise ValueError(f"max_length is {max_length}; with learned positions it must be 1 or more.")
        self.vocabulary_size, self.width, self.num_heads = vocabulary_size, width, num_heads
        self.hidden_units, self.num_blocks, self.dropout, self.norm = hidden_units, num_blocks, dropout, norm
        self.activation, self.positions, self.max_length = activation, positions, max_length
        self.attention_dropout, self.feed_forward_dropout = attention_dropout, feed_forward_dropout
        self.word_dropout = word_dropout

    def build_input_layers(self, vocabulary_size):
        """Build the embedding, the positions and the dropouts of the inputs."""
        self.embedding = self.build_embedding("embedding", vocabulary_size)
        self.drop_words = WordDropout(self.word_dropout, dtype=self.dtype_policy, name="drop_words")
        self.drop_words.build((None, None, self.width), (None, None))
        self.position = None  # rotary positions are inside the attention
        if self.positions == "sinusoidal":
            self.position = PositionalEncoding(dtype=self.dtype_policy, name="positions")
        elif self.positions == "learned":
            self.position = LearnedPositions(self.max_length, dtype=self.dtype_policy, name="positions")
        if self.position is not None:
            self.position.build((None, None, self.width))
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def build_embedding(self, name, vocabulary_size):
        # Inputs are multiplied by √D, which gives unit variance; for the logits the matrix is not scaled.
        initializer = keras.initializers.RandomNormal(stddev=self.width**-0.5)
        embedding = keras.layers.Embedding(
            vocabulary_size, self.width, embeddings_initializer=initializer, dtype=self.dtype_policy, name=name
        )
        embedding.build((None, None))
        return embedding

    def build_stack(self, side, with_memory=False):
        """-> the blocks of one side, "encoder" or "decoder", and the normalization after them."""
        cls = {"encoder": EncoderBlock, "decoder": DecoderBlock}[side]
        arguments = (self.num_heads, self.hidden_units, self.dropout, self.norm, self.activation)
        shape, policy = (None, None, self.width), self.dtype_policy
        options = {
            "rotary": self.positions == "rotary",
            "attention_dropout": self.attention_dropout,
            "feed_forward_dropout": self.feed_forward_dropout,
            "dtype": policy,
        }
        blocks = [cls(*arguments, **options, name=f"{side}_{n}") for n in range(self.num_blocks)]
        for block in blocks:
            block.build(*[shape] * (1 + with_memory))
        if self.norm == "post":
            return blocks, None
        # Pre-norm blocks never normalize their sum, so the stack ends with a normalization.
        last = LayerNormalization(dtype=policy, name=f"{side}_norm")
        last.build(shape)
        return blocks, last

    def embed(self, tokens, embedding=None, start=0, training=None):
        """tokens int [B, T], whose first position is `start` -> [B, T, D]."""
        x = self.drop_words((embedding or self.embedding)(tokens), tokens, training=training) * self.width**0.5
        if self.position is not None:
            x = self.position(x, start=start)
        return self.drop(x, training=training)

    def check_length(self, length):
        """Raise ValueError past the learned positions; `step` cannot, since it knows positions only at run time."""
        if self.positions == "learned" and isinstance(length, int) and length > self.max_length:
            raise ValueError(f"the length is {length}; it must be at most max_length, which is {self.max_length}.")

    def logits(self, x):
        """x [..., D] -> [..., V] in float32."""
        return tied_logits(x, self.embedding)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.vocabulary_size)

    def get_config(self):
        names = ["vocabulary_size", "width", "num_heads", "hidden_units", "num_blocks", "dropout"]
        names += ["norm", "activation", "positions", "max_length"]
        names += ["attention_dropout", "feed_forward_dropout", "word_dropout"]
        return super().get_config() | {name: getattr(self, name) for name in names}


@register
class Transformer(TokenTransformer):
    """P(next target token | source, earlier target tokens), with an encoder and a decoder of `num_blocks` each.

    One matrix embeds source and target and turns the decoder's output into logits (section 3.4), so both languages
    share a vocabulary. With a `target_vocabulary_size` the source has a separate matrix.

    Args:
        vocabulary_size V; width D; num_heads N; hidden_units of the feed-forward; num_blocks;
        dropout: on the output of every sublayer and on the embeddings (section 5.4);
        norm: "post", as in the paper, or "pre" (see `Residual`); activation: "relu", "gelu", "swiglu" (`FeedForward`);
        positions: "sinusoidal", "learned" or "rotary"; max_length: maximum length of a sequence with learned positions
            (see `LearnedPositions`); the others have no maximum;
        attention_dropout, feed_forward_dropout: see `EncoderBlock`; word_dropout: see `WordDropout`;
        target_vocabulary_size: for languages with separate vocabularies; vocabulary_size is then the source's.
    Call: {"source": int [B, S], "target": int [B, T], which begins with the start token}.
    Returns: logits [B, T, V] in float32 for the token after each target position.
    """

    def __init__(self, *arguments, target_vocabulary_size=None, **kwargs):
        super().__init__(*arguments, **kwargs)
        if target_vocabulary_size is not None and target_vocabulary_size < 1:
            raise ValueError(f"target_vocabulary_size is {target_vocabulary_size}; it must be 1 or more.")
        self.target_vocabulary_size = target_vocabulary_size

    def build(self, input_shape):
        self.build_input_layers(self.target_vocabulary_size or self.vocabulary_size)
        self.source_embedding = None
        if self.target_vocabulary_size is not None:
            self.source_embedding = self.build_embedding("source_embedding", self.vocabulary_size)
        self.encoder, self.encoder_norm = self.build_stack("encoder")
        self.decoder, self.decoder_norm = self.build_stack("decoder", with_memory=True)

    def call(self, inputs, training=None):
        memory, valid = self.encode(inputs["source"], training)
        x = self.embed(inputs["target"], training=training)
        for block in self.decoder:
            x = block(x, memory, cross_mask=valid, training=training)
        return self.logits(apply_norm(x, self.decoder_norm))

    def encode(self, source, training=None):
        """source int [B, S] -> memory [B, S, D], valid bool [B, 1, S], False = padding."""
        valid = ops.expand_dims(source != 0, 1)
        x = self.embed(source, self.source_embedding, training=training)
        for block in self.encoder:
            x = block(x, attention_mask=valid, training=training)
        return apply_norm(x, self.encoder_norm), valid

    def explain(self, inputs):
        """As `call` -> logits [B, T, V], and the attention weights of each of the L blocks; each row sums to 1.

        Returns: logits, {"encoder": [B, L, N, S, S], "decoder": [B, L, N, T, T], "cross": [B, L, N, T, S]}.
        """
        weights: dict[str, list] = {"encoder": [], "decoder": [], "cross": []}
        valid = ops.expand_dims(inputs["source"] != 0, 1)
        memory = self.embed(inputs["source"], self.source_embedding)
        for block in self.encoder:
            memory, self_weights = block.explain(memory, valid)
            weights["encoder"].append(self_weights)
        memory, x = apply_norm(memory, self.encoder_norm), self.embed(inputs["target"])
        for block in self.decoder:
            x, self_weights, cross_weights = block.explain(x, memory, valid)
            weights["decoder"].append(self_weights)
            weights["cross"].append(cross_weights)
        stacked = {name: ops.stack(blocks, axis=1) for name, blocks in weights.items()}
        return self.logits(apply_norm(x, self.decoder_norm)), stacked

    def start(self, source, length):
        """source int [B, S], for at most `length` target tokens -> memory, cache.

        The memory is constant while decoding. It is a pair: the matrix of the logits; and the parts that have a batch
        axis, the keys and values of the source for each block, and the bias that masks its padding. The cache, a
        `KeyValueCache` of one hypothesis per row, is for the keys and values of the target.
        """
        self.check_length(length)
        encoded, valid = self.encode(source)
        memory = [block.project(encoded) for block in self.decoder], mask_bias(valid)
        batch = ops.shape(source)[0]
        blocks = [block.empty_cache(batch, encoded.dtype) for block in self.decoder]
        cache = KeyValueCache(blocks, ops.zeros((batch, 1, 0), "bool"))
        return (tied_logits_kernel(self.embedding), memory), cache.extend(length)

    def step(self, token, index, memory, cache):
        """token int [B], or [B, K] for K hypotheses of each row, at position `index` -> logits [*, V], cache."""
        kernel, (sources, cross_bias) = memory
        token, position = ops.convert_to_tensor(token), ops.reshape(index, (1, 1))
        tokens = as_hypotheses(token)
        x = ops.reshape(self.embed(tokens, start=position), (-1, self.width))  # [B K, D]
        cache, block_caches = cache.begin_step(index * tokens.shape[1])
        for n, (block, source) in enumerate(zip(self.decoder, sources, strict=True)):
            x, block_caches[n] = block.step(x, position, block_caches[n], source, cross_bias)
        logits = ops.matmul(apply_norm(x, self.decoder_norm), kernel)
        if len(token.shape) > 1:
            logits = ops.reshape(logits, (-1, tokens.shape[1], kernel.shape[-1]))
        return ops.cast(logits, "float32"), cache.end_step(block_caches)

    def extend(self, cache, positions, writer=None):
        """-> the cache with capacity for more `positions` of every hypothesis; see `KeyValueCache`."""
        return cache.extend(positions, writer)

    def reorder(self, cache, parents):
        """-> the cache of the hypotheses `parents` int [B, J] of each row."""
        return cache.reorder(parents)

    def compute_output_shape(self, input_shape):
        return (*input_shape["target"], self.target_vocabulary_size or self.vocabulary_size)

    def get_config(self):
        return super().get_config() | {"target_vocabulary_size": self.target_vocabulary_size}


def apply_norm(x, norm):
    return x if norm is None else norm(x)


def as_hypotheses(token):
    """token int [B] or [B, K] -> [B, K]; K is 1 for [B]."""
    return ops.expand_dims(token, 1) if len(token.shape) == 1 else token
