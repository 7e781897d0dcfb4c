"""Search: greedy as a plain loop has it, every row as if it were alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, randomize

from kerasnets.decoding import greedy
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
