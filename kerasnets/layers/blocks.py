"""The Transformer's blocks: Vaswani et al. 2017, section 3.   B batch, T target, S source, D width, N heads."""

import functools
from typing import Any

import keras
from keras import ops

from kerasnets.layers.attention import MultiHeadAttention
from kerasnets.layers.feed_forward import FeedForward
from kerasnets.layers.kernels.attention import mask_bias
from kerasnets.layers.masking import MaskedLayer, merge_masks, merge_padding_mask
from kerasnets.layers.residual import Residual

register = keras.saving.register_keras_serializable("kerasnets")


class Block(MaskedLayer):
    """Base class of the encoder's and the decoder's blocks: their arguments, and a Residual around each sublayer.

    As in the paper, dropout applies to the output of each sublayer, before the sum (section 5.4). The authors' library,
    tensor2tensor, also has attention_dropout, on the attention weights, and feed_forward_dropout (its `relu_dropout`),
    on the hidden layer of the feed-forward.
    """

    def __init__(
        self,
        num_heads,
        hidden_units,
        dropout=0.0,
        norm="post",
        activation="relu",
        num_key_value_heads=None,
        rotary=False,
        attention_dropout=0.0,
        feed_forward_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.hidden_units, self.dropout, self.norm = num_heads, hidden_units, dropout, norm
        self.activation, self.num_key_value_heads, self.rotary = activation, num_key_value_heads, rotary
        self.attention_dropout, self.feed_forward_dropout = attention_dropout, feed_forward_dropout

    def build_attention(self, name, x_shape, memory_shape=None):
        """-> an attention layer, rotary only in self-attention: distances are defined only within one sequence."""
        attention = MultiHeadAttention(
            self.num_heads,
            self.attention_dropout,
            num_key_value_heads=self.num_key_value_heads,
            rotary=self.rotary and memory_shape is None,
            dtype=self.dtype_policy,
            name=name,
        )
        attention.build(x_shape, memory_shape)
        return attention

    def build_feed_forward(self, x_shape):
        feed_forward = FeedForward(
            self.hidden_units,
            self.activation,
            self.feed_forward_dropout,
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        feed_forward.build(x_shape)
        return feed_forward

    def build_residual(self, name, x_shape):
        residual = Residual(self.norm, self.dropout, dtype=self.dtype_policy, name=name)
        residual.build(x_shape)
        return residual

    def feed(self, x, training=None):
        """x [B, T, D] -> [B, T, D], one feed-forward sublayer later."""
        feed_forward = functools.partial(self.feed_forward, training=training)
        return self.feed_forward_residual(x, sublayer=feed_forward, training=training)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "hidden_units": self.hidden_units,
            "dropout": self.dropout,
            "norm": self.norm,
            "activation": self.activation,
            "num_key_value_heads": self.num_key_value_heads,
            "rotary": self.rotary,
            "attention_dropout": self.attention_dropout,
            "feed_forward_dropout": self.feed_forward_dropout,
        }


@register
class EncoderBlock(Block):
    """Self-attention, then feed-forward, each inside a Residual (section 3.1, encoder).

    Args:
        num_heads N; hidden_units of the feed-forward; dropout; norm, "post" or "pre";
        activation of the feed-forward, "relu", "gelu" or "swiglu";
        num_key_value_heads, rotary: see `MultiHeadAttention`;
        attention_dropout, feed_forward_dropout: see `Block`.
    Call: x [B, S, D]; attention_mask bool [B|1, S|1, S], True = may attend (padding is False); mask or x_mask bool
        [B, S], Keras's mask (see masking.py).
    Returns: [B, S, D].
    """

    def build(self, x_shape):
        self.attention = self.build_attention("attention", x_shape)
        self.feed_forward = self.build_feed_forward(x_shape)
        self.attention_residual = self.build_residual("attention_residual", x_shape)
        self.feed_forward_residual = self.build_residual("feed_forward_residual", x_shape)

    def encode(self, x, attend, training=None):
        """x [B, S, D], attend: [B, S, D] -> [B, S, D] -> [B, S, D]."""
        x = self.attention_residual(x, sublayer=attend, training=training)
        return self.feed(x, training)

    def call(self, x, attention_mask=None, training=None, mask=None, x_mask=None):
        valid = merge_masks(mask, x_mask)

        def attend(y):
            return self.attention(y, attention_mask=attention_mask, query_mask=valid, training=training)

        return self.encode(x, attend, training)

    def explain(self, x, attention_mask=None):
        """As `call` -> [B, S, D], and the attention weights [B, N, S, S]."""
        weights, bias = None, mask_bias(attention_mask)

        def attend(y):
            nonlocal weights
            keys, values = self.attention.project(y)
            weights = self.attention.attention_weights(y, keys, bias)
            return self.attention.attend(y, keys, values, bias)

        return self.encode(x, attend), weights


@register
class DecoderBlock(Block):
    """Masked self-attention, attention over the encoder's output, feed-forward (section 3.1, decoder).

    Built without a memory_shape, the block has no attention over an encoder: a block of a language model (Liu et al.
    2018, section 4.2.3). `call` decodes all positions at once, `step` one position with a cache of the keys and values
    of the earlier ones. Both run `decode`; they differ in the source of the self-attention's keys and values.

    Args: as in `EncoderBlock`; only the self-attention is rotary.
    Call: x [B, T, D]; memory [B, S, D]; cross_mask bool [B|1, T|1, S], True = may attend; mask or x_mask bool [B, T],
        memory_mask bool [B, S], Keras's masks (see masking.py). The causal mask is built in.
    Returns: [B, T, D].
    """

    def build(self, x_shape, memory_shape=None):
        self.self_attention = self.build_attention("self_attention", x_shape)
        self.self_residual = self.build_residual("self_residual", x_shape)
        self.cross_attention: Any = None
        if memory_shape is not None:
            self.cross_attention = self.build_attention("cross_attention", x_shape, memory_shape)
            self.cross_residual = self.build_residual("cross_residual", x_shape)
        self.feed_forward = self.build_feed_forward(x_shape)
        self.feed_forward_residual = self.build_residual("feed_forward_residual", x_shape)

    def compute_output_shape(self, x_shape, memory_shape=None):
        return x_shape

    def decode(self, x, attend_self, attend_memory=None, training=None):
        """x [B, T, D], attend_self and attend_memory: [B, T, D] -> [B, T, D] -> [B, T, D]."""
        x = self.self_residual(x, sublayer=attend_self, training=training)
        if attend_memory is not None:
            x = self.cross_residual(x, sublayer=attend_memory, training=training)
        return self.feed(x, training)

    def cross_attend(self, memory, cross_bias, training=None):
        """memory: result of `project` -> a function [B, T, D] -> [B, T, D] that attends to it; None for None."""

        def attend_memory(y):
            return self.cross_attention.attend(y, *memory, cross_bias, training=training)

        return None if memory is None else attend_memory

    def call(self, x, memory=None, cross_mask=None, training=None, mask=None, x_mask=None, memory_mask=None):
        if (memory is None) != (self.cross_attention is None):
            built, called = ("no memory" if x is None else "a memory" for x in (self.cross_attention, memory))
            raise ValueError(f"the block was built with {built} and is called with {called}; it must be the same.")

        valid, cross_bias = merge_masks(mask, x_mask), mask_bias(merge_padding_mask(cross_mask, memory_mask))

        def attend_self(y):
            return self.self_attention(y, causal=True, query_mask=valid, training=training)

        return self.decode(x, attend_self, self.cross_attend(self.project(memory), cross_bias, training), training)

    def explain(self, x, memory=None, cross_mask=None, self_bias=None):
        """As `call` -> [B, T, D], and the weights of self- and cross-attention, [B, N, T, T] and [B, N, T, S].

        Without a memory, the weights of the cross-attention are None. self_bias [B|1, 1, T, T]: as in `read`.
        """
        self_weights = cross_weights = None
        memory, bias = self.project(memory), mask_bias(cross_mask)

        def attend_self(y):
            nonlocal self_weights
            keys, values = self.self_attention.project(y)
            self_weights = self.self_attention.attention_weights(y, keys, self_bias, causal=True)
            return self.self_attention.attend(y, keys, values, self_bias, causal=True)

        def attend_memory(y):
            nonlocal cross_weights
            cross_weights = self.cross_attention.attention_weights(y, memory[0], bias)
            return self.cross_attention.attend(y, *memory, bias)

        return self.decode(x, attend_self, None if memory is None else attend_memory), self_weights, cross_weights

    def project(self, memory):
        """memory [B, S, D] -> its keys and values [B, G, S, H], the same for every step; None for None."""
        return None if memory is None else self.cross_attention.project(memory)

    def step(self, rows, position, cache, memory=None, cross_bias=None):
        """Decode one position of the K hypotheses of each row of the batch.

        Args: rows x [B K, D]; position int [B|1, 1] in the sequence; cache: a `BlockCache`; memory: result of
            `project`; cross_bias [B, 1, 1, S], its attention bias (see `mask_bias`).
        Returns: [B K, D], the cache with the keys and values of this position.
        """
        hypotheses = cache.bias.shape[2]

        def attend_self(y):
            nonlocal cache
            attention = self.self_attention
            cache = cache.write(*attention.project_rows(y, hypotheses, position))
            return attention.attend_rows(y, hypotheses, cache.keys, cache.values, cache.bias, start=position)

        def attend_memory(y):
            return self.cross_attention.attend_rows(y, hypotheses, *memory, cross_bias)

        return self.decode(rows, attend_self, None if memory is None else attend_memory), cache

    def read(self, x, earlier=None, bias=None, training=None):
        """As `call` without a memory, for the T positions after W earlier ones, whose keys and values are known.

        Positions count from the first of the W + T, because rotary attention depends only on distances; so the keys
        are not rotated.

        Args: x [B, T, D]; earlier: keys and values, each [B, G, W, H], or None for causal attention without earlier
            positions; bias [B|1, 1, T, W + T]: the attention bias (see `mask_bias`), which with earlier
            positions is all that masks.
        Returns: [B, T, D]; keys and values of all positions, each [B, G, W + T, H].
        """
        known = None

        def attend_self(y):
            nonlocal known
            known, start = self.self_attention.project_unrotated(y), 0
            if earlier is not None:
                start = earlier[0].shape[2]
                known = tuple(ops.concatenate(pair, axis=2) for pair in zip(earlier, known, strict=True))
            keys = self.self_attention.rotate_keys(known[0])
            causal = earlier is None
            return self.self_attention.attend(y, keys, known[1], bias, causal, start, training=training)

        return self.decode(x, attend_self, training=training), known

    def empty_cache(self, batch, dtype):
        """-> empty keys and values, each [batch, G, 0, H]."""
        attention = self.self_attention
        empty = ops.zeros((batch, attention.groups, 0, attention.head_width), dtype=dtype)
        return empty, empty
