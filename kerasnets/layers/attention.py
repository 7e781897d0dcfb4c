"""Attention: Vaswani et al. 2017, section 3.2.

B batch, T target, S source, D width, N heads, H = D / N, G heads of keys and values (N unless they are grouped).
"""

import keras
from keras import ops

from kerasnets.layers.checks import check_counts, check_shares
from kerasnets.layers.gradients import written_out
from kerasnets.layers.linear import Linear
from kerasnets.layers.masking import MaskedLayer, all_valid, check_rank, mask_sources
from kerasnets.layers.positions import rotate

register = keras.saving.register_keras_serializable("kerasnets")

HIDDEN = -1e9  # large enough to vanish in the softmax, finite so that a row with nothing to see is no NaN
PART = 128  # queries that a long causal attention takes at once


def causal_mask(length):
    """-> bool [1, T, T]: position t sees itself and what is before it (section 3.2.3)."""
    positions = ops.arange(length, dtype="int32")
    return ops.expand_dims(ops.expand_dims(positions, 1) >= ops.expand_dims(positions, 0), 0)


@register
class MultiHeadAttention(MaskedLayer):
    """N attentions in parallel: softmax(Q Kᵀ / √H) V, concatenated and projected (eq. 1 and section 3.2.2).

    Q = query W_Q, K = memory W_K, V = memory W_V. `project` and `attend` are the two halves of `call`: a decoder
    projects what stays constant once, and attends from every new position to a cache of keys and values.
    `attention_weights` are the softmax alone, for whoever wants to look at them.

    Args:
        num_heads N; dropout, on the attention weights;
        num_key_value_heads: so many heads of keys and values, each shared by a group of query heads: a smaller cache
            (Ainslie et al. 2023, grouped-query attention). When None, N.
        rotary: whether queries and keys are turned by their positions (see `rotate`).
    Call: query [B, T, D]; memory [B, S, D] (the query itself when None: self-attention);
        attention_mask bool [B|1, T|1, S], True = may attend; causal: whether a position sees only itself and what is
        before it, which takes less time than the same as a mask. A position that may see nothing gets a finite
        vector that means nothing. mask or query_mask, memory_mask: Keras's masks (see masking.py); no position
        attends to padding of the memory, or in self-attention of the query.
    Returns: [B, T, D].
    """

    def __init__(self, num_heads, dropout=0.0, num_key_value_heads=None, rotary=False, **kwargs):
        super().__init__(**kwargs)
        check_counts(num_heads=num_heads)
        check_shares(dropout=dropout)
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
            raise ValueError(f"the width of a head is {self.head_width}; rotary turns pairs, so it must be even.")
        self.groups = self.num_key_value_heads or self.num_heads
        memory_shape, narrow = memory_shape or query_shape, self.groups * self.head_width
        projections = {"query": (query_shape, width), "key": (memory_shape, narrow), "value": (memory_shape, narrow)}
        for name, (shape, units) in (projections | {"out": (query_shape, width)}).items():
            # Three products and not one of three times the width: they run side by side, and nothing is cut apart.
            projection = Linear(units, dtype=self.dtype_policy, name=name)
            setattr(self, name, projection)
            projection.build(shape)
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def heads(self, x):
        """[B, T, n H] -> [B, n, T, H]."""
        split = (*ops.shape(x)[:2], x.shape[-1] // self.head_width, self.head_width)
        return ops.transpose(ops.reshape(x, split), (0, 2, 1, 3))

    def project(self, memory, start=0):
        """memory [B, S, D], of which the first stands at position `start` -> keys, values, each [B, G, S, H]."""
        keys, values = self.heads(self.key(memory)), self.heads(self.value(memory))
        return (rotate(keys, start) if self.rotary else keys), values

    def queries(self, query, start=0):
        """query [B, T, D], of which the first stands at position `start` -> [B, N, T, H], divided by √H."""
        queries = self.heads(self.query(query, factor=self.head_width**-0.5))
        return rotate(queries, start) if self.rotary else queries

    def attend(self, query, keys, values, attention_mask=None, causal=False, start=0, training=None):
        """query [B, T, D], its first at position `start`; keys and values [B, G, S, H] -> [B, T, D]."""
        check_rank(attention_mask)
        if training and self.dropout:
            weights = self.attention_weights(query, keys, attention_mask, causal, start)
            weights = self.drop(ops.cast(weights, values.dtype), training=training)
            mixed = ops.matmul(weights, for_all(values, self.num_heads))
        else:
            mixed = dot_product_attention(self.queries(query, start), keys, values, attention_mask, causal)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), ops.shape(query))
        return self.out(mixed)

    def project_step(self, rows, hypotheses, position):
        """As `project`, of one position: rows [B K, D], K hypotheses of each row of the batch -> each [B, G, K, H]."""
        keys, values = (self.step_heads(linear(rows), hypotheses) for linear in (self.key, self.value))
        return (rotate(keys, position) if self.rotary else keys), values

    def attend_step(self, rows, hypotheses, keys, values, bias, position=None):
        """As `attend`, from one position: rows [B K, D]; bias [B, 1, K|1, S] -> [B K, D].

        Nothing of it asks for the size of the batch: a step is made of many small operations, and each one counts.
        """
        queries = self.step_heads(self.query(rows) * self.head_width**-0.5, hypotheses)
        queries = rotate(queries, position) if self.rotary else queries
        keys, values = for_all(keys, self.num_heads), for_all(values, self.num_heads)
        scores = ops.cast(ops.matmul(queries, swap(keys)), bias.dtype) + bias  # [B, N, K, S]
        # The softmax as it is written down: its kernel for CPUs is made for larger arrays.
        scores = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
        weights = scores / ops.sum(scores, axis=-1, keepdims=True)
        mixed = ops.matmul(ops.cast(weights, values.dtype), values)  # [B, N, K, H]
        mixed = mixed if hypotheses == 1 else ops.transpose(mixed, (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, rows.shape[-1])))

    def step_heads(self, rows, hypotheses):
        """[B K, n H] -> [B, n, K, H]."""
        count = rows.shape[-1] // self.head_width
        if hypotheses == 1:
            return ops.reshape(rows, (-1, count, 1, self.head_width))
        return ops.transpose(ops.reshape(rows, (-1, hypotheses, count, self.head_width)), (0, 2, 1, 3))

    def attention_weights(self, query, keys, attention_mask=None, causal=False, start=0):
        """query [B, T, D], its first at position `start`; keys [B, G, S, H] -> softmax(Q Kᵀ / √H) [B, N, T, S]."""
        check_rank(attention_mask)
        queries, keys = self.queries(query, start), for_all(keys, self.num_heads)
        scores = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2)))
        return softmax(scores, *hidden(attention_mask, causal, queries, keys))

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
            raise ValueError("causal attention is of a sequence on itself: give no memory, or an attention_mask.")
        if memory is None:
            memory, memory_mask = query, all_valid(mask, query_mask)
        attention_mask = mask_sources(attention_mask, memory_mask)
        keys, values = self.project(memory)
        return self.attend(query, keys, values, attention_mask, causal, training=training)

    def compute_output_shape(self, query_shape, memory_shape=None):
        return query_shape

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "num_key_value_heads": self.num_key_value_heads,
            "rotary": self.rotary,
        }


