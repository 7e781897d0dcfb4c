"""Sampling: draws as the probabilities and a plain reference have them, every row as if it were alone."""

import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close

from kerasnets.decoding import Options, draw, sample, uniform

VOCABULARY = 9
# Logits after each token: the toy "model" whose next token depends on the last alone.
TABLE = np.random.default_rng(3).normal(0, 1.5, (VOCABULARY, VOCABULARY)).astype(np.float32)
LOGITS = np.array([0.2, 2.0, -1.0, 1.1, 0.0, 0.5], np.float32)
BEST_FIRST = np.argsort(-LOGITS)
STEPS = 2**23  # chances are multiples of 1 / STEPS
NONE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def toy(token, index, memory, cache):
    """A model with a memory (added to the logits of each row) and a cache that counts the steps of each row."""
    return tf.gather(TABLE, token) + memory, cache + 1


def options(rows, **given):
    """-> Options of so many rows; each is a number for all or a list with one a row."""
    given = NONE | given
    types = {"top_k": np.int32}
    return Options(
        **{
            name: tf.constant(np.broadcast_to(np.asarray(x, types.get(name, np.float32)), rows))
            for name, x in given.items()
        }
    )


def drawn(chances, logits=LOGITS, seen=(), **given):
    """-> the token of each chance, all from the same logits."""
    rows, size = len(chances), len(logits)
    there = np.isin(np.arange(size), seen)
    arguments = options(rows, **given), tf.constant(chances, tf.float32), tf.broadcast_to(there, (rows, size))
    return draw(tf.broadcast_to(tf.constant(logits), (rows, size)), *arguments).numpy()


def sampled(rows=1, lengths=8, first=1, seeds=0, memory=None, seen=None, **given):
    """-> what `sample` gives for the toy."""
    lengths, first = (tf.constant(np.broadcast_to(np.asarray(x, np.int32), rows)) for x in (lengths, first))
    seeds = tf.constant(np.broadcast_to(np.asarray(seeds, np.int64), rows))
    chances = uniform(seeds, positions(rows, tf.reduce_max(lengths)))
    memory = tf.zeros((rows, VOCABULARY)) if memory is None else memory
    seen = tf.zeros((rows, VOCABULARY), tf.bool) if seen is None else tf.constant(seen)
    return sample(toy, memory, tf.zeros((rows, 2)), first, lengths, options(rows, **given), chances, seen)


def positions(rows, count, start=0):
    return tf.broadcast_to(start + tf.range(tf.cast(count, tf.int64)), (rows, count))


# The reference: plain NumPy in double precision.


def reference(logits, chance, seen, temperature, top_k, top_p, repetition_penalty):
    """One token, step by step as the options are described."""
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
    target, before = chance * sum(probabilities[kept]), 0.0
    for token in sorted(kept):
        before += probabilities[token]
        if target < before:
            return int(token)
    return int(max(kept))


def test_draws_equal_the_plain_reference():
    rng = np.random.default_rng(1)
    rows, size = 3000, 40
    logits = rng.normal(0, 3, (rows, size)).astype(np.float32)
    chances = (rng.integers(0, STEPS, rows) / STEPS).astype(np.float32)
    seen = rng.random((rows, size)) < 0.4
    given = {
        "temperature": rng.choice([0.0, 0.3, 1.0, 2.5], rows).astype(np.float32),
        "top_k": rng.choice([0, 1, 3, 20, 400], rows).astype(np.int32),
        "top_p": rng.choice([1.0, 0.95, 0.5, 0.01], rows).astype(np.float32),
        "repetition_penalty": rng.choice([1.0, 1.3, 5.0, 0.5], rows).astype(np.float32),
    }
    tokens = draw(tf.constant(logits), options(rows, **given), tf.constant(chances), tf.constant(seen)).numpy()
    expected = [reference(logits[n], chances[n], seen[n], *(given[name][n] for name in NONE)) for n in range(rows)]
    assert (tokens != expected).sum() <= 2  # where a chance falls between two tokens, float32 may differ


# Draws.


def shares(tokens):
    return np.bincount(tokens, minlength=len(LOGITS)) / len(tokens)


GRID = (np.arange(10000) + 0.5) / 10000  # evenly spread chances give shares that are exact to 1/10000 for each token


