"""Search: greedy as a plain loop has it, draws as the probabilities have it, every row as if it were alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, randomize

from kerasnets.decoding import draw, greedy, sample, uniform
from kerasnets.models import CharLSTM, Transformer
from kerasnets.tasks.losses import cross_entropy

START, END = 1, 2
VOCABULARY = 9
# Logits after each token: the toy "model" whose next token depends on the last alone.
TABLE = np.random.default_rng(3).normal(0, 1.5, (VOCABULARY, VOCABULARY)).astype(np.float32)


def toy(token, index, memory, cache):
    """A model with a memory (added to the logits of each row) and a cache that counts the steps."""
    return tf.gather(TABLE, token) + memory, cache + 1


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def sampled(rows=1, length=8, memory=None, **given):
    """-> what `sample` gives for the toy; options are a number for all rows or a list with one a row."""
    options = {"first": START, "lengths": length, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seeds": 0} | given
    types = {"temperature": np.float32, "top_p": np.float32, "seeds": np.int64}
    options = {
        name: tf.constant(np.broadcast_to(np.asarray(value, types.get(name, np.int32)), rows))
        for name, value in options.items()
    }
    chances = uniform(options.pop("seeds"), 20)
    memory = tf.zeros((rows, VOCABULARY)) if memory is None else memory
    first, lengths = options.pop("first"), options.pop("lengths")
    return sample(toy, memory, tf.zeros(()), first, lengths, chances=chances, **options)


# Greedy.


def plain_greedy(next_logits, limit):
    """The search without a cache: all the tokens so far go through the model for every new one."""
    tokens, log_probability = [], 0.0
    while len(tokens) < limit and (not tokens or tokens[-1] != END):
        scores = log_softmax(next_logits([START, *tokens]))
        tokens.append(int(scores.argmax()))
        log_probability += scores.max()
    return tokens, log_probability


def char_lstm(**options):
    """-> step; start, from rows to memory and cache; and the plain logits after a row's tokens so far."""
    model = CharLSTM(VOCABULARY, width=4, units=6, num_layers=2, **options)
    model.build((None, None))
    randomize(model, seed=2, scale=0.9)
    prompts = np.array([[3, 4, 5, 6, 7], [8, 3, 0, 0, 0], [0, 0, 0, 0, 0], [5, 5, 5, 4, 0]], np.int32)

    def start(rows):
        return model.start(tf.constant(prompts[rows]), 9)

    def plain(row, tokens):
        prompt = prompts[row][prompts[row] != 0]
        return model(np.array([[*prompt, *tokens]], np.int32))[0, -1]

    return model.step, start, plain


def transformer(norm, **options):
    model = Transformer(VOCABULARY, 8, 2, 12, num_blocks=2, norm=norm, **options)
    model.build({"source": (None, None), "target": (None, None)})
    randomize(model, seed=5, scale=0.5)
    sources = np.array([[3, 4, 5, 6], [7, 8, 0, 0], [3, 3, 8, 0], [6, 0, 0, 0]], np.int32)

    def start(rows):
        return model.start(tf.constant(sources[rows]), 7)

    def plain(row, tokens):
        source = sources[row][sources[row] != 0]
        return model({"source": source[np.newaxis], "target": np.array([tokens], np.int32)})[0, -1]

    return model.step, start, plain


def make_model(name, **options):
    kind, *norm = name.split()
    return {"char_lstm": char_lstm, "transformer": transformer}[kind](*norm, **options)


MODELS = ["char_lstm", "transformer post", "transformer pre"]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return make_model(request.param)


