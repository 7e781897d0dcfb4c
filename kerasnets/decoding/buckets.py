"""Search in buckets of sources of similar length.   B rows, S longest source, L longest output."""

from collections.abc import Callable

import tensorflow as tf

from kerasnets.decoding.loop import loop

BUCKET_ROWS = 32  # maximum rows of a bucket, which bounds the memory of a large batch
LANES = 2  # buckets searched in parallel, one core each: a step is too small to be split over cores


def search_by_length(
    search: Callable, source: tf.Tensor, lengths: tf.Tensor, limits: tf.Tensor, hypotheses: tuple[int, ...] = ()
) -> tuple[tf.Tensor, tf.Tensor]:
    """Search buckets of at most BUCKET_ROWS sources of similar length, longest first, LANES buckets at a time.

    The next BUCKET_ROWS · LANES sources alternate between the lanes, so that they take equal times.

    Args:
        search: `search(rows int [A], source int [A, s], limits int [A])` -> tokens int32 [A, *hypotheses, l], scores
            float32 [A, *hypotheses] of these rows of the batch.
        source int32 [B, S], padding after lengths int32 [B]; limits int32 [B]: maximum tokens of each output.
    Returns: tokens [B, *hypotheses, L], 0 after the end of each; scores [B, *hypotheses]; both in the batch's order.
    """
    # One graph for all lanes, not inlined: a copy for each lane would take twice the time and memory to prepare.
    search = tf.function(search, reduce_retracing=True, experimental_attributes={"_noinline": True})
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)
    count, longest = tf.size(lengths), tf.reduce_max(limits)
    # A batch that fits into one bucket is not split, so that it takes fewer steps.
    lanes = tf.where(count > BUCKET_ROWS, LANES, 1)
    buckets = count // (BUCKET_ROWS * lanes) * lanes + tf.minimum(count % (BUCKET_ROWS * lanes), lanes)  # none is empty

    def next_bucket(bucket, tokens, scores):
        first = bucket // lanes * lanes * BUCKET_ROWS
        rows = tf.gather(order, tf.range(first + bucket % lanes, tf.minimum(first + lanes * BUCKET_ROWS, count), lanes))
        bucket_source = tf.gather(source, rows)[:, : tf.reduce_max(tf.gather(lengths, rows))]
        bucket_tokens, bucket_scores = search(rows, bucket_source, tf.gather(limits, rows))
        padding = longest - tf.shape(bucket_tokens)[-1]
        bucket_tokens = tf.pad(bucket_tokens, [*[[0, 0]] * (1 + len(hypotheses)), [0, padding]])
        indices = rows[:, tf.newaxis]
        tokens = tf.tensor_scatter_nd_update(tokens, indices, bucket_tokens)
        return bucket + LANES, tokens, tf.tensor_scatter_nd_update(scores, indices, bucket_scores)

    empty = tf.zeros([count, *hypotheses, longest], tf.int32), tf.zeros([count, *hypotheses])
    # A loop for each lane: TensorFlow runs loops in parallel, but not the iterations of one that reads variables.
    lane_results = [
        loop(lambda bucket, *_: bucket < buckets, next_bucket, (tf.constant(lane), *empty))[1:] for lane in range(LANES)
    ]
    tokens, scores = (tf.add_n(results) for results in zip(*lane_results, strict=True))  # 0 where another lane searched
    return tokens, scores
