"""Attention of a recurrent decoder over an encoder's steps.   B batch, T target, S source, U units, M width."""

import keras
from keras import ops

from kerasnets.checks import check_counts
from kerasnets.layers.kernels.attention import MASKED
from kerasnets.layers.masking import MaskedLayer, check_rank, merge_padding_mask

register = keras.saving.register_keras_serializable("kerasnets")


class SoftAttention(MaskedLayer):
    """Base class of both kinds: softmax of their scores, and the mean of the memory with these weights.

        a_ts = softmax_s(score(h_t, m_s))        context_t = Σ_s a_ts m_s

    `project` and `attend` are the two halves of `call`: a decoder projects the memory once.
    """

    def call(self, query, memory, attention_mask=None, memory_mask=None):
        return self.attend(query, self.project(memory), memory, merge_padding_mask(attention_mask, memory_mask))[0]

    def attend(self, query, keys, memory, attention_mask=None):
        """query [B, T, U], keys from `project`, memory [B, S, M] -> context [B, T, M], weights [B, T, S]."""
        check_rank(attention_mask)
        scores = ops.cast(self.scores(query, keys), "float32")
        if attention_mask is not None:
            scores = ops.where(attention_mask, scores, MASKED)
        weights = ops.softmax(scores)
        return ops.matmul(ops.cast(weights, memory.dtype), memory), weights

    def compute_output_shape(self, query_shape, memory_shape):
        return (*query_shape[:2], memory_shape[-1])


@register
class AdditiveAttention(SoftAttention):
    """score(h, m) = v · tanh(W h + U m): Bahdanau et al. 2015, appendix A.1.2.

    Args: units: width of the hidden layer.
    Call: query [B, T, U]; memory [B, S, M]; attention_mask bool [B|1, T|1, S], True = may attend;
        memory_mask bool [B, S], Keras's mask of the memory (see masking.py).
    Returns: context [B, T, M].
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        check_counts(units=units)
        self.units = units

    def build(self, query_shape, memory_shape):
        self.query = keras.layers.Dense(self.units, use_bias=False, dtype=self.dtype_policy, name="query")
        self.key = keras.layers.Dense(self.units, dtype=self.dtype_policy, name="key")
        self.query.build(query_shape)
        self.key.build(memory_shape)
        self.score = self.add_weight((self.units,), keras.initializers.RandomNormal(stddev=0.1), name="score")

    def project(self, memory):
        """memory [B, S, M] -> U m [B, S, units]."""
        return self.key(memory)

    def scores(self, query, keys):
        hidden = ops.tanh(ops.expand_dims(self.query(query), 2) + ops.expand_dims(keys, 1))  # [B, T, S, units]
        return ops.matmul(hidden, ops.cast(self.score, hidden.dtype))

    def get_config(self):
        return super().get_config() | {"units": self.units}


@register
class MultiplicativeAttention(SoftAttention):
    """score(h, m) = h · W m: Luong et al. 2015, section 3.1, "general".

    Call: query [B, T, U]; memory [B, S, M]; attention_mask bool [B|1, T|1, S], True = may attend;
        memory_mask bool [B, S], Keras's mask of the memory (see masking.py).
    Returns: context [B, T, M].
    """

    def build(self, query_shape, memory_shape):
        self.key = keras.layers.Dense(query_shape[-1], use_bias=False, dtype=self.dtype_policy, name="key")
        self.key.build(memory_shape)

    def project(self, memory):
        """memory [B, S, M] -> W m [B, S, U]."""
        return self.key(memory)

    def scores(self, query, keys):
        return ops.matmul(query, ops.transpose(keys, (0, 2, 1)))