def for_all(heads, num_heads):
    """Keys or values [B, G, S, H] -> [B, N, S, H]: each for its group of N / G query heads."""
    times = num_heads // heads.shape[1]
    return heads if times == 1 else ops.repeat(heads, times, axis=1)


def hidden(attention_mask, causal, queries, keys):
    """-> what is added to the scores, [B|1, 1, T|1, S], HIDDEN where a position may not look; () for nothing."""
    masks = [] if attention_mask is None else [attention_mask]
    if causal:
        # Queries of a part stand at the end of the keys that they get.
        length, seen = ops.shape(queries)[2], ops.shape(keys)[2]
        masks.append(causal_mask(seen)[:, seen - length :])
    if not masks:
        return ()
    return (bias_of(masks[0] if len(masks) == 1 else ops.logical_and(*masks)),)


def bias_of(attention_mask):
    """attention_mask bool [B|1, T|1, S] -> what is added to the scores, [B|1, 1, T|1, S]."""
    # Plain numbers would be of the dtype `keras.config.floatx()`; in float16 HIDDEN is infinite.
    zero, lowest = (ops.convert_to_tensor(bias, "float32") for bias in (0.0, HIDDEN))
    return ops.expand_dims(ops.where(attention_mask, zero, lowest), 1)


def softmax(scores, *bias):
    """The weights [B, N, T, S] for these scores, with a bias that hides some; in half precision it would overflow."""
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    for hide in bias:
        scores = scores + ops.cast(hide, scores.dtype)
    return ops.softmax(scores)


