"""Sampling: parity with the probabilities and with a reference in NumPy; independence of rows."""

import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close

from kerasnets.decoding import Options, draw, sample, uniform

VOCABULARY = 9
# Logits after each token: the next token of the toy model depends only on the last one.
TABLE = np.random.default_rng(3).normal(0, 1.5, (VOCABULARY, VOCABULARY)).astype(np.float32)
LOGITS = np.array([0.2, 2.0, -1.0, 1.1, 0.0, 0.5], np.float32)
BEST_FIRST = np.argsort(-LOGITS)
STEPS = 2**23  # random numbers are multiples of 1 / STEPS
DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def toy(token, index, memory, cache):
    """A model with a memory (added to the logits of each row) and a cache that counts the steps of each row."""
    return tf.gather(TABLE, token) + memory, cache + 1


def options(rows, **values):
    """-> the Options of `rows` rows; each value is one number for all rows or a list."""
    values = DEFAULTS | values
    types = {"top_k": np.int32}
    return Options(
        **{
            name: tf.constant(np.broadcast_to(np.asarray(x, types.get(name, np.float32)), rows))
            for name, x in values.items()
        }
    )


def draw_tokens(random_numbers, logits=LOGITS, seen=(), **values):
    """-> a token for each random number, all from the same logits."""
    rows, size = len(random_numbers), len(logits)
    mask = np.isin(np.arange(size), seen)
    arguments = options(rows, **values), tf.constant(random_numbers, tf.float32), tf.broadcast_to(mask, (rows, size))
    return draw(tf.broadcast_to(tf.constant(logits), (rows, size)), *arguments).numpy()


def sample_toy(rows=1, lengths=8, first=1, seeds=0, memory=None, seen=None, **values):
    """Call `sample` for the toy model."""
    lengths, first = (tf.constant(np.broadcast_to(np.asarray(x, np.int32), rows)) for x in (lengths, first))
    seeds = tf.constant(np.broadcast_to(np.asarray(seeds, np.int64), rows))
    random_numbers = uniform(seeds, positions(rows, tf.reduce_max(lengths)))
    memory = tf.zeros((rows, VOCABULARY)) if memory is None else memory
    seen = tf.zeros((rows, VOCABULARY), tf.bool) if seen is None else tf.constant(seen)
    return sample(toy, memory, tf.zeros((rows, 2)), first, lengths, options(rows, **values), random_numbers, seen)


def positions(rows, count, start=0):
    return tf.broadcast_to(start + tf.range(tf.cast(count, tf.int64)), (rows, count))


# The reference: plain NumPy in double precision.


def reference(logits, random_number, seen, temperature, top_k, top_p, repetition_penalty):
    """-> one token, with the options applied step by step."""
    logits = logits.astype(np.float64)
    for token in np.flatnonzero(seen):
        logits[token] *= repetition_penalty if logits[token] < 0 else 1 / repetition_penalty
    if temperature == 0:
        return int(np.argmax(logits))
    probabilities = np.exp((logits - logits.max()) / temperature)
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    kept, mass = [], 0.0
    for rank, token in enumerate(order):
        if (top_k and rank >= top_k) or (top_p < 1 and mass >= top_p):
            break
        kept.append(token)
        mass += probabilities[token]
    target, before = random_number * sum(probabilities[kept]), 0.0
    for token in sorted(kept):
        before += probabilities[token]
        if target < before:
            return int(token)
    return int(max(kept))


def test_draws_equal_the_reference():
    rng = np.random.default_rng(1)
    rows, size = 3000, 40
    logits = rng.normal(0, 3, (rows, size)).astype(np.float32)
    random_numbers = (rng.integers(0, STEPS, rows) / STEPS).astype(np.float32)
    seen = rng.random((rows, size)) < 0.4
    values = {
        "temperature": rng.choice([0.0, 0.3, 1.0, 2.5], rows).astype(np.float32),
        "top_k": rng.choice([0, 1, 3, 20, 400], rows).astype(np.int32),
        "top_p": rng.choice([1.0, 0.95, 0.5, 0.01], rows).astype(np.float32),
        "repetition_penalty": rng.choice([1.0, 1.3, 5.0, 0.5], rows).astype(np.float32),
    }
    tokens = draw(tf.constant(logits), options(rows, **values), tf.constant(random_numbers), tf.constant(seen)).numpy()
    expected = [
        reference(logits[n], random_numbers[n], seen[n], *(values[name][n] for name in DEFAULTS)) for n in range(rows)
    ]
    assert (tokens != expected).sum() <= 2  # float32 may differ where a random number falls between two tokens