def probabilities(temperature=1.0, kept=slice(None), logits=LOGITS):
    exact = np.zeros(len(logits))
    exact[kept] = np.exp(logits[kept] / temperature)
    return exact / exact.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_probabilities(temperature):
    np.testing.assert_allclose(shares(drawn(GRID, temperature=temperature)), probabilities(temperature), atol=2e-4)


@pytest.mark.parametrize("given", [{"temperature": 0.7}, {}, {"top_k": 3}, {"top_p": 0.9, "temperature": 2.0}])
def test_random_draws_pass_a_chi_square_test(given):
    chances = uniform(tf.constant([11], tf.int64), positions(1, 20000)).numpy()[0]
    expected = shares(drawn(GRID, **given)) * len(chances)
    observed = np.bincount(drawn(chances, **given), minlength=len(LOGITS))
    there = expected > 0
    assert observed[~there].sum() == 0
    assert ((observed - expected)[there] ** 2 / expected[there]).sum() < 20.5  # 5 degrees of freedom, 1 in 1000


def test_temperature_zero_takes_the_most_probable_whatever_the_chance():
    logits = np.random.default_rng(0).normal(0, 1, (50, 6)).astype(np.float32)
    logits[:, 4] = logits[:, 2]  # of equals the first
    chances = uniform(tf.range(50, dtype=tf.int64), positions(50, 1))[:, 0]
    tokens = draw(tf.constant(logits), options(50, temperature=0.0), chances, tf.zeros((50, 6), tf.bool))
    np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))
    tiny = draw(tf.constant(logits[:, :4]), options(50, temperature=1e-38), chances, tf.zeros((50, 4), tf.bool))
    np.testing.assert_array_equal(tiny, np.argmax(logits[:, :4], axis=-1))


def test_the_hottest_temperature_still_excludes_what_is_excluded():
    logits = np.array([-1e9, 3.0, -2.0, 0.0], np.float32)
    counts = np.bincount(drawn(GRID, logits, temperature=3e38))
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / len(GRID), np.full(3, 1 / 3), atol=2e-4)


@pytest.mark.parametrize("top_k", [1, 2, 5, 6, 99])
def test_top_k_keeps_the_k_most_probable(top_k):
    expected = probabilities(kept=BEST_FIRST[:top_k])
    np.testing.assert_allclose(shares(drawn(GRID, top_k=top_k)), expected, atol=2e-4)


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.5, 0.75, 0.9, 0.99, 1.0])
def test_top_p_keeps_the_smallest_set_of_that_probability(top_p):
    until = np.cumsum(probabilities()[BEST_FIRST])
    count = int(np.argmax(until >= top_p - 1e-6)) + 1
    expected = probabilities(kept=BEST_FIRST[:count])
    np.testing.assert_allclose(shares(drawn(GRID, top_p=top_p)), expected, atol=2e-4)


def test_top_p_counts_after_the_temperature():
    hot = np.cumsum(np.sort(probabilities(3.0))[::-1])
    count = int(np.argmax(hot >= 0.5)) + 1
    assert count > int(np.argmax(np.cumsum(np.sort(probabilities())[::-1]) >= 0.5)) + 1
    kept = set(drawn(GRID, temperature=3.0, top_p=0.5).tolist())
    assert kept == set(BEST_FIRST[:count].tolist())


@pytest.mark.parametrize("penalty", [1.0, 1.5, 0.5])
def test_the_repetition_penalty_divides_positive_logits_and_multiplies_negative_ones(penalty):
    seen = [1, 2, 4]  # of positive, negative and zero logit
    changed = LOGITS.copy()
    changed[1], changed[2] = LOGITS[1] / penalty, LOGITS[2] * penalty
    expected = probabilities(logits=changed)
    np.testing.assert_allclose(shares(drawn(GRID, seen=seen, repetition_penalty=penalty)), expected, atol=2e-4)


