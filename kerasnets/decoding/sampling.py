"""Tokens drawn from a model's probabilities.   B batch, L longest output, V vocabulary."""

from typing import Any

import tensorflow as tf

from kerasnets.decoding.search import Step, search


def sample(
    step: Step,
    memory: Any,
    cache: Any,
    first: tf.Tensor,
    lengths: tf.Tensor,
    temperature: tf.Tensor,
    top_k: tf.Tensor,
    top_p: tf.Tensor,
    chances: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """A token drawn at every position from softmax(logits / temperature), cut to the likeliest.

    Args: first int32 [B]: the token before; lengths int32 [B]; temperature float32 [B], 0 = the most probable token;
        top_k int32 [B], 0 = no limit; top_p float32 [B], 1 = no limit (Holtzman et al. 2020);
        chances float32 [B, at least L] in [0, 1), one a position, see `uniform`.
    Returns: tokens int32 [B, L], 0 after the row's length; log probability of each row [B] under the model itself, that
        is at temperature 1 and without limits.
    """

    def choose(logits, index):
        return draw(logits, temperature, top_k, top_p, chances[:, index])

    return search(step, memory, cache, first, choose, lengths, end=-1)


def draw(logits: tf.Tensor, temperature: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor, chance: tf.Tensor) -> tf.Tensor:
    """One token a row: logits [B, V], the rest [B], chance in [0, 1) -> int32 [B].

    Tokens are laid out by probability on the line from 0 to 1, those past the limits are cut off, and the token at
    `chance` times what is left of the line is taken (inverse of the distribution function).
    """
    greedy = temperature == 0
    # The best stays at 0 however small the temperature is; the others may go to -∞.
    scaled = (logits - tf.reduce_max(logits, axis=-1, keepdims=True)) / tf.where(greedy, 1.0, temperature)[
        :, tf.newaxis
    ]
    probabilities, tokens = tf.math.top_k(tf.nn.softmax(scaled), k=logits.shape[-1])  # [B, V], best first
    until = tf.cumsum(probabilities, axis=-1)
    ranks = tf.range(logits.shape[-1])
    kept = (ranks < tf.where(top_k > 0, top_k, logits.shape[-1])[:, tf.newaxis]) & (
        until - probabilities < top_p[:, tf.newaxis]
    )
    kept &= ~greedy[:, tf.newaxis] | (ranks == 0)
    length = tf.reduce_sum(tf.where(kept, probabilities, 0.0), axis=-1)
    before = tf.reduce_sum(tf.cast(until <= (chance * length)[:, tf.newaxis], tf.int32), axis=-1)
    last = tf.reduce_sum(tf.cast(kept, tf.int32), axis=-1) - 1  # rounding must not lead past the last kept one
    return tf.gather(tokens, tf.minimum(before, last), batch_dims=1)


def uniform(seeds: tf.Tensor, length: int) -> tf.Tensor:
    """seeds int64 [B] -> numbers in [0, 1), float32 [B, length]; a row depends on its own seed alone."""

    def row(seed):
        return tf.random.stateless_uniform([length], tf.stack([seed, tf.zeros_like(seed)]))

    return tf.map_fn(row, seeds, fn_output_signature=tf.TensorSpec([length], tf.float32))