# Draws.


def shares(tokens):
    return np.bincount(tokens, minlength=len(LOGITS)) / len(tokens)


GRID = (np.arange(10000) + 0.5) / 10000  # evenly spaced numbers give shares exact to 1/10000 for each token


def probabilities(temperature=1.0, kept=slice(None), logits=LOGITS):
    exact = np.zeros(len(logits))
    exact[kept] = np.exp(logits[kept] / temperature)
    return exact / exact.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_probabilities(temperature):
    np.testing.assert_allclose(
        shares(draw_tokens(GRID, temperature=temperature)), probabilities(temperature), atol=2e-4
    )


@pytest.mark.parametrize("values", [{"temperature": 0.7}, {}, {"top_k": 3}, {"top_p": 0.9, "temperature": 2.0}])
def test_random_draws_pass_a_chi_square_test(values):
    random_numbers = uniform(tf.constant([11], tf.int64), positions(1, 20000)).numpy()[0]
    expected = shares(draw_tokens(GRID, **values)) * len(random_numbers)
    observed = np.bincount(draw_tokens(random_numbers, **values), minlength=len(LOGITS))
    possible = expected > 0
    assert observed[~possible].sum() == 0
    assert ((observed - expected)[possible] ** 2 / expected[possible]).sum() < 20.5  # 5 degrees of freedom, 1 in 1000


def test_temperature_zero_draws_the_most_probable_token():
    logits = np.random.default_rng(0).normal(0, 1, (50, 6)).astype(np.float32)
    logits[:, 4] = logits[:, 2]  # the first of equal logits wins
    random_numbers = uniform(tf.range(50, dtype=tf.int64), positions(50, 1))[:, 0]
    tokens = draw(tf.constant(logits), options(50, temperature=0.0), random_numbers, tf.zeros((50, 6), tf.bool))
    np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))
    tiny = draw(tf.constant(logits[:, :4]), options(50, temperature=1e-38), random_numbers, tf.zeros((50, 4), tf.bool))
    np.testing.assert_array_equal(tiny, np.argmax(logits[:, :4], axis=-1))


def test_highest_temperature_excludes_masked_tokens():
    logits = np.array([-1e9, 3.0, -2.0, 0.0], np.float32)
    counts = np.bincount(draw_tokens(GRID, logits, temperature=3e38))
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / len(GRID), np.full(3, 1 / 3), atol=2e-4)


@pytest.mark.parametrize("top_k", [1, 2, 5, 6, 99])
def test_top_k_keeps_the_k_most_probable_tokens(top_k):
    expected = probabilities(kept=BEST_FIRST[:top_k])
    np.testing.assert_allclose(shares(draw_tokens(GRID, top_k=top_k)), expected, atol=2e-4)


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.5, 0.75, 0.9, 0.99, 1.0])
def test_top_p_keeps_the_smallest_set_of_that_probability(top_p):
    cumulative = np.cumsum(probabilities()[BEST_FIRST])
    count = int(np.argmax(cumulative >= top_p - 1e-6)) + 1
    expected = probabilities(kept=BEST_FIRST[:count])
    np.testing.assert_allclose(shares(draw_tokens(GRID, top_p=top_p)), expected, atol=2e-4)


def test_top_p_applies_after_the_temperature():
    hot = np.cumsum(np.sort(probabilities(3.0))[::-1])
    count = int(np.argmax(hot >= 0.5)) + 1
    assert count > int(np.argmax(np.cumsum(np.sort(probabilities())[::-1]) >= 0.5)) + 1
    kept = set(draw_tokens(GRID, temperature=3.0, top_p=0.5).tolist())
    assert kept == set(BEST_FIRST[:count].tolist())


@pytest.mark.parametrize("penalty", [1.0, 1.5, 0.5])
def test_repetition_penalty_divides_positive_and_multiplies_negative_logits(penalty):
    seen = [1, 2, 4]  # of positive, negative and zero logit
    changed = LOGITS.copy()
    changed[1], changed[2] = LOGITS[1] / penalty, LOGITS[2] * penalty
    expected = probabilities(logits=changed)
    np.testing.assert_allclose(shares(draw_tokens(GRID, seen=seen, repetition_penalty=penalty)), expected, atol=2e-4)