def dot_product_attention(queries, keys, values, attention_mask=None, causal=False):
    """softmax(Q Kᵀ) V by the fastest way that the backend has.

    Args: queries [B, N, T, H], divided by √H; keys and values [B, G, S, H]; attention_mask and causal as
        `MultiHeadAttention` has them.
    Returns: [B, N, T, H].
    """
    if keras.backend.backend() != "tensorflow":  # flash attention where there is a GPU
        rows = [ops.transpose(x, (0, 2, 1, 3)) for x in (queries, keys, values)]
        mask = None if attention_mask is None else ops.expand_dims(attention_mask, 1)
        return ops.transpose(ops.dot_product_attention(*rows, mask=mask, scale=1.0, is_causal=causal), (0, 2, 1, 3))
    keys, values = (for_all(x, queries.shape[1]) for x in (keys, values))
    length = queries.shape[2]
    known = length is not None and (attention_mask is None or attention_mask.shape[1] is not None)
    if causal and known and length > PART:
        return causal_in_parts(queries, keys, values, attention_mask)
    return mix(queries, keys, values, *hidden(attention_mask, causal, queries, keys))


def causal_in_parts(queries, keys, values, attention_mask=None):
    """Causal attention, PART queries at a time, each part with the keys that it may see: the others are not scored."""
    ends = list(range(PART, queries.shape[2], PART))
    parts = [ops.split(x, ends, axis=2) for x in (queries, keys, values)]
    mixed = []
    for n, part in enumerate(parts[0]):
        keys, values = (ops.concatenate(x[: n + 1], axis=2) for x in parts[1:])
        end = keys.shape[2]
        mask = attention_mask
        if mask is not None:
            mask = mask[:, (end - part.shape[2] if mask.shape[1] != 1 else 0) : end, :end]
        mixed.append(mix(part, keys, values, *hidden(mask, True, part, keys)))
    return ops.concatenate(mixed, axis=2)


@written_out
def mix(queries, keys, values, *bias):
    """O = P V with P = softmax(Q Kᵀ + bias), and its gradient for the upstream dO:

        dV = Pᵀ dO      dS = P ⊙ (dO Vᵀ - rows of Σ dO ⊙ O)      dQ = dS K      dK = dSᵀ Q

    The softmax's gradient needs Σ dP ⊙ P of each row; as Σ dO ⊙ O it takes no pass over the T S scores (Dao et al.
    2022, appendix B.2).

    Args: queries [B, N, T, H]; keys, values [B, N, S, H]; bias [B|1, 1, T|1, S], for the scores.
    Returns: [B, N, T, H].
    """
    exact = softmax(ops.matmul(queries, swap(keys)), *bias)  # in float32 if the rest is in half precision
    weights = ops.cast(exact, values.dtype)
    mixed = ops.matmul(weights, values)

    def gradient(upstream):
        d_weights = ops.cast(ops.matmul(upstream, swap(values)), exact.dtype)
        # In half precision O is rounded too much for its sum.
        product = upstream * mixed if exact.dtype == mixed.dtype else d_weights * exact
        slope = ops.cast(exact * (d_weights - ops.sum(product, axis=-1, keepdims=True)), queries.dtype)
        d_queries, d_keys = ops.matmul(slope, keys), ops.matmul(swap(slope), queries)
        return d_queries, d_keys, ops.matmul(swap(weights), upstream), *(None for _ in bias)

    return mixed, gradient


def swap(x):
    return ops.transpose(x, (0, 1, 3, 2))
