"""Sources of about the same length are searched together.   B rows, S longest source, L longest output."""

from collections.abc import Callable

import tensorflow as tf

from kerasnets.decoding.loop import loop

ROWS = 64  # of a bucket: as many as fill the cores, and a bound on the memory that a large batch takes


def by_length(
    search: Callable, source: tf.Tensor, lengths: tf.Tensor, limits: tf.Tensor, hypotheses: tuple[int, ...] = ()
) -> tuple[tf.Tensor, tf.Tensor]:
    """Searches at most ROWS sources at a time, the shortest first, each bucket cut to its longest source.

    Args:
        search: `search(rows int [A], source int [A, s], limits int [A])` -> tokens int32 [A, *hypotheses, l], scores
            float32 [A, *hypotheses] of these rows of the batch.
        source int32 [B, S], of which lengths int32 [B] are no padding; limits int32 [B]: most tokens of each output.
    Returns: tokens [B, *hypotheses, L], 0 after the end of each; scores [B, *hypotheses]; both in the batch's order.
    """
    order, count, longest = tf.argsort(lengths, stable=True), tf.size(lengths), tf.reduce_max(limits)

    def next_bucket(first, tokens, scores):
        rows = order[first : first + ROWS]
        given = tf.gather(source, rows)[:, : tf.reduce_max(tf.gather(lengths, rows))]
        found, found_scores = search(rows, given, tf.gather(limits, rows))
        missing = longest - tf.shape(found)[-1]
        found = tf.pad(found, [*[[0, 0]] * (1 + len(hypotheses)), [0, missing]])
        places = rows[:, tf.newaxis]
        tokens = tf.tensor_scatter_nd_update(tokens, places, found)
        return first + ROWS, tokens, tf.tensor_scatter_nd_update(scores, places, found_scores)

    empty = tf.zeros([count, *hypotheses, longest], tf.int32), tf.zeros([count, *hypotheses])
    return loop(lambda first, *_: first < count, next_bucket, (tf.constant(0), *empty))[1:]
