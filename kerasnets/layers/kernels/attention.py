"""softmax(Q Kᵀ + bias) V, with queries already divided by √H: Vaswani et al. 2017, section 3.2.1.

B batch, T target, S source, N heads, H width of a head, G key/value heads (N unless they are grouped).
"""

import keras
from keras import ops

from kerasnets.layers.kernels.gradients import explicit_gradient

MASKED = -1e9  # vanishes in the softmax, but is finite, so that a fully masked row has no NaN
BLOCK = 128  # queries that a long causal attention computes at once
MAX_UNFUSED = 8  # queries up to which a softmax of several operations is faster than TensorFlow's kernel


def plain_attention(queries, keys, values, bias=0.0):
    """softmax(Q Kᵀ + bias) V (eq. 1), for queries [B, N, T, H], keys and values [B, N, S, H] -> [B, N, T, H]."""
    return ops.matmul(ops.softmax(ops.matmul(queries, transpose_last_two(keys)) + bias), values)


def attention(queries, keys, values, bias=None, causal=False, drop=None):
    """`plain_attention` by the fastest method, with the softmax in float32 at least: half precision would overflow.

    Args:
        queries [B, N, T, H], divided by √H; keys and values [B, G, S, H], each of whose G heads serves N / G query
            heads.
        bias [B|1, 1, T|1, S], added to the scores, such as `mask_bias`; or None.
        causal: whether a query sees only the keys of its own and earlier positions; T = S.
        drop: dropout, a function of the weights [B, N, T, S]; or None.
    Returns: [B, N, T, H].
    """
    if drop is not None:
        weights = drop(ops.cast(attention_weights(queries, keys, bias, causal), values.dtype))
        return ops.matmul(weights, repeat_heads(values, queries.shape[1]))
    if keras.backend.backend() != "tensorflow":
        return stock_attention(queries, keys, values, bias, causal)
    keys, values = (repeat_heads(x, queries.shape[1]) for x in (keys, values))
    length = queries.shape[2]
    is_static = length is not None and (bias is None or bias.shape[2] is not None)
    if causal and is_static and length > BLOCK:
        return causal_attention_in_blocks(queries, keys, values, bias)
    bias = causal_bias(queries, keys, bias) if causal else bias
    if length is not None and length <= MAX_UNFUSED:
        # A search step: its arrays are small, so that only the number of operations matters.
        scores = add_bias(ops.matmul(queries, transpose_last_two(keys)), bias)
        scores = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
        weights = scores / ops.sum(scores, axis=-1, keepdims=True)
        return ops.matmul(ops.cast(weights, values.dtype), values)
    return scaled_dot_product_attention(queries, keys, values, *([] if bias is None else [bias]))


def attention_weights(queries, keys, bias=None, causal=False):
    """softmax(Q Kᵀ + bias) [B, N, T, S], in float32 at least; arguments as in `attention`."""
    keys = repeat_heads(keys, queries.shape[1])
    scores = ops.matmul(queries, transpose_last_two(keys))
    return ops.softmax(add_bias(scores, causal_bias(queries, keys, bias) if causal else bias))


@explicit_gradient
def scaled_dot_product_attention(queries, keys, values, *bias):
    """O = P V with P = softmax(Q Kᵀ + bias), and its gradient for the upstream dO:

        dV = Pᵀ dO      dS = P ⊙ (dO Vᵀ - rows of Σ dO ⊙ O)      dQ = dS K      dK = dSᵀ Q

    The softmax's gradient needs Σ dP ⊙ P of each row; computed as Σ dO ⊙ O, it needs no pass over the T × S scores
    (Dao et al. 2022, appendix B.2). The bias gets no gradient.

    Args: queries [B, N, T, H]; keys, values [B, N, S, H]; bias [B|1, 1, T|1, S], optional.
    Returns: [B, N, T, H].
    """
    exact = ops.softmax(add_bias(ops.matmul(queries, transpose_last_two(keys)), *bias))
    weights = ops.cast(exact, values.dtype)
    outputs = ops.matmul(weights, values)

    def gradient(upstream):
        d_weights = ops.cast(ops.matmul(upstream, transpose_last_two(values)), exact.dtype)
        # In half precision O is too coarse for this sum.
        product = upstream * outputs if exact.dtype == outputs.dtype else d_weights * exact
        d_scores = ops.cast(exact * (d_weights - ops.sum(product, axis=-1, keepdims=True)), queries.dtype)
        d_queries, d_keys = ops.matmul(d_scores, keys), ops.matmul(transpose_last_two(d_scores), queries)
        return d_queries, d_keys, ops.matmul(transpose_last_two(weights), upstream), *(None for _ in bias)

    return outputs, gradient