def test_greedy_equals_a_loop_without_a_cache(model):
    step, start, plain = model
    limits = np.array([7, 3, 7, 5], np.int32)
    tokens, log_probabilities = greedy(step, *start(slice(None)), START, END, tf.constant(limits))
    for row, limit in enumerate(limits):
        expected, log_probability = plain_greedy(lambda so_far, row=row: plain(row, so_far), limit)
        padded = expected + [0] * (tokens.shape[1] - len(expected))
        assert tokens[row].numpy().tolist() == padded
        assert log_probabilities[row].numpy() == pytest.approx(log_probability, abs=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_runs_in_half_precision(name, policy):
    step, start, _ = make_model(name, dtype=policy)
    tokens, log_probabilities = greedy(step, *start(slice(None)), START, END, tf.constant([3, 3, 2, 1]))
    assert tokens.shape[0] == 4
    assert np.isfinite(log_probabilities).all()


def test_greedy_gives_a_row_alone_what_it_gives_in_a_batch(model):
    step, start, _ = model
    limits = tf.constant([7, 3, 7, 5])
    tokens, log_probabilities = greedy(step, *start(slice(None)), START, END, limits)
    assert len({tuple(row) for row in tokens.numpy()}) > 1  # else this would test nothing
    for row in range(4):
        alone, score = greedy(step, *start(slice(row, row + 1)), START, END, limits[row : row + 1])
        length = alone.shape[1]
        np.testing.assert_array_equal(alone[0], tokens[row, :length])
        assert np.all(tokens[row, length:] == 0)
        assert_close(score[0], log_probabilities[row], 1e-5)


def test_greedy_ends_a_row_with_its_end_token():
    chain = {START: 4, 4: 5, 5: END, 6: 7, 7: 8, 8: 6}

    def step(token, index, memory, cache):
        following = tf.constant([chain.get(n, 3) for n in range(VOCABULARY)])
        return tf.one_hot(tf.gather(following, tf.where(index == 0, memory, token)), VOCABULARY) * 9, cache

    tokens, score = greedy(step, tf.constant([START, 6]), (), START, END, tf.constant([9, 6]))
    assert tokens.numpy().tolist() == [[4, 5, END, 0, 0, 0], [7, 8, 6, 7, 8, 6]]
    each = log_softmax(np.eye(VOCABULARY)[0] * 9)[0]
    assert_close(score, np.array([3 * each, 6 * each]))  # the end token counts, what follows does not


def test_greedy_with_a_limit_of_zero_writes_nothing_in_that_row():
    tokens, score = greedy(toy, tf.zeros((2, VOCABULARY)), tf.zeros(()), START, -1, tf.constant([0, 2]))
    assert tokens.shape == (2, 2)
    assert np.all(tokens[0] == 0)
    assert score[0] == 0


def test_search_runs_no_further_than_the_longest_row():
    steps = []

    def step(token, index, memory, cache):
        tf.py_function(lambda: steps.append(1), [], [])
        return tf.one_hot(tf.where(index == 1, END, 3) + tf.zeros_like(token), VOCABULARY), cache

    greedy(step, (), (), START, END, tf.constant([9, 9]))
    assert len(steps) == 2


# Draws.

LOGITS = np.array([0.2, 2.0, -1.0, 1.1, 0.0, 0.5], np.float32)


def drawn(chances, logits=LOGITS, temperature=1.0, top_k=0, top_p=1.0):
    count = len(chances)
    return draw(
        tf.broadcast_to(tf.constant(logits), (count, len(logits))),
        tf.fill([count], temperature),
        tf.fill([count], top_k),
        tf.fill([count], top_p),
        tf.constant(chances, tf.float32),
    ).numpy()


def shares(tokens):
    return np.bincount(tokens, minlength=len(LOGITS)) / len(tokens)


GRID = (np.arange(10000) + 0.5) / 10000  # evenly spread chances give shares that are exact to 1/10000 for each token


def probabilities(temperature=1.0, kept=slice(None)):
    exact = np.zeros(len(LOGITS))
    exact[kept] = np.exp(LOGITS[kept] / temperature)
    return exact / exact.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_probabilities(temperature):
    np.testing.assert_allclose(shares(drawn(GRID, temperature=temperature)), probabilities(temperature), atol=2e-4)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_random_draws_pass_a_chi_square_test(temperature):
    chances = uniform(tf.constant([11], tf.int64), 20000).numpy()[0]
    observed = shares(drawn(chances, temperature=temperature)) * len(chances)
    expected = probabilities(temperature) * len(chances)
    assert ((observed - expected) ** 2 / expected).sum() < 20.5  # 5 degrees of freedom, 1 in 1000


def test_temperature_zero_takes_the_most_probable():
    logits = tf.constant(np.random.default_rng(0).normal(0, 1, (50, 6)).astype(np.float32))
    tokens = draw(
        logits, tf.zeros(50), tf.zeros(50, tf.int32), tf.ones(50), uniform(tf.range(50, dtype=tf.int64), 1)[:, 0]
    )
    np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))


