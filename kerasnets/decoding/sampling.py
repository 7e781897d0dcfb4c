"""Sampling of tokens from a model's probabilities.   B batch, L longest output, V vocabulary."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

Step = Callable[[tf.Tensor, tf.Tensor, Any, Any], tuple[tf.Tensor, Any]]

# Bounds of 1 / temperature. Temperatures above 10^6 hardly change probabilities any more, and a token with the logit
# -10^9 is still not drawn; with lower temperatures, the product with a logit would not be finite.
MIN_SCALE, MAX_SCALE = 1e-6, 1e38
BITS = 23  # of a random number: few enough that (1 - 2^-BITS) · x is below x for any float32 x


class Options(NamedTuple):
    """Options of sampling, each [B], applied to the logits in this order.

    repetition_penalty θ, float32: logits of tokens that have occurred are divided by it if positive, multiplied if
        negative (Keskar et al. 2019, section 4.1); 1 = none.
    temperature, float32: divides all logits; 0 = the most probable token.
    top_k, int32: number of most probable tokens to draw from; 0 = no limit (Fan et al. 2018).
    top_p, float32: draw from the smallest set of most probable tokens with this probability; 1 = no limit (Holtzman et
        al. 2020, section 3.1). The probabilities are those after the temperature and before top_k.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    repetition_penalty: tf.Tensor

    def limited(self) -> tf.Tensor:
        """-> bool: whether any row uses another option than the temperature."""
        return tf.reduce_any((self.top_k > 0) | (self.top_p < 1) | (self.repetition_penalty != 1))


def sample(
    step: Step,
    memory: Any,
    cache: Any,
    first: tf.Tensor,
    lengths: tf.Tensor,
    options: Options,
    random_numbers: tf.Tensor,
    seen: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, Any]:
    """Draw a token at every position from the model's probabilities, as the options change them.

    A row's tokens do not depend on other rows.

    Args: step, memory, cache: of the model, tensors of the cache [B, ...]; first int32 [B]: the previous token;
        lengths int32 [B], 1 or more; random_numbers float32 [B, L]: see `uniform`; seen bool [B, V]: tokens that have
        occurred.
    Returns: tokens int32 [B, L], 0 after the row's length; log probability of each row [B] under the model without any
        option; the cache after the row's length.
    """
    longest = tf.reduce_max(lengths)
    # Temperature 0 is a very small one, at which the random number matters only among equal logits: 0 takes the first.
    random_numbers = tf.where((options.temperature == 0)[:, tf.newaxis], 0.0, random_numbers)
    random_numbers = tf.transpose(random_numbers)[..., tf.newaxis]  # [L, B, 1]
    scale = inverse_temperature(options.temperature)

    def run(limited, ragged):
        def advance(index, token, cache, tokens, losses, seen):
            logits, after = step(token, index, memory, cache)
            random_number = tf.gather(random_numbers, index)
            if limited:
                token = pick_by_options(logits, seen, options, scale, random_number)
                seen |= tf.one_hot(token, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
            else:
                token = pick(softmax_weights(logits, scale), random_number)
            if ragged:
                after = tf.nest.map_structure(functools.partial(select_rows, index < lengths), after, cache)
            loss, _ = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=token)
            return index + 1, token, after, tokens.write(index, token), losses.write(index, loss), seen

        arrays = (tf.TensorArray(dtype, longest, element_shape=first.shape) for dtype in (tf.int32, tf.float32))
        _, _, after, tokens, losses, _ = tf.while_loop(
            lambda index, *_: index < longest, advance, (0, first, cache, *arrays, seen), parallel_iterations=1
        )
        return tokens.stack(), losses.stack(), after

    # Omit operations that no row needs: with few rows, the overhead of an operation exceeds its computation.
    loops = [functools.partial(run, limited, ragged) for limited in (False, True) for ragged in (False, True)]
    ragged = tf.reduce_any(lengths < longest)
    tokens, losses, cache = tf.switch_case(2 * tf.cast(options.limited(), tf.int32) + tf.cast(ragged, tf.int32), loops)
    valid = tf.sequence_mask(lengths, longest)
    return tf.where(valid, tf.transpose(tokens), 0), -tf.reduce_sum(tf.where(valid, tf.transpose(losses), 0), 1), cache