def causal_attention_in_blocks(queries, keys, values, bias=None):
    """Causal attention, BLOCK queries at a time: a block scores no keys after its end.

    Args: as in `scaled_dot_product_attention`; bias may be None.
    """
    ends = list(range(BLOCK, queries.shape[2], BLOCK))
    blocks = [ops.split(x, ends, axis=2) for x in (queries, keys, values)]
    outputs = []
    for n, block in enumerate(blocks[0]):
        keys, values = (ops.concatenate(x[: n + 1], axis=2) for x in blocks[1:])
        end, block_bias = keys.shape[2], bias
        if bias is not None:
            block_bias = bias[:, :, (end - block.shape[2] if bias.shape[2] != 1 else 0) : end, :end]
        outputs.append(scaled_dot_product_attention(block, keys, values, causal_bias(block, keys, block_bias)))
    return ops.concatenate(outputs, axis=2)


def stock_attention(queries, keys, values, bias=None, causal=False):
    """`keras.ops.dot_product_attention`, which is flash attention on a GPU; arguments as in `attention`."""
    if bias is not None:
        bias = causal_bias(queries, keys, bias) if causal else bias
        if keras.backend.standardize_dtype(queries.dtype) == "float16":
            bias = ops.maximum(bias, -3e4)  # MASKED would be infinite
        bias, causal = ops.cast(bias, queries.dtype), False
    rows = [ops.transpose(x, (0, 2, 1, 3)) for x in (queries, keys, values)]
    return ops.transpose(ops.dot_product_attention(*rows, bias=bias, scale=1.0, is_causal=causal), (0, 2, 1, 3))


def causal_mask(length, sources=None):
    """-> bool [1, T, S]: a position sees itself and earlier ones (section 3.2.3).

    Args: length T; sources S, T when None; the T positions are the last of the S.
    """
    sources = length if sources is None else sources
    positions = ops.expand_dims(ops.arange(length, dtype="int32") + (sources - length), 1)
    return ops.expand_dims(positions >= ops.expand_dims(ops.arange(sources, dtype="int32"), 0), 0)


def window_mask(length, window, sources=None):
    """-> bool [1, T, S]: a position sees itself and the `window` - 1 before it (Beltagy et al. 2020, section 3.1).

    Args: length T; sources S, T when None; the T positions are the last of the S.
    """
    sources = length if sources is None else sources
    positions = ops.expand_dims(ops.arange(length, dtype="int32") + (sources - length), 1)
    distance = positions - ops.expand_dims(ops.arange(sources, dtype="int32"), 0)
    return ops.expand_dims(ops.logical_and(distance >= 0, distance < window), 0)


def mask_bias(attention_mask):
    """attention_mask bool [B|1, T|1, S], True = may attend -> float32 [B|1, 1, T|1, S], 0 or MASKED; None for None."""
    if attention_mask is None:
        return None
    # Python numbers would take the dtype `keras.config.floatx()`; in float16 MASKED is infinite.
    zero, masked = (ops.convert_to_tensor(bias, "float32") for bias in (0.0, MASKED))
    return ops.expand_dims(ops.where(attention_mask, zero, masked), 1)


def causal_bias(queries, keys, bias=None):
    """-> the bias of causal attention [B|1, 1, T, S], added to `bias` if it is not None."""
    causal = mask_bias(causal_mask(ops.shape(queries)[2], ops.shape(keys)[2]))
    return causal if bias is None else causal + bias


def add_bias(scores, bias=None):
    """-> scores + bias, in float32 at least."""
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    return scores if bias is None else scores + ops.cast(bias, scores.dtype)


def repeat_heads(heads, num_heads):
    """Keys or values [B, G, S, H] -> [B, N, S, H]: each head repeated for its N / G query heads."""
    times = num_heads // heads.shape[1]
    return heads if times == 1 else ops.repeat(heads, times, axis=1)


def transpose_last_two(x):
    return ops.transpose(x, (0, 1, 3, 2))
