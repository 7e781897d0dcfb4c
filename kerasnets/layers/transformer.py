"""The Transformer's blocks: Vaswani et al. 2017, section 3.   B batch, T target, S source, D width, N heads."""

from typing import Any

import keras
from keras import ops

from kerasnets.layers.attention import MultiHeadAttention
from kerasnets.layers.checks import check_counts, check_shares
from kerasnets.layers.linear import Linear
from kerasnets.layers.masking import MaskedLayer, all_valid, mask_sources
from kerasnets.layers.normalization import LayerNormalization

register = keras.saving.register_keras_serializable("kerasnets")

ACTIVATIONS = ("relu", "gelu", "swiglu")


def put(cache, new, places):
    """Writes into a cache [B, G, E, H]: new [B, G, K, H] becomes its rows `places` int [B G K], if one counts through.

    This is the definition, which copies the cache; `step` takes another function that may write in place.
    """
    rows = ops.reshape(cache, (-1, cache.shape[-1]))
    written = ops.scatter_update(rows, ops.expand_dims(places, 1), ops.reshape(new, (-1, cache.shape[-1])))
    return ops.reshape(written, ops.shape(cache))


def places_of(entries, batch, groups, room):
    """entries int [K] of a cache [B, G, E, H] with room E -> their rows for each row and head, int [B G K]."""
    first = room * ops.arange(batch * groups, dtype="int32")
    return ops.reshape(ops.expand_dims(first, 1) + ops.expand_dims(entries, 0), (-1,))


@register
class FeedForward(MaskedLayer):
    """Two linear layers with an activation between them, at every position alike (section 3.3).

        relu:    max(0, x W₁ + b₁) W₂ + b₂                            eq. 2
        gelu:    h Φ(h) W₂ + b₂  with  h = x W₁ + b₁                  Hendrycks & Gimpel 2016; Φ: normal distribution
        swiglu:  (h σ(h) ⊙ (x V + c)) W₂ + b₂  with  h = x W₁ + b₁    Shazeer 2020, eq. 6, who leaves out b and c

    Args: hidden_units, the width between the two (with swiglu two thirds of it have as many weights, since there are
        three matrices); activation, "relu", "gelu" or "swiglu".
    Call: x [B, T, D].
    Returns: [B, T, D].
    """

    def __init__(self, hidden_units, activation="relu", **kwargs):
        super().__init__(**kwargs)
        check_counts(hidden_units=hidden_units)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}.")
        self.hidden_units, self.activation = hidden_units, activation

    def build(self, x_shape):
        self.hidden = self.build_linear("hidden", self.hidden_units, x_shape)
        if self.activation == "swiglu":
            self.gate = self.build_linear("gate", self.hidden_units, x_shape)
        self.out = self.build_linear("out", x_shape[-1], (*x_shape[:-1], self.hidden_units))

    def build_linear(self, name, units, x_shape):
        linear = Linear(units, dtype=self.dtype_policy, name=name)
        linear.build(x_shape)
        return linear

    def call(self, x):
        hidden = self.hidden(x)
        if self.activation == "relu":
            return self.out(ops.relu(hidden))
        if self.activation == "gelu":
            return self.out(ops.gelu(hidden, approximate=False))
        return self.out(ops.silu(hidden) * self.gate(x))

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {"hidden_units": self.hidden_units, "activation": self.activation}


