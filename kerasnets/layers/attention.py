"""Attention: Vaswani et al. 2017, section 3.2.   B batch, T target, S source, D width, N heads, H = D / N."""

import keras
from keras import ops

register = keras.saving.register_keras_serializable("kerasnets")


def causal_mask(length):
    """-> bool [1, T, T]: position t sees itself and what is before it (section 3.2.3)."""
    positions = ops.arange(length)
    return ops.expand_dims(ops.expand_dims(positions, 1) >= ops.expand_dims(positions, 0), 0)


@register
class MultiHeadAttention(keras.layers.Layer):
    """N attentions in parallel: softmax(Q Kᵀ / √H) V, concatenated and projected (eq. 1 and section 3.2.2).

    Q = query W_Q, K = memory W_K, V = memory W_V. `project` and `attend` are the two halves of `call`: a decoder
    projects what stays constant once, and attends from every new position to a cache of keys and values.

    Args: num_heads N, dropout (on the attention weights).
    Call: query [B, T, D]; memory [B, S, D] (the query itself when None: self-attention);
        attention_mask bool [B|1, T|1, S], True = may attend.
    Returns: [B, T, D].
    """

    def __init__(self, num_heads, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if num_heads < 1:
            raise ValueError(f"num_heads is {num_heads}; it must be 1 or more.")
        self.num_heads, self.dropout = num_heads, dropout

    def build(self, query_shape, memory_shape=None):
        width = query_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"the width {width} must be a multiple of num_heads, which is {self.num_heads}.")
        self.head_width = width // self.num_heads
        memory_shape = memory_shape or query_shape
        shapes = {"query": query_shape, "key": memory_shape, "value": memory_shape, "out": query_shape}
        for name, shape in shapes.items():
            projection = keras.layers.Dense(width, dtype=self.dtype_policy, name=name)
            setattr(self, name, projection)
            projection.build(shape)
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def heads(self, x):
        """[B, T, D] -> [B, N, T, H]."""
        x = ops.reshape(x, (-1, ops.shape(x)[1], self.num_heads, self.head_width))
        return ops.transpose(x, (0, 2, 1, 3))

    def project(self, memory):
        """memory [B, S, D] -> keys, values, each [B, N, S, H]."""
        return self.heads(self.key(memory)), self.heads(self.value(memory))

    def attend(self, query, keys, values, attention_mask=None, training=None):
        """query [B, T, D], keys and values [B, N, S, H] -> mixed [B, T, D], weights [B, N, T, S]."""
        queries = self.heads(self.query(query) * self.head_width**-0.5)
        scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2)))  # [B, N, T, S]
        scores = ops.cast(scores, "float32")  # the softmax would overflow in half precision
        if attention_mask is not None:
            # Large enough to vanish in the softmax, finite so that a row with nothing to see is no NaN.
            scores = ops.where(ops.expand_dims(attention_mask, 1), scores, -1e9)
        weights = ops.softmax(scores)
        mixed = ops.matmul(self.drop(ops.cast(weights, values.dtype), training=training), values)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), ops.shape(query))
        return self.out(mixed), weights

    def call(self, query, memory=None, attention_mask=None, training=None):
        keys, values = self.project(query if memory is None else memory)
        return self.attend(query, keys, values, attention_mask, training)[0]

    def compute_output_shape(self, query_shape, memory_shape=None):
        return query_shape

    def get_config(self):
        return super().get_config() | {"num_heads": self.num_heads, "dropout": self.dropout}
