"""Attention: Vaswani et al. 2017, section 3.2.

B batch, T target, S source, D width, N heads, H = D / N, G key/value heads (N unless they are grouped).
"""

import functools

import keras
from keras import ops

from kerasnets.checks import check_counts, check_fractions
from kerasnets.layers.kernels.attention import attention, attention_weights, mask_bias
from kerasnets.layers.linear import Linear
from kerasnets.layers.masking import MaskedLayer, merge_masks, merge_padding_mask
from kerasnets.layers.positions import rotate

register = keras.saving.register_keras_serializable("kerasnets")


@register
class MultiHeadAttention(MaskedLayer):
    """N attention heads in parallel: softmax(Q Kᵀ / √H) V, concatenated and projected (eq. 1 and section 3.2.2).

    Q = query W_Q, K = memory W_K, V = memory W_V. `project` and `attend` are the two halves of `call`: a decoder
    projects the encoder's output once, and attends from every new position to a cache of keys and values.
    `attention_weights` returns only the softmax.

    Args:
        num_heads N; dropout, on the attention weights;
        num_key_value_heads G: each is shared by a group of query heads, which makes the cache smaller
            (Ainslie et al. 2023, grouped-query attention). When None, N.
        rotary: whether to rotate queries and keys by their positions (see `rotate`).
    Call: query [B, T, D]; memory [B, S, D] (the query itself when None: self-attention);
        attention_mask bool [B|1, T|1, S], True = may attend; causal: whether a position attends only to itself and
        earlier ones, which is faster than the equal attention_mask. A fully masked position gets a finite, meaningless
        vector. mask or query_mask, memory_mask: Keras's masks (see masking.py); no position attends to padding of the
        memory (in self-attention, of the query).
    Returns: [B, T, D].
    """

    def __init__(self, num_heads, dropout=0.0, num_key_value_heads=None, rotary=False, **kwargs):
        super().__init__(**kwargs)
        check_counts(num_heads=num_heads)
        check_fractions(dropout=dropout)
        if num_key_value_heads is not None and (num_key_value_heads < 1 or num_heads % num_key_value_heads):
            allowed = f"it must divide num_heads, which is {num_heads}"
            raise ValueError(f"num_key_value_heads is {num_key_value_heads}; {allowed}.")
        self.num_heads, self.dropout = num_heads, dropout
        self.num_key_value_heads, self.rotary = num_key_value_heads, rotary

    def build(self, query_shape, memory_shape=None):
        width = query_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"the width {width} must be a multiple of num_heads, which is {self.num_heads}.")
        self.head_width = width // self.num_heads
        if self.rotary and self.head_width % 2:
            raise ValueError(f"the width of a head is {self.head_width}; it must be even, since rotary rotates pairs.")
        self.groups = self.num_key_value_heads or self.num_heads
        memory_shape, key_width = memory_shape or query_shape, self.groups * self.head_width
        projections = {
            "query": (query_shape, width),
            "key": (memory_shape, key_width),
            "value": (memory_shape, key_width),
        }
        for name, (shape, units) in (projections | {"out": (query_shape, width)}).items():
            # Three products, not one of three times the width: they run in parallel, and the result needs no split.
            projection = Linear(units, dtype=self.dtype_policy, name=name)
            setattr(self, name, projection)
            projection.build(shape)
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def project(self, memory, start=0):
        """memory [B, S, D], whose first position is `start` -> keys, values, each [B, G, S, H]."""
        return self.project_rows(as_rows(memory), ops.shape(memory)[1], start)

    def project_unrotated(self, memory):
        """As `project`, but the keys are not rotated: `rotate_keys` can give them any positions later."""
        rows, length = as_rows(memory), ops.shape(memory)[1]
        return tuple(self.split_heads(linear(rows), length) for linear in (self.key, self.value))

    def rotate_keys(self, keys, start=0):
        """keys [B, G, S, H], whose first position is `start` -> the keys that `attend` takes."""
        return rotate(keys, start) if self.rotary else keys

    def attend(self, query, keys, values, bias=None, causal=False, start=0, training=None):
        """query [B, T, D], whose first position is `start`; keys and values [B, G, S, H] -> [B, T, D].

        bias and causal: see the kernel, `attention`.
        """
        length = ops.shape(query)[1]
        outputs = self.attend_rows(as_rows(query), length, keys, values, bias, causal, start, training)
        return ops.reshape(outputs, ops.shape(query))

    def attention_weights(self, query, keys, bias=None, causal=False, start=0):
        """As `attend` -> softmax(Q Kᵀ / √H + bias) [B, N, T, S] in float32."""
        queries = self.queries(as_rows(query), ops.shape(query)[1], start)
        return attention_weights(queries, keys, bias, causal)

    # The same for rows [B T, D], the positions of all sequences stacked. A search step passes rows: the T = K
    # hypotheses of a sequence at one position; it consists of many small operations, and each costs time.

    def project_rows(self, rows, length, start=0):
        """rows [B S, D] of S = `length` positions -> keys, values, each [B, G, S, H]."""
        keys, values = (self.split_heads(linear(rows), length) for linear in (self.key, self.value))
        return self.rotate_keys(keys, start), values

    def attend_rows(self, rows, length, keys, values, bias=None, causal=False, start=0, training=None):
        """rows [B T, D] of T = `length` positions -> [B T, D]."""
        drop = functools.partial(self.drop, training=True) if training and self.dropout else None
        outputs = attention(self.queries(rows, length, start), keys, values, bias, causal, drop)
        return self.out(self.join_heads(outputs))

    def queries(self, rows, length, start=0):
        """rows [B T, D] -> [B, N, T, H], divided by √H."""
        # Scale the rows, not the heads: TensorFlow's optimizer (2.21) fuses scalar times heads times keys into one
        # operation, which breaks the graphs of searches.
        queries = self.split_heads(self.query(rows) * self.head_width**-0.5, length)
        return rotate(queries, start) if self.rotary else queries

    def split_heads(self, rows, length):
        """[B T, n H] -> [B, n, T, H]."""
        num_heads = rows.shape[-1] // self.head_width
        if isinstance(length, int) and length == 1:
            return ops.reshape(rows, (-1, num_heads, 1, self.head_width))
        return ops.transpose(ops.reshape(rows, (-1, length, num_heads, self.head_width)), (0, 2, 1, 3))

    def join_heads(self, heads):
        """[B, N, T, H] -> [B T, D]."""
        heads = heads if heads.shape[2] == 1 else ops.transpose(heads, (0, 2, 1, 3))
        return ops.reshape(heads, (-1, self.num_heads * self.head_width))

    def call(
        self,
        query,
        memory=None,
        attention_mask=None,
        causal=False,
        training=None,
        mask=None,
        query_mask=None,
        memory_mask=None,
    ):
        if causal and memory is not None:
            raise ValueError("causal is True; with a memory it must be False: pass an attention_mask instead.")
        if memory is None:
            memory, memory_mask = query, merge_masks(mask, query_mask)
        bias = mask_bias(merge_padding_mask(attention_mask, memory_mask))
        keys, values = self.project(memory)
        return self.attend(query, keys, values, bias, causal, training=training)

    def compute_output_shape(self, query_shape, memory_shape=None):
        return query_shape

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "num_key_value_heads": self.num_key_value_heads,
            "rotary": self.rotary,
        }


def as_rows(x):
    """[B, T, D] -> [B T, D]."""
    return ops.reshape(x, (-1, x.shape[-1]))