@register
class Residual(MaskedLayer):
    """Adds what a sublayer f changes to its input, and normalizes: before f or after the sum.

        post:  norm(x + dropout(f(x)))        Vaswani et al. 2017, section 3.1: needs a warm-up of the learning rate
        pre:   x + dropout(f(norm(x)))        Xiong et al. 2020: trains from the start; the sum is never normalized,
                                              so that a stack of such blocks ends with one more normalization

    No other layer knows on which side the normalization stands.

    Args: norm, "post" or "pre"; dropout.
    Call: x [B, T, D]; sublayer, a function from [B, T, D] to the same shape.
    Returns: [B, T, D].
    """

    def __init__(self, norm="post", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if norm not in ("post", "pre"):
            raise ValueError(f'norm is {norm!r}; it must be "post" or "pre".')
        check_shares(dropout=dropout)
        self.norm, self.dropout = norm, dropout

    def build(self, x_shape):
        self.normalization = LayerNormalization(dtype=self.dtype_policy, name="normalization")
        self.normalization.build(x_shape)
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def call(self, x, sublayer, training=None):
        if self.norm == "pre":
            return x + self.drop(sublayer(self.normalization(x)), training=training)
        return self.normalization(x + self.drop(sublayer(x), training=training))

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {"norm": self.norm, "dropout": self.dropout}


class Block(MaskedLayer):
    """What the encoder's and the decoder's blocks share: their arguments and a Residual around each sublayer.

    Dropout is where the paper has it, on what each sublayer adds (section 5.4).
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.hidden_units, self.dropout, self.norm = num_heads, hidden_units, dropout, norm
        self.activation, self.num_key_value_heads, self.rotary = activation, num_key_value_heads, rotary

    def build_attention(self, name, x_shape, memory_shape=None):
        """Positions turn queries and keys of one sequence alone: those of another sequence are no distances."""
        attention = MultiHeadAttention(
            self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            rotary=self.rotary and memory_shape is None,
            dtype=self.dtype_policy,
            name=name,
        )
        attention.build(x_shape, memory_shape)
        return attention

    def build_feed_forward(self, x_shape):
        feed_forward = FeedForward(self.hidden_units, self.activation, dtype=self.dtype_policy, name="feed_forward")
        feed_forward.build(x_shape)
        return feed_forward

    def build_residual(self, name, x_shape):
        residual = Residual(self.norm, self.dropout, dtype=self.dtype_policy, name=name)
        residual.build(x_shape)
        return residual

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
        }


@register
class EncoderBlock(Block):
    """Self-attention, then feed-forward, each inside a Residual (section 3.1, encoder).

    Args:
        num_heads N; hidden_units of the feed-forward; dropout; norm, "post" or "pre";
        activation of the feed-forward, "relu", "gelu" or "swiglu";
        num_key_value_heads, rotary: see `MultiHeadAttention`.
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
        return self.feed_forward_residual(x, sublayer=self.feed_forward, training=training)

    def call(self, x, attention_mask=None, training=None, mask=None, x_mask=None):
        valid = all_valid(mask, x_mask)

        def attend(y):
            return self.attention(y, attention_mask=attention_mask, query_mask=valid, training=training)

        return self.encode(x, attend, training)

    def explain(self, x, attention_mask=None):
        """As `call` -> [B, S, D], and who looked at whom: the attention's weights [B, N, S, S]."""
        weights = None

        def attend(y):
            nonlocal weights
            weights = self.attention.attention_weights(y, self.attention.project(y)[0], attention_mask)
            return self.attention(y, attention_mask=attention_mask)

        return self.encode(x, attend), weights


@register
class DecoderBlock(Block):
    """Masked self-attention, attention over the encoder's output, feed-forward (section 3.1, decoder).

    Without an encoder, that is built without the shape of a memory, the middle part is left out: a block of a
    language model (Liu et al. 2018, section 4.2.3). `call` decodes all positions at once, `step` one position with a
    cache of the keys and values of the earlier ones. Both run `decode`; they differ in where the self-attention's keys
    and values come from.

    Args: as `EncoderBlock` has them; only the self-attention is rotary.
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
        return self.feed_forward_residual(x, sublayer=self.feed_forward, training=training)

    def looking_at(self, memory, cross_mask, training=None):
        """memory: what `project` returned -> the attention on it, [B, T, D] -> [B, T, D]; None for None."""

        def attend_memory(y):
            return self.cross_attention.attend(y, *memory, cross_mask, training=training)

        return None if memory is None else attend_memory

    def call(self, x, memory=None, cross_mask=None, training=None, mask=None, x_mask=None, memory_mask=None):
        if (memory is None) != (self.cross_attention is None):
            had, has = ("no memory" if absent is None else "a memory" for absent in (self.cross_attention, memory))
            raise ValueError(f"the block was built with {had} and is called with {has}; it must be the same.")

        valid, cross_mask = all_valid(mask, x_mask), mask_sources(cross_mask, memory_mask)

        def attend_self(y):
            return self.self_attention(y, causal=True, query_mask=valid, training=training)

        return self.decode(x, attend_self, self.looking_at(self.project(memory), cross_mask, training), training)

    def explain(self, x, memory, cross_mask=None):
        """As `call` -> [B, T, D], and who looked at whom: weights of both attentions, [B, N, T, T] and [B, N, T, S]."""
        own = across = None
        keys, values = self.project(memory)

        def attend_self(y):
            nonlocal own
            own = self.self_attention.attention_weights(y, self.self_attention.project(y)[0], causal=True)
            return self.self_attention(y, causal=True)

        def attend_memory(y):
            nonlocal across
            across = self.cross_attention.attention_weights(y, keys, cross_mask)
            return self.cross_attention.attend(y, keys, values, cross_mask)

        return self.decode(x, attend_self, attend_memory), own, across

    def project(self, memory):
        """memory [B, S, D] -> its keys and values [B, G, S, H], which stay the same for every step; None for None."""
        return None if memory is None else self.cross_attention.project(memory)

    def step(self, rows, hypotheses, position, places, cache, bias, memory=None, cross_bias=None, put=put):
        """One position, of K hypotheses of each row of the batch (one, unless a beam search runs).

        All hypotheses of a row share its cache; the bias hides the entries that are not their own. So a beam search
        that goes on from other hypotheses changes the bias and moves no keys or values.

        Args: rows x [B K, D]; hypotheses K; position int [B|1, 1], where they stand in the sequence; places int
            [B G K], rows of the cache that are written; cache: keys and values [B, G, E, H]; bias [B, 1, K, E], for the
            scores (see `bias_of`); memory: what `project` returned; cross_bias [B, 1, 1, S]; put: see `put`.
        Returns: [B K, D], the cache with the places filled.
        """
        updated = cache

        def attend_self(y):
            nonlocal updated
            new = self.self_attention.project_step(y, hypotheses, position)
            updated = tuple(put(old, part, places) for old, part in zip(cache, new, strict=True))
            return self.self_attention.attend_step(y, hypotheses, *updated, bias, position)

        def attend_memory(y):
            return self.cross_attention.attend_step(y, hypotheses, *memory, cross_bias)

        return self.decode(rows, attend_self, None if memory is None else attend_memory), updated

    def read(self, x):
        """Like `call` without a memory: x [B, T, D] -> [B, T, D], and a cache of T entries for `step`."""
        cache = ()

        def attend_self(y):
            nonlocal cache
            cache = self.self_attention.project(y)
            return self.self_attention.attend(y, *cache, causal=True)

        return self.decode(x, attend_self), cache

    def start(self, batch, dtype):
        """-> a cache without an entry for `batch` rows."""
        attention = self.self_attention
        empty = ops.zeros((batch, attention.groups, 0, attention.head_width), dtype=dtype)
        return empty, empty