def test_the_largest_chance_is_still_a_kept_token():
    largest = [(STEPS - 1) / STEPS]
    for size in (7, 300, 1000):  # whose cumulative sums do not end at exactly 1
        for scale in (0.0, 0.3, 5.0):
            logits = np.random.default_rng(size).normal(0, 1, size).astype(np.float32) * np.float32(scale)
            kept = np.sort(np.argsort(-logits, kind="stable")[:7])
            assert drawn(largest, logits, top_k=7)[0] in kept
            assert 0 <= drawn(largest, logits)[0] < size
            assert drawn([0.0], logits)[0] == 0
    flat = np.zeros(1000, np.float32)
    assert drawn(largest, flat, top_k=7)[0] == 6  # of equals the first seven
    assert drawn(largest, flat)[0] == 999


def test_options_may_differ_from_row_to_row():
    given = {"temperature": [1.0, 0.0, 1.0, 1.0], "top_k": [0, 0, 2, 0], "top_p": [1.0, 1, 1, 0.8]}
    tokens = drawn([0.999] * 4, repetition_penalty=[1.0, 1, 1, 1], **given)
    alone = [drawn([0.999], **{name: x[n] for name, x in given.items()})[0] for n in range(4)]
    np.testing.assert_array_equal(tokens, alone)
    nucleus = BEST_FIRST[: int(np.argmax(np.cumsum(probabilities()[BEST_FIRST]) >= 0.8)) + 1]
    assert tokens.tolist() == [5, BEST_FIRST[0], max(BEST_FIRST[:2]), max(nucleus)]


# Random numbers.


def test_chances_of_a_seed_are_uniform_and_its_own():
    chances = uniform(tf.constant([3, 9], tf.int64), positions(2, 4000)).numpy()
    assert 0 <= chances.min() < 0.001
    assert 0.999 < chances.max() < 1
    np.testing.assert_array_equal(chances * STEPS, np.floor(chances * STEPS))
    np.testing.assert_array_equal(chances[1:], uniform(tf.constant([9], tf.int64), positions(1, 4000)))
    assert abs(np.corrcoef(chances)[0, 1]) < 0.06
    assert abs(np.corrcoef(chances[0, 1:], chances[0, :-1])[0, 1]) < 0.06
    observed = np.histogram(chances, 10, (0, 1))[0]
    assert ((observed - 800) ** 2 / 800).sum() < 27.9  # 9 degrees of freedom, 1 in 1000


def test_first_chances_of_neighbouring_seeds_are_as_random():
    seeds = tf.concat([tf.range(-2000, 2000, dtype=tf.int64), [2**63 - 1, -(2**63)]], axis=0)
    chances = uniform(seeds, positions(4002, 3)).numpy()
    assert len(np.unique(chances[:, 0])) > 3990
    for column in chances.T:
        observed = np.histogram(column, 10, (0, 1))[0]
        assert ((observed - 400.2) ** 2 / 400.2).sum() < 27.9
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 0.06


def test_a_chance_depends_on_seed_and_position_alone():
    whole = uniform(tf.constant([5, -1], tf.int64), positions(2, 100)).numpy()
    for start in (0, 1, 37, 99):
        part = uniform(tf.constant([-1], tf.int64), positions(1, 100 - start, start))
        np.testing.assert_array_equal(part[0], whole[1, start:])
    far = uniform(tf.constant([5], tf.int64), positions(1, 50, 2**40))
    assert not np.isin(far, whole).all()