BEST_FIRST = np.argsort(-LOGITS)


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


def test_the_largest_chance_is_still_a_kept_token():
    largest = [np.nextafter(np.float32(1), np.float32(0))]
    logits = np.zeros(1000, np.float32)  # whose cumulative sum does not end at exactly 1
    assert drawn(largest, logits, top_k=7)[0] == 6
    assert drawn(largest, logits)[0] == 999
    assert drawn([0.0], logits)[0] == 0


def test_limits_may_differ_from_row_to_row():
    rows = tf.broadcast_to(tf.constant(LOGITS), (4, 6))
    chance = tf.fill([4], 0.999)
    temperature, top_k, top_p = (
        tf.constant([1.0, 0.0, 1.0, 1.0]),
        tf.constant([0, 0, 2, 0]),
        tf.constant([1.0, 1, 1, 0.8]),
    )
    tokens = draw(rows, temperature, top_k, top_p, chance).numpy()
    alone = [draw(*(x[n : n + 1] for x in (rows, temperature, top_k, top_p, chance)))[0] for n in range(4)]
    np.testing.assert_array_equal(tokens, alone)
    nucleus = int(np.argmax(np.cumsum(probabilities()[BEST_FIRST]) >= 0.8))
    assert tokens.tolist() == [BEST_FIRST[5], BEST_FIRST[0], BEST_FIRST[1], BEST_FIRST[nucleus]]


# Sampled texts.


def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch():
    seeds, lengths = [5, -3, 2**40, 5, 8], [8, 3, 8, 8, 1]
    temperature, top_k, top_p = [1.0, 0.7, 2.0, 1.0, 0.0], [0, 3, 0, 0, 0], [1.0, 0.9, 0.6, 1.0, 1.0]
    tokens, score = sampled(
        5, lengths=lengths, seeds=seeds, temperature=temperature, top_k=top_k, top_p=top_p, first=[1, 3, 4, 1, 5]
    )
    np.testing.assert_array_equal(tokens[0], tokens[3])
    for row in range(5):
        alone, alone_score = sampled(
            lengths=lengths[row],
            seeds=seeds[row],
            temperature=temperature[row],
            top_k=top_k[row],
            top_p=top_p[row],
            first=[1, 3, 4, 1, 5][row],
        )
        np.testing.assert_array_equal(tokens[row, : lengths[row]], alone[0])
        assert_close(score[row], alone_score[0], 1e-6)


def test_other_seeds_give_other_texts():
    tokens, _ = sampled(30, length=20, temperature=3.0, seeds=range(30))
    assert len({tuple(row) for row in tokens.numpy()}) == 30


def test_a_longer_text_begins_with_the_shorter_one():
    np.testing.assert_array_equal(sampled(length=9, seeds=4)[0][:, :4], sampled(length=4, seeds=4)[0])


def test_rows_have_their_own_lengths():
    tokens, _ = sampled(3, lengths=[2, 6, 4], memory=tf.constant([[-99.0] + [0.0] * 8] * 3))
    assert tokens.shape == (3, 6)
    assert [np.count_nonzero(row) for row in tokens.numpy()] == [2, 6, 4]
    assert np.all(tokens[0, 2:] == 0)
    assert np.all(tokens[2, 4:] == 0)


