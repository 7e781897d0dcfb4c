"""The Transformer's blocks: Vaswani et al. 2017, section 3.   B batch, T target, S source, D width, N heads."""

import keras
from keras import ops

from kerasnets.layers.attention import MultiHeadAttention, causal_mask

register = keras.saving.register_keras_serializable("kerasnets")


@register
class FeedForward(keras.layers.Layer):
    """max(0, x W₁ + b₁) W₂ + b₂, at every position alike (eq. 2, section 3.3).

    Args: hidden_units, the width between the two linear layers.
    Call: x [B, T, D].
    Returns: [B, T, D].
    """

    def __init__(self, hidden_units, **kwargs):
        super().__init__(**kwargs)
        if hidden_units < 1:
            raise ValueError(f"hidden_units is {hidden_units}; it must be 1 or more.")
        self.hidden_units = hidden_units

    def build(self, x_shape):
        self.hidden = keras.layers.Dense(self.hidden_units, dtype=self.dtype_policy, name="hidden")
        self.out = keras.layers.Dense(x_shape[-1], dtype=self.dtype_policy, name="out")
        self.hidden.build(x_shape)
        self.out.build((*x_shape[:-1], self.hidden_units))

    def call(self, x):
        return self.out(ops.relu(self.hidden(x)))

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {"hidden_units": self.hidden_units}


@register
class Residual(keras.layers.Layer):
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
        self.norm, self.dropout = norm, dropout

    def build(self, x_shape):
        self.normalization = layer_normalization(self.dtype_policy, "normalization")
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


def layer_normalization(dtype_policy, name):
    """Layer normalization (Ba et al. 2016) with ε = 1e-6, the value of the paper's own code."""
    return keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype_policy, name=name)


class Block(keras.layers.Layer):
    """What the encoder's and the decoder's blocks share: their arguments and a Residual around each sublayer.

    Dropout is where the paper has it, on what each sublayer adds (section 5.4).
    """

    def __init__(self, num_heads, hidden_units, dropout=0.0, norm="post", **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.hidden_units, self.dropout, self.norm = num_heads, hidden_units, dropout, norm

    def build_attention(self, name, x_shape, memory_shape=None):
        attention = MultiHeadAttention(self.num_heads, dtype=self.dtype_policy, name=name)
        attention.build(x_shape, memory_shape)
        return attention

    def build_feed_forward(self, x_shape):
        feed_forward = FeedForward(self.hidden_units, dtype=self.dtype_policy, name="feed_forward")
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
        }


@register
class EncoderBlock(Block):
    """Self-attention, then feed-forward, each inside a Residual (section 3.1, encoder).

    Args: num_heads N; hidden_units of the feed-forward; dropout; norm, "post" or "pre".
    Call: x [B, S, D]; attention_mask bool [B|1, S|1, S], True = may attend (padding is False).
    Returns: [B, S, D].
    """

    def build(self, x_shape):
        self.attention = self.build_attention("attention", x_shape)
        self.feed_forward = self.build_feed_forward(x_shape)
        self.attention_residual = self.build_residual("attention_residual", x_shape)
        self.feed_forward_residual = self.build_residual("feed_forward_residual", x_shape)

    def call(self, x, attention_mask=None, training=None):
        def attend(y):
            return self.attention(y, attention_mask=attention_mask, training=training)

        x = self.attention_residual(x, sublayer=attend, training=training)
        return self.feed_forward_residual(x, sublayer=self.feed_forward, training=training)


@register
class DecoderBlock(Block):
    """Masked self-attention, attention over the encoder's output, feed-forward (section 3.1, decoder).

    `call` decodes all positions at once, `step` one position with a cache of the keys and values of the earlier
    ones. Both run `decode`; they differ in where the self-attention's keys and values come from.

    Args: num_heads N; hidden_units of the feed-forward; dropout; norm, "post" or "pre".
    Call: x [B, T, D]; memory [B, S, D]; cross_mask bool [B|1, T|1, S], True = may attend. The causal mask is built in.
    Returns: [B, T, D].
    """

    def build(self, x_shape, memory_shape):
        self.self_attention = self.build_attention("self_attention", x_shape)
        self.cross_attention = self.build_attention("cross_attention", x_shape, memory_shape)
        self.feed_forward = self.build_feed_forward(x_shape)
        self.self_residual = self.build_residual("self_residual", x_shape)
        self.cross_residual = self.build_residual("cross_residual", x_shape)
        self.feed_forward_residual = self.build_residual("feed_forward_residual", x_shape)

    def decode(self, x, attend_self, memory, cross_mask, training=None):
        """x [B, T, D], attend_self: [B, T, D] -> [B, T, D], memory: keys and values [B, N, S, H] -> [B, T, D]."""

        def attend_memory(y):
            return self.cross_attention.attend(y, *memory, cross_mask, training)[0]

        x = self.self_residual(x, sublayer=attend_self, training=training)
        x = self.cross_residual(x, sublayer=attend_memory, training=training)
        return self.feed_forward_residual(x, sublayer=self.feed_forward, training=training)

    def call(self, x, memory, cross_mask=None, training=None):
        def attend_self(y):
            mask = causal_mask(ops.shape(y)[1])
            return self.self_attention(y, attention_mask=mask, training=training)

        return self.decode(x, attend_self, self.project(memory), cross_mask, training)

    def project(self, memory):
        """memory [B, S, D] -> its keys and values [B, N, S, H], which stay the same for every step."""
        return self.cross_attention.project(memory)

    def step(self, x, index, cache, memory, cross_mask=None):
        """One position.

        Args: x [B, 1, D]; index, its position, an integer tensor; cache: keys and values [B, N, T, H], of which
            those before `index` are filled; memory: what `project` returned; cross_mask bool [B|1, 1, S].
        Returns: [B, 1, D], the cache with position `index` filled.
        """
        updated, positions = cache, ops.arange(ops.shape(cache[0])[2])

        def attend_self(y):
            nonlocal updated
            rows = self.self_attention.project(y)  # each [B, N, 1, H]
            here = ops.expand_dims(positions == index, 1)  # [T, 1]
            updated = tuple(ops.where(here, row, old) for old, row in zip(cache, rows, strict=True))
            return self.self_attention.attend(y, *updated, ops.reshape(positions <= index, (1, 1, -1)))[0]

        return self.decode(x, attend_self, memory, cross_mask), updated

    def start(self, batch, length, dtype):
        """-> an empty cache for `batch` rows of at most `length` positions."""
        attention = self.self_attention
        empty = ops.zeros((batch, attention.num_heads, length, attention.head_width), dtype=dtype)
        return empty, empty