def test_chances_equal_splitmix64_in_plain_python():
    def mixed(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    seeds = [0, 1, -1, 2**40]
    expected = [
        [mixed((mixed(seed % 2**64) + (n + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 41 for n in range(6)] for seed in seeds
    ]
    found = uniform(tf.constant(seeds, tf.int64), positions(4, 6)).numpy() * STEPS
    np.testing.assert_array_equal(found, expected)


# Sampled texts.

MIXED = {
    "lengths": [8, 3, 8, 8, 1, 8],
    "seeds": [5, -3, 2**40, 5, 8, 6],
    "first": [1, 3, 4, 1, 5, 2],
    "temperature": [1.0, 0.7, 2.0, 1.0, 0.0, 1.0],
    "top_k": [0, 3, 0, 0, 0, 0],
    "top_p": [1.0, 0.9, 0.6, 1.0, 1.0, 1.0],
    "repetition_penalty": [1.0, 1.0, 1.0, 1.0, 1.0, 2.0],
}


def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch():
    """The batch runs through the loop with all options; rows alone through those with what they ask for."""
    tokens, score, cache = sampled(6, **MIXED)
    np.testing.assert_array_equal(tokens[0], tokens[3])
    for row in range(6):
        length = MIXED["lengths"][row]
        alone, alone_score, alone_cache = sampled(**{name: x[row] for name, x in MIXED.items()})
        np.testing.assert_array_equal(tokens[row, :length], alone[0])
        assert np.all(tokens[row, length:] == 0)
        assert_close(score[row], alone_score[0], 1e-6)
        np.testing.assert_array_equal(cache[row], alone_cache[0])
        np.testing.assert_array_equal(cache[row], [length, length])  # it stands still after the row's end


def test_many_seeds_give_the_same_in_every_loop():
    seeds = np.arange(200)
    plain, _, _ = sampled(200, lengths=30, seeds=seeds, temperature=1.5)
    ragged, _, _ = sampled(200, lengths=[30] * 199 + [2], seeds=seeds, temperature=1.5)
    limited, _, _ = sampled(200, lengths=30, seeds=seeds, temperature=1.5, top_k=[0] * 199 + [3])
    np.testing.assert_array_equal(ragged[:199], plain[:199])
    np.testing.assert_array_equal(limited[:199], plain[:199])
    assert len({tuple(row) for row in plain.numpy()}) == 200


def test_a_longer_text_begins_with_the_shorter_one():
    np.testing.assert_array_equal(sampled(lengths=9, seeds=4)[0][:, :4], sampled(lengths=4, seeds=4)[0])


def test_log_probability_is_the_models_own_whatever_the_options():
    memory = tf.constant(np.random.default_rng(1).normal(0, 1, (3, VOCABULARY)).astype(np.float32))
    lengths = [6, 2, 5]
    given = {"temperature": [0.5, 1, 2], "top_k": [3, 0, 0], "top_p": [1, 0.5, 1], "repetition_penalty": [1, 1, 3]}
    tokens, score, _ = sampled(3, lengths=lengths, memory=memory, **given)
    for row in range(3):
        before, expected = 1, 0.0
        for token in tokens[row, : lengths[row]].numpy():
            logits = (TABLE[before] + memory[row]).numpy().astype(np.float64)
            expected += logits[token] - np.log(np.exp(logits).sum())
            before = token
        assert score[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_the_penalty_counts_what_was_there_and_what_is_written():
    seen = np.zeros((1, VOCABULARY), bool)
    seen[0, :4] = True
    memory = tf.fill([1, VOCABULARY], 20.0)  # all logits are positive
    tokens, _, _ = sampled(lengths=VOCABULARY - 4, memory=memory, seen=seen, temperature=0.0, repetition_penalty=1e6)
    assert sorted(tokens[0].numpy()) == list(range(4, VOCABULARY))  # each once before any comes again


def test_temperature_zero_is_greedy():
    tokens, _, _ = sampled(2, temperature=0.0, seeds=[1, 2])
    expected = [int(TABLE[1].argmax())]
    while len(expected) < 8:
        expected.append(int(TABLE[expected[-1]].argmax()))
    np.testing.assert_array_equal(tokens, [expected, expected])


def test_sampling_is_one_graph_for_any_batch():
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)])
    def write(lengths, seeds):
        traces.append(1)
        zeros, ones = tf.zeros_like(lengths), tf.ones_like(lengths, tf.float32)
        rows = tf.size(lengths)
        places = positions(rows, tf.reduce_max(lengths))
        memory, seen = tf.zeros((rows, VOCABULARY)), tf.zeros((rows, VOCABULARY), tf.bool)
        arguments = zeros + 1, lengths, Options(ones, zeros, ones, ones), uniform(seeds, places), seen
        return sample(toy, memory, tf.zeros((rows, 2)), *arguments)

    for lengths, seeds in [([8], [1]), ([3, 8, 5], [2, 1, 0])]:
        tokens, score, _ = write(tf.constant(lengths), tf.constant(seeds, tf.int64))
        expected, expected_score, _ = sampled(len(lengths), lengths=lengths, seeds=seeds)
        np.testing.assert_array_equal(tokens, expected)
        assert_close(score, expected_score, 1e-6)
    assert len(traces) == 1