def select_rows(rows: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """rows bool [B], new and old [B, ...] -> the rows of new where True, of old where False."""
    return tf.raw_ops.Select(condition=rows, x=new, y=old)  # copies rows, where `tf.where` broadcasts numbers


def draw(logits: tf.Tensor, options: Options, random_number: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
    """Draw one token per row -> int32 [B].

    Args: logits [B, V]; random_number [B]: see `uniform`; seen bool [B, V]: tokens that have occurred.


    Inverse transform sampling: it takes the token at which the cumulative weight, in the vocabulary's order, exceeds
    `random_number` times the total; tokens past top_k and top_p have weight 0.
    """
    random_number = tf.where(options.temperature == 0, 0.0, random_number)
    return pick_by_options(
        logits, seen, options, inverse_temperature(options.temperature), random_number[:, tf.newaxis]
    )


def pick_by_options(
    logits: tf.Tensor, seen: tf.Tensor, options: Options, scale: tf.Tensor, random_number: tf.Tensor
) -> tf.Tensor:
    """As `draw`, with scale and random_number [B, 1] computed from the temperature beforehand, outside the loop."""
    return pick(truncate(softmax_weights(penalize(logits, seen, options), scale), options), random_number)


def inverse_temperature(temperature: tf.Tensor) -> tf.Tensor:
    """temperature [B] -> 1 / temperature [B, 1]."""
    return tf.clip_by_value(1 / temperature, MIN_SCALE, MAX_SCALE)[:, tf.newaxis]


def penalize(logits: tf.Tensor, seen: tf.Tensor, options: Options) -> tf.Tensor:
    penalty = options.repetition_penalty[:, tf.newaxis]
    return tf.where(seen, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def softmax_weights(logits: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """logits [B, V], scale [B, 1] -> unnormalized softmax(scale · logits), whose maximum is 1."""
    return tf.exp((logits - tf.reduce_max(logits, axis=-1, keepdims=True)) * scale)


def truncate(weights: tf.Tensor, options: Options) -> tf.Tensor:
    """weights [B, V] -> the same, 0 past top_k and top_p."""
    size = weights.shape[-1]
    best, tokens = tf.math.top_k(weights, size)
    cumulative = tf.cumsum(best, axis=-1)
    top_p = options.top_p[:, tf.newaxis]
    within = (cumulative - best < top_p * cumulative[:, -1:]) | (top_p >= 1)
    count = tf.minimum(
        tf.reduce_sum(tf.cast(within, tf.int32), axis=-1), tf.where(options.top_k > 0, options.top_k, size)
    )
    ranks = tf.math.top_k(-tokens, size).indices  # of each token by weight
    return tf.where(ranks < count[:, tf.newaxis], weights, 0.0)


def pick(weights: tf.Tensor, random_number: tf.Tensor) -> tf.Tensor:
    """weights [B, V], random_number [B, 1] in [0, 1 - 2^-BITS] -> the token at this share of their sum, int32 [B]."""
    cumulative = tf.cumsum(weights, axis=-1)
    return tf.raw_ops.UpperBound(
        sorted_inputs=cumulative, values=random_number * cumulative[:, -1:], out_type=tf.int32
    )[:, 0]


def uniform(seeds: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Return the random number of each position: a hash of the position and the row's seed only.

    SplitMix64 (Steele et al. 2014) hashes a counter and so can start anywhere; each seed's counter starts at the hash
    of the seed.

    Args: seeds int64 [B]; positions int64 [B, L], 0 or more.
    Returns: float32 [B, L], multiples of 2^-23 in [0, 1).
    """
    start = mix64(tf.bitcast(seeds, tf.uint64))[:, tf.newaxis]
    counter = start + tf.bitcast(positions + 1, tf.uint64) * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    return tf.cast(right_shift(mix64(counter), 64 - BITS), tf.float32) * 2.0**-BITS


def mix64(z: tf.Tensor) -> tf.Tensor:
    """uint64 -> uint64, one to one; every bit depends on all bits of z."""
    z = tf.bitwise.bitwise_xor(z, right_shift(z, 30)) * tf.constant(0xBF58476D1CE4E5B9, tf.uint64)
    z = tf.bitwise.bitwise_xor(z, right_shift(z, 27)) * tf.constant(0x94D049BB133111EB, tf.uint64)
    return tf.bitwise.bitwise_xor(z, right_shift(z, 31))


def right_shift(z: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(z, tf.constant(bits, tf.uint64))