def test_largest_random_number_draws_a_kept_token():
    largest = [(STEPS - 1) / STEPS]
    for size in (7, 300, 1000):  # whose cumulative sums do not end at exactly 1
        for scale in (0.0, 0.3, 5.0):
            logits = np.random.default_rng(size).normal(0, 1, size).astype(np.float32) * np.float32(scale)
            kept = np.sort(np.argsort(-logits, kind="stable")[:7])
            assert draw_tokens(largest, logits, top_k=7)[0] in kept
            assert 0 <= draw_tokens(largest, logits)[0] < size
            assert draw_tokens([0.0], logits)[0] == 0
    flat = np.zeros(1000, np.float32)
    assert draw_tokens(largest, flat, top_k=7)[0] == 6  # the first seven of equal logits
    assert draw_tokens(largest, flat)[0] == 999


def test_rows_have_their_own_options():
    values = {"temperature": [1.0, 0.0, 1.0, 1.0], "top_k": [0, 0, 2, 0], "top_p": [1.0, 1, 1, 0.8]}
    tokens = draw_tokens([0.999] * 4, repetition_penalty=[1.0, 1, 1, 1], **values)
    alone = [draw_tokens([0.999], **{name: x[n] for name, x in values.items()})[0] for n in range(4)]
    np.testing.assert_array_equal(tokens, alone)
    nucleus = BEST_FIRST[: int(np.argmax(np.cumsum(probabilities()[BEST_FIRST]) >= 0.8)) + 1]
    assert tokens.tolist() == [5, BEST_FIRST[0], max(BEST_FIRST[:2]), max(nucleus)]


# Random numbers.


def test_uniform_is_uniform_and_differs_between_seeds():
    random_numbers = uniform(tf.constant([3, 9], tf.int64), positions(2, 4000)).numpy()
    assert 0 <= random_numbers.min() < 0.001
    assert 0.999 < random_numbers.max() < 1
    np.testing.assert_array_equal(random_numbers * STEPS, np.floor(random_numbers * STEPS))
    np.testing.assert_array_equal(random_numbers[1:], uniform(tf.constant([9], tf.int64), positions(1, 4000)))
    assert abs(np.corrcoef(random_numbers)[0, 1]) < 0.06
    assert abs(np.corrcoef(random_numbers[0, 1:], random_numbers[0, :-1])[0, 1]) < 0.06
    observed = np.histogram(random_numbers, 10, (0, 1))[0]
    assert ((observed - 800) ** 2 / 800).sum() < 27.9  # 9 degrees of freedom, 1 in 1000


def test_uniform_is_uncorrelated_between_neighbouring_seeds():
    seeds = tf.concat([tf.range(-2000, 2000, dtype=tf.int64), [2**63 - 1, -(2**63)]], axis=0)
    random_numbers = uniform(seeds, positions(4002, 3)).numpy()
    assert len(np.unique(random_numbers[:, 0])) > 3990
    for column in random_numbers.T:
        observed = np.histogram(column, 10, (0, 1))[0]
        assert ((observed - 400.2) ** 2 / 400.2).sum() < 27.9
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 0.06


def test_uniform_depends_only_on_seed_and_position():
    whole = uniform(tf.constant([5, -1], tf.int64), positions(2, 100)).numpy()
    for start in (0, 1, 37, 99):
        part = uniform(tf.constant([-1], tf.int64), positions(1, 100 - start, start))
        np.testing.assert_array_equal(part[0], whole[1, start:])
    far = uniform(tf.constant([5], tf.int64), positions(1, 50, 2**40))
    assert not np.isin(far, whole).all()


