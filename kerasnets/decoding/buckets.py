"""Search in buckets of sources of similar length.   B rows, S longest source, L longest output."""

from collections.abc import Callable

import tensorflow as tf

from kerasnets.decoding.loop import loop

ROWS = 32  # of a bucket, which bounds the memory of a large batch
LANES = 2  # buckets at a time, one core each: a step is too small to be split over cores


def search_by_length(
    search: Callable, source: tf.Tensor, lengths: tf.Tensor, limits: tf.Tensor, hypotheses: tuple[int, ...] = ()
) -> tuple[tf.Tensor, tf.Tensor]:
    """Search buckets of at most ROWS sources of similar length, longest first, LANES buckets at a time.

    The next ROWS · LANES sources are dealt alternately to the lanes, so that their buckets take about as long.

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
    lanes = tf.where(count > ROWS, LANES, 1)
    buckets = count // (ROWS * lanes) * lanes + tf.minimum(count % (ROWS * lanes), lanes)  # none is empty

    def next_bucket(bucket, tokens, scores):
        first = bucket // lanes * lanes * ROWS
        rows = tf.gather(order, tf.range(first + bucket % lanes, tf.minimum(first + lanes * ROWS, count), lanes))
        given = tf.gather(source, rows)[:, : tf.reduce_max(tf.gather(lengths, rows))]
        found, found_scores = search(rows, given, tf.gather(limits, rows))
        missing = longest - tf.shape(found)[-1]
        found = tf.pad(found, [*[[0, 0]] * (1 + len(hypotheses)), [0, missing]])
        places = rows[:, tf.newaxis]
        tokens = tf.tensor_scatter_nd_update(tokens, places, found)
        return bucket + LANES, tokens, tf.tensor_scatter_nd_update(scores, places, found_scores)

    empty = tf.zeros([count, *hypotheses, longest], tf.int32), tf.zeros([count, *hypotheses])
    # A loop for each lane: TensorFlow runs loops in parallel, but not the iterations of one that reads variables.
    lanes_found = [
        loop(lambda bucket, *_: bucket < buckets, next_bucket, (tf.constant(lane), *empty))[1:] for lane in range(LANES)
    ]
    tokens, scores = (tf.add_n(found) for found in zip(*lanes_found, strict=True))  # 0 where another lane searched
    return tokens, scores
