"""Greedy and beam search.   B rows, K hypotheses of each, L longest output, V vocabulary, A rows still active."""

from typing import Any

import tensorflow as tf

from kerasnets.decoding.loop import Decoder, decode

GROUP = 32  # neighbours in the vocabulary
NO_HYPOTHESIS = -1e9  # log probability of a missing hypothesis
NO_SEQUENCE = tf.float32.min  # score of a missing sequence: with α < 0 other scores can be below NO_HYPOTHESIS


def greedy(
    model: Decoder, memory: Any, cache: Any, start: int | tf.Tensor, end: int, limits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Take the most probable token at every position, until the end token or the limit of the row.

    Args: memory, cache: from `model.start`, for a length of 0; start: first token, of all rows or [B]; end: token;
        limits int32 [B]: maximum tokens.
    Returns: tokens int32 [B, L], 0 after the end token; log probability of each row [B], including the end token.
    """
    longest = tf.reduce_max(limits)

    def advance(state, index, step, cache):
        logits, cache = step(state["token"], index, cache)
        token = tf.argmax(logits, axis=-1, output_type=tf.int32)
        best = -log_sum_exp(logits - tf.gather(logits, token, batch_dims=1)[:, tf.newaxis])
        active = ~state["ended"]
        token = tf.where(active, token, 0)
        after = {
            "token": token,
            "ended": state["ended"] | (token == end) | (index + 1 >= state["limits"]),
            "log_probability": state["log_probability"] + tf.where(active, best, 0.0),
            "tokens": write_token(state["tokens"], token, index),
            "limits": state["limits"],
        }
        return after, cache

    state = {
        "token": tf.zeros_like(limits) + start,
        "ended": limits <= 0,
        "log_probability": tf.zeros_like(limits, tf.float32),
        "tokens": tf.zeros([tf.size(limits), longest], tf.int32),
        "limits": limits,
    }
    return decode(model, memory, cache, state, advance, ("tokens", "log_probability"))


def beam_search(
    model: Decoder,
    memory: Any,
    cache: Any,
    start: int,
    end: int,
    limits: tf.Tensor,
    length_penalty: tf.Tensor,
    beams: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Find the K = `beams` best sequences: extend, at every position, the K most probable live hypotheses.

    A sequence ends with the end token or at the limit. Its score is log P / length^α, including the end token, with the
    row's length penalty α: 0 compares log probabilities, 1 their means; a greater α prefers longer sequences. Live and
    finished hypotheses are kept in separate lists, so that live ones never displace finished ones. A row ends when K
    hypotheses are finished and no live one can score above the best of them: log P only falls, so that a score is at
    most log P / limit^α for α ≥ 0, or log P / (shortest possible length)^α for α < 0. Hence the first result is the
    best that the search could ever find, and the others are the best finished by then; with as many beams as sequences,
    the search is exhaustive.

    Args: memory, cache: from `model.start`, for a length of 0; start, end: tokens; limits int32 [B], 1 or more:
        maximum tokens; length_penalty α float32 [B]; beams K.
    Returns: tokens int32 [B, K, L], 0 after the end token; scores [B, K], best first; NO_SEQUENCE in place of missing
        sequences.
    """
    longest = tf.reduce_max(limits)

    def advance(state, index, step, cache):
        logits, cache = step(state["token"], index, cache)
        total, parents, tokens = candidates(logits, state["log_probability"])
        limits, alpha = state["limits"][:, tf.newaxis], state["length_penalty"][:, tf.newaxis]
        sequences = write_token(tf.gather(state["live"], parents, batch_dims=1), tokens, index)  # [A, 2K, L]
        ends = (tokens == end) | (index + 1 >= limits)
        # A row that has ended adds no sequences while it waits for others: its results do not depend on other rows.
        finishes = ends & (total > NO_HYPOTHESIS / 2) & ~state["ended"][:, tf.newaxis]
        scores = tf.where(finishes, score(total, index + 1, alpha), NO_SEQUENCE)
        scores, chosen = tf.math.top_k(tf.concat([state["scores"], scores], axis=1), beams)
        finished = tf.gather(tf.concat([state["finished"], sequences], axis=1), chosen, batch_dims=1)
        total, chosen = tf.math.top_k(tf.where(ends, NO_HYPOTHESIS, total), beams)
        # The best score that a live hypothesis can still reach.
        bound = score(total[:, :1], tf.where(alpha >= 0, limits, index + 2), alpha)
        after = {
            "token": tf.gather(tokens, chosen, batch_dims=1),
            "live": tf.gather(sequences, chosen, batch_dims=1),
            "log_probability": total,
            "finished": finished,
            "scores": scores,
            "ended": (index + 1 >= state["limits"]) | (scores[:, -1] > NO_SEQUENCE) & (scores[:, 0] >= bound[:, 0]),
            "limits": state["limits"],
            "length_penalty": state["length_penalty"],
        }
        return after, model.reorder(cache, tf.gather(parents, chosen, batch_dims=1))

    rows = tf.size(limits)
    empty = tf.zeros([rows, beams, longest], tf.int32)
    # All beams are equal at first, so only one of them exists.
    log_probability = tf.one_hot(tf.zeros_like(limits), beams, on_value=0.0, off_value=NO_HYPOTHESIS)
    state = {
        "token": tf.fill([rows, beams], start),
        "live": empty,
        "log_probability": log_probability,
        "finished": empty,
        "scores": tf.fill([rows, beams], NO_SEQUENCE),
        "ended": limits <= 0,
        "limits": limits,
        "length_penalty": length_penalty,
    }
    cache = model.reorder(cache, tf.zeros([rows, beams], tf.int32))
    return decode(model, memory, cache, state, advance, ("finished", "scores"))


def candidates(logits: tf.Tensor, log_probability: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Find the 2K most probable continuations of K live hypotheses: at most K of them end, so that K stay live.

    Args: logits [A, K, V]; log_probability of the hypotheses [A, K].
    Returns: log probabilities, hypotheses and tokens of the continuations, each [A, 2K], best first.
    """
    beams, vocabulary = logits.shape[1:]
    count = min(2 * beams, vocabulary)
    best, tokens = fast_top_k(logits, count)  # first per hypothesis, so that fewer are summed and compared
    log_total = log_sum_exp(logits - best[..., :1]) + best[..., 0]
    total = (log_probability - log_total)[..., tf.newaxis] + best  # [A, K, count]
    total, chosen = tf.math.top_k(tf.reshape(total, [-1, beams * count]), min(2 * beams, beams * count))
    return total, chosen // count, tf.gather(tf.reshape(tokens, [-1, beams * count]), chosen, batch_dims=1)


def fast_top_k(logits: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """tf.math.top_k of logits [A, K, V], several times as fast as TensorFlow's, which compares one number at a time.

    The `count` largest logits are in the `count` groups of GROUP neighbours with the largest maxima: it finds these
    groups, then the largest logits in them.
    """
    beams, vocabulary = logits.shape[1:]
    if vocabulary <= 4 * count * GROUP:
        return tf.math.top_k(logits, count)
    padding = -vocabulary % GROUP
    if padding:
        logits = tf.pad(logits, [[0, 0], [0, 0], [0, padding]], constant_values=logits.dtype.min)
    groups = tf.reshape(logits, [-1, beams, (vocabulary + padding) // GROUP, GROUP])
    _, chosen = tf.math.top_k(tf.reduce_max(groups, axis=-1), count, sorted=False)
    chosen = tf.sort(chosen)  # the first of equal logits wins, as in top_k
    within = tf.reshape(tf.gather(groups, chosen, batch_dims=2), [-1, beams, count * GROUP])
    best, place = tf.math.top_k(within, count)
    return best, tf.gather(chosen, place // GROUP, batch_dims=2) * GROUP + place % GROUP


def log_sum_exp(logits: tf.Tensor) -> tf.Tensor:
    """logits [..., V], at most 0 -> log Σ exp, [...]."""
    return tf.math.log(tf.reduce_sum(tf.exp(logits), axis=-1))


def write_token(sequences: tf.Tensor, tokens: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """sequences [..., L], tokens [...] -> the sequences with the tokens at `index`."""
    return tf.where(tf.range(tf.shape(sequences)[-1]) == index, tokens[..., tf.newaxis], sequences)


def score(log_probability: tf.Tensor, length: tf.Tensor, length_penalty: tf.Tensor) -> tf.Tensor:
    return log_probability / tf.cast(length, tf.float32) ** length_penalty