def test_uniform_equals_splitmix64_in_python():
    def mix64(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    seeds = [0, 1, -1, 2**40]
    expected = [
        [mix64((mix64(seed % 2**64) + (n + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 41 for n in range(6)] for seed in seeds
    ]
    found = uniform(tf.constant(seeds, tf.int64), positions(4, 6)).numpy() * STEPS
    np.testing.assert_array_equal(found, expected)


# Samples.

MIXED = {
    "lengths": [8, 3, 8, 8, 1, 8],
    "seeds": [5, -3, 2**40, 5, 8, 6],
    "first": [1, 3, 4, 1, 5, 2],
    "temperature": [1.0, 0.7, 2.0, 1.0, 0.0, 1.0],
    "top_k": [0, 3, 0, 0, 0, 0],
    "top_p": [1.0, 0.9, 0.6, 1.0, 1.0, 1.0],
    "repetition_penalty": [1.0, 1.0, 1.0, 1.0, 1.0, 2.0],
}


def test_rows_do_not_depend_on_their_batch():
    """The batch uses the loop with all options, a single row the loop for its own options."""
    tokens, score, cache = sample_toy(6, **MIXED)
    np.testing.assert_array_equal(tokens[0], tokens[3])
    for row in range(6):
        length = MIXED["lengths"][row]
        alone, alone_score, alone_cache = sample_toy(**{name: x[row] for name, x in MIXED.items()})
        np.testing.assert_array_equal(tokens[row, :length], alone[0])
        assert np.all(tokens[row, length:] == 0)
        assert_close(score[row], alone_score[0], 1e-6)
        np.testing.assert_array_equal(cache[row], alone_cache[0])
        np.testing.assert_array_equal(cache[row], [length, length])  # unchanged after the end of the row


def test_all_loops_give_equal_tokens():
    seeds = np.arange(200)
    plain, _, _ = sample_toy(200, lengths=30, seeds=seeds, temperature=1.5)
    ragged, _, _ = sample_toy(200, lengths=[30] * 199 + [2], seeds=seeds, temperature=1.5)
    limited, _, _ = sample_toy(200, lengths=30, seeds=seeds, temperature=1.5, top_k=[0] * 199 + [3])
    np.testing.assert_array_equal(ragged[:199], plain[:199])
    np.testing.assert_array_equal(limited[:199], plain[:199])
    assert len({tuple(row) for row in plain.numpy()}) == 200


def test_longer_samples_begin_with_shorter_ones():
    np.testing.assert_array_equal(sample_toy(lengths=9, seeds=4)[0][:, :4], sample_toy(lengths=4, seeds=4)[0])


def test_log_probability_ignores_the_options():
    memory = tf.constant(np.random.default_rng(1).normal(0, 1, (3, VOCABULARY)).astype(np.float32))
    lengths = [6, 2, 5]
    values = {"temperature": [0.5, 1, 2], "top_k": [3, 0, 0], "top_p": [1, 0.5, 1], "repetition_penalty": [1, 1, 3]}
    tokens, score, _ = sample_toy(3, lengths=lengths, memory=memory, **values)
    for row in range(3):
        before, expected = 1, 0.0
        for token in tokens[row, : lengths[row]].numpy():
            logits = (TABLE[before] + memory[row]).numpy().astype(np.float64)
            expected += logits[token] - np.log(np.exp(logits).sum())
            before = token
        assert score[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_repetition_penalty_counts_seen_and_new_tokens():
    seen = np.zeros((1, VOCABULARY), bool)
    seen[0, :4] = True
    memory = tf.fill([1, VOCABULARY], 20.0)  # all logits are positive
    tokens, _, _ = sample_toy(lengths=VOCABULARY - 4, memory=memory, seen=seen, temperature=0.0, repetition_penalty=1e6)
    assert sorted(tokens[0].numpy()) == list(range(4, VOCABULARY))  # each token once before any repetition


def test_temperature_zero_is_greedy():
    tokens, _, _ = sample_toy(2, temperature=0.0, seeds=[1, 2])
    expected = [int(TABLE[1].argmax())]
    while len(expected) < 8:
        expected.append(int(TABLE[expected[-1]].argmax()))
    np.testing.assert_array_equal(tokens, [expected, expected])


def test_sampling_traces_one_graph():
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)])
    def write(lengths, seeds):
        traces.append(1)
        zeros, ones = tf.zeros_like(lengths), tf.ones_like(lengths, tf.float32)
        rows = tf.size(lengths)
        position_ids = positions(rows, tf.reduce_max(lengths))
        memory, seen = tf.zeros((rows, VOCABULARY)), tf.zeros((rows, VOCABULARY), tf.bool)
        arguments = zeros + 1, lengths, Options(ones, zeros, ones, ones), uniform(seeds, position_ids), seen
        return sample(toy, memory, tf.zeros((rows, 2)), *arguments)

    for lengths, seeds in [([8], [1]), ([3, 8, 5], [2, 1, 0])]:
        tokens, score, _ = write(tf.constant(lengths), tf.constant(seeds, tf.int64))
        expected, expected_score, _ = sample_toy(len(lengths), lengths=lengths, seeds=seeds)
        np.testing.assert_array_equal(tokens, expected)
        assert_close(score, expected_score, 1e-6)
    assert len(traces) == 1
