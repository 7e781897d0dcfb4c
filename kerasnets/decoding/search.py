"""Search over a model's `start` and `step`; knows no model.

`step(token [B], index, memory, cache) -> logits [B, V], cache` is all that is used of one. The whole search is one
graph loop, so that one call writes the whole text.

    B batch, L longest output, V vocabulary
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Step = Callable[[tf.Tensor, tf.Tensor, Any, Any], tuple[tf.Tensor, Any]]


def greedy(step: Step, memory: Any, cache: Any, start: int, end: int, limits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The most probable token at every position, until the end token or the limit of the row.

    Args: start, end: tokens; limits int32 [B]: most tokens of each row.
    Returns: tokens int32 [B, L], 0 after the end token; log probability of each row [B].
    """

    def choose(logits, index):
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    return search(step, memory, cache, tf.fill(tf.shape(limits), start), choose, limits, end)


def search(
    step: Step, memory: Any, cache: Any, first: tf.Tensor, choose: Callable, limits: tf.Tensor, end: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs `step` and `choose(logits [B, V], index) -> token [B]` until each row has its end token or its limit.

    Returns: tokens int32 [B, L], 0 after a row's last; log probability of each row [B], the end token's included.
    """
    longest = tf.reduce_max(limits)
    tokens = tf.TensorArray(tf.int32, size=0, dynamic_size=True, element_shape=[None])

    def unfinished(index, token, ended, *_):
        # One step at least, so that the tokens have a shape even of a batch without rows.
        return (index == 0) | (index < longest) & ~tf.reduce_all(ended)

    def advance(index, token, ended, log_probability, tokens, cache):
        logits, cache = step(token, index, memory, cache)
        token = tf.where(ended, 0, choose(logits, index))
        chosen = tf.gather(tf.nn.log_softmax(logits), token, batch_dims=1)
        log_probability += tf.where(ended, 0.0, chosen)
        ended |= (token == end) | (index + 1 >= limits)
        return index + 1, token, ended, log_probability, tokens.write(index, token), cache

    state = (tf.constant(0), first, limits <= 0, tf.zeros_like(limits, tf.float32), tokens, cache)
    _, _, _, log_probability, tokens, _ = tf.while_loop(unfinished, advance, state)
    return tf.transpose(tokens.stack()), log_probability