def test_log_probability_is_the_models_own_whatever_the_limits():
    memory = tf.constant(np.random.default_rng(1).normal(0, 1, (3, VOCABULARY)).astype(np.float32))
    lengths = [6, 2, 5]
    tokens, score = sampled(
        3, lengths=lengths, memory=memory, temperature=[0.5, 1, 2], top_k=[3, 0, 0], top_p=[1, 0.5, 1]
    )
    for row in range(3):
        before, expected = START, 0.0
        for token in tokens[row, : lengths[row]].numpy():
            expected += log_softmax(TABLE[before] + memory[row])[token]
            before = token
        assert score[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_temperature_zero_is_greedy():
    tokens, score = sampled(2, temperature=0.0, seeds=[1, 2])
    expected, log_probability = greedy(toy, tf.zeros((2, VOCABULARY)), tf.zeros(()), START, -1, tf.constant([8, 8]))
    np.testing.assert_array_equal(tokens, expected)
    assert_close(score, log_probability, 1e-6)


def test_chances_of_a_seed_are_uniform_and_its_own():
    chances = uniform(tf.constant([3, 9], tf.int64), 4000).numpy()
    assert 0 <= chances.min() < 0.001
    assert 0.999 < chances.max() < 1
    np.testing.assert_array_equal(chances[1:], uniform(tf.constant([9], tf.int64), 4000))
    assert abs(np.corrcoef(chances)[0, 1]) < 0.06
    observed = np.histogram(chances, 10, (0, 1))[0]
    assert ((observed - 800) ** 2 / 800).sum() < 27.9  # 9 degrees of freedom, 1 in 1000


def test_search_is_one_graph_for_any_batch():
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)])
    def write(lengths, seeds):
        traces.append(1)
        same = tf.zeros_like(lengths)
        memory, temperature = tf.zeros((tf.shape(lengths)[0], VOCABULARY)), tf.ones_like(lengths, tf.float32)
        arguments = same + START, lengths, temperature, same, temperature
        tokens, score = sample(toy, memory, tf.zeros(()), *arguments, uniform(seeds, 20))
        best, _ = greedy(toy, memory, tf.zeros(()), START, END, lengths)
        return tokens, score, best

    for lengths, seeds in [([8], [1]), ([3, 8, 5], [2, 1, 0])]:
        tokens, score, _ = write(tf.constant(lengths), tf.constant(seeds, tf.int64))
        expected, expected_score = sampled(len(lengths), lengths=lengths, seeds=seeds)
        np.testing.assert_array_equal(tokens, expected)
        assert_close(score, expected_score, 1e-6)
    assert len(traces) == 1


# The loss that such models are trained with.


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_cross_entropy_equals_the_stock_loss(shape, smoothing):
    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(0, 3, (*shape, 7)).astype(np.float32))
    targets = tf.constant(rng.integers(0, 7, shape).astype(np.int32))
    upstream = tf.constant(rng.normal(0, 1, shape).astype(np.float32))

    def stock():
        return keras.losses.categorical_crossentropy(
            tf.one_hot(targets, 7), logits, from_logits=True, label_smoothing=smoothing
        )

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = function()
        return losses, tape.gradient(losses, logits, upstream)

    ours, theirs = gradient(lambda: cross_entropy(logits, targets, smoothing)), gradient(stock)
    assert ours[0].shape == shape
    assert_close(ours, theirs)
    exact = -log_softmax(logits)
    picked = np.take_along_axis(exact, targets.numpy()[..., np.newaxis], -1)[..., 0]
    assert_close(ours[0], (1 - smoothing) * picked + smoothing * exact.mean(-1))


def test_cross_entropy_of_extreme_logits_is_finite():
    logits = tf.constant([[1e4, -1e4, 0.0]])
    assert_close(cross_entropy(logits, tf.constant([1])), np.array([2e4]))
    assert np.isfinite(cross_entropy(logits, tf.constant([1]), 0.1)).all()


def test_cross_entropy_in_a_graph_of_unknown_shape():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.int32)])
    def value_and_gradient(logits, targets):
        losses = cross_entropy(logits, targets, 0.2)
        return losses, tf.gradients(losses, logits)[0]

    logits, targets = tf.random.stateless_normal((2, 3, 4), [1, 2]), tf.constant([[0, 1, 2], [3, 3, 0]])
    losses, gradient = value_and_gradient(logits, targets)
    assert_close(losses, cross_entropy(logits, targets, 0.2), 1e-6)
    assert_close(tf.reduce_sum(gradient, axis=-1), np.zeros((2, 3)), 1e-6)  # probabilities of both sides add up to one
