"""Searches: parity with references without caches, independence of rows, parity with exhaustive search."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, randomize
from search_reference import END, START, log_softmax, reference_beam_search, reference_greedy

from kerasnets import decoding
from kerasnets.decoding import beam_search, greedy, search_by_length
from kerasnets.models import CharLSTM, DecoderTransformer, Seq2SeqLSTM, Transformer

VOCABULARY = 9
PROMPTS = np.array([[3, 4, 5, 6, 7], [8, 3, 0, 0, 0], [7, 0, 0, 0, 0], [5, 5, 5, 4, 0]], np.int32)
SOURCES = PROMPTS[:, :4]
TOKENS = tf.TensorSpec([1, None], tf.int32)


class Toy:
    """A model whose next token depends only on the last one and on logits of the row, its memory."""

    def __init__(self, table):
        self.table = tf.constant(table, tf.float32)

    def start(self, memory, length):
        return ((), memory), tf.zeros((tf.shape(memory)[0], 1))

    def step(self, token, index, memory, cache):
        row_logits = memory[1] if token.shape.rank == 1 else memory[1][:, tf.newaxis]
        return tf.gather(self.table, token) + row_logits, cache

    def extend(self, cache, positions, writer=None):
        return cache

    def reorder(self, cache, parents):
        return cache


def cached(plain):
    """Cache the logits of each prefix: several searches need the same ones."""
    logits = functools.cache(lambda row, tokens: np.asarray(plain(row, tokens)))
    return lambda row, tokens: logits(row, tuple(tokens))


def language_model(cls, **options):
    keras.utils.set_random_seed(3)
    model = cls(VOCABULARY, **options)
    model.build((None, None))
    randomize(model, seed=2, scale=0.6)

    graph = tf.function(lambda inputs: model(inputs), input_signature=[TOKENS])

    def plain(row, tokens):
        prompt = PROMPTS[row][PROMPTS[row] != 0]
        return graph(np.array([[*prompt, *tokens]], np.int32))[0, -1]

    return model, lambda rows: model.start(tf.constant(PROMPTS[rows]), 0), cached(plain)


def translator(model):
    keras.utils.set_random_seed(3)  # `randomize` adds noise to the initial weights
    model.build({"source": (None, None), "target": (None, None)})
    randomize(model, seed=5, scale=0.5)

    graph = tf.function(lambda inputs: model(inputs), input_signature=[{"source": TOKENS, "target": TOKENS}])

    def plain(row, tokens):
        source = SOURCES[row][SOURCES[row] != 0]
        return graph({"source": source[np.newaxis], "target": np.array([tokens], np.int32)})[0, -1]

    return model, lambda rows: model.start(tf.constant(SOURCES[rows]), 0), cached(plain)


BLOCKS = {"width": 8, "num_heads": 2, "hidden_units": 12, "num_blocks": 2}
MODELS = {
    "char_lstm": lambda **o: language_model(CharLSTM, width=4, units=6, num_layers=2, **o),
    "decoder rotary": lambda **o: language_model(DecoderTransformer, **BLOCKS, positions="rotary", **o),
    "decoder window": lambda **o: language_model(DecoderTransformer, **BLOCKS, positions="learned", context=3, **o),
    "seq2seq": lambda **o: translator(Seq2SeqLSTM(VOCABULARY, 8, 6, **o)),
    "transformer post": lambda **o: translator(Transformer(VOCABULARY, **BLOCKS, norm="post", **o)),
    "transformer pre": lambda **o: translator(Transformer(VOCABULARY, **BLOCKS, norm="pre", **o)),
    "transformer rotary": lambda **o: translator(Transformer(VOCABULARY, **BLOCKS, positions="rotary", **o)),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """-> the model; a function rows -> memory, cache; a function row, tokens so far -> the plain next logits."""
    return MODELS[request.param]()


# Greedy.


def test_greedy_equals_a_loop_without_a_cache(case):
    network, start, plain = case
    limits = np.array([7, 3, 7, 5], np.int32)
    tokens, log_probabilities = greedy(network, *start(slice(None)), START, END, tf.constant(limits))
    for row, limit in enumerate(limits):
        expected, log_probability = reference_greedy(lambda so_far, row=row: plain(row, so_far), limit)
        assert tokens[row].numpy().tolist() == expected + [0] * (tokens.shape[1] - len(expected))
        assert log_probabilities[row].numpy() == pytest.approx(log_probability, abs=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["char_lstm", "seq2seq", "transformer pre"])
def test_searches_run_in_half_precision(name, policy):
    network, start, _ = MODELS[name](dtype=policy)
    limits = tf.constant([3, 3, 2, 1])
    tokens, log_probabilities = greedy(network, *start(slice(None)), START, END, limits)
    assert tokens.shape[0] == 4 and np.isfinite(log_probabilities).all()
    tokens, scores = beam_search(network, *start(slice(None)), START, END, limits, tf.ones(4), 3)
    assert tokens.shape[:2] == (4, 3) and np.isfinite(scores).all()


def test_rows_do_not_depend_on_their_batch(case, monkeypatch):
    monkeypatch.setattr("kerasnets.decoding.loop.INITIAL_CAPACITY", 2)
    network, start, _ = case
    limits, alpha = tf.constant([6, 3, 7, 4]), tf.constant([1.0, 0.0, 0.6, -0.5])
    tokens, log_probabilities = greedy(network, *start(slice(None)), START, END, limits)
    beams, scores = beam_search(network, *start(slice(None)), START, END, limits, alpha, 3)
    assert len({tuple(row) for row in tokens.numpy()}) > 1  # else the test would be trivial
    for row in range(4):
        one = slice(row, row + 1)
        alone, score = greedy(network, *start(one), START, END, limits[one])
        length = alone.shape[1]
        np.testing.assert_array_equal(alone[0], tokens[row, :length])
        assert np.all(tokens[row, length:] == 0)
        assert_close(score[0], log_probabilities[row], 1e-5)
        alone, score = beam_search(network, *start(one), START, END, limits[one], alpha[one], 3)
        np.testing.assert_array_equal(alone[0], beams[row, :, : alone.shape[2]])
        assert_close(score[0], scores[row], 1e-5)


def test_ended_rows_add_no_sequences():
    """The first of ten rows ends with the second token, since nothing can exceed its best score. A sequence better than
    its third would come with the third token; the row waits that long, because the others do not end."""
    table = np.full((VOCABULARY, VOCABULARY), -20.0)
    table[START, [END, 4, 5]] = np.log([0.6, 0.3, 0.1])
    table[4, [END, 6]], table[5, [END, 6]], table[6, [END, 6]] = np.log([[0.01, 0.99], [0.9, 0.1], [0.9, 0.1]])
    memory, limits = np.zeros((10, VOCABULARY), np.float32), tf.fill([10], 9)
    memory[1:, END] = -40
    model = Toy(table)
    batch, scores = beam_search(model, *model.start(tf.constant(memory), 0), START, END, limits, tf.zeros(10), 3)
    alone, score = beam_search(model, *model.start(tf.constant(memory[:1]), 0), START, END, limits[:1], tf.zeros(1), 3)
    assert alone[0, :, :2].numpy().tolist() == [[END, 0], [5, END], [4, END]]
    np.testing.assert_array_equal(batch[0], alone[0])
    assert_close(score[0], scores[0], 1e-5)


CHAIN = {START: 4, 4: 5, 5: END, 6: 7, 7: 8, 8: 6}


def test_greedy_ends_a_row_with_its_end_token():
    table = np.eye(VOCABULARY)[[CHAIN.get(n, 3) for n in range(VOCABULARY)]] * 9
    model, zeros = Toy(table), tf.zeros((2, VOCABULARY))
    tokens, score = greedy(model, *model.start(zeros, 0), tf.constant([START, 6]), END, tf.constant([9, 6]))
    assert tokens[:, :6].numpy().tolist() == [[4, 5, END, 0, 0, 0], [7, 8, 6, 7, 8, 6]]
    assert np.all(tokens[:, 6:] == 0)
    each = log_softmax(np.eye(VOCABULARY)[0] * 9)[0]
    assert_close(score, np.array([3 * each, 6 * each]))  # the score includes the end token, but no later ones


def test_limit_of_zero_writes_no_tokens():
    model = Toy(np.eye(VOCABULARY)[[3] * VOCABULARY])
    arguments = *model.start(tf.zeros((2, VOCABULARY)), 0), START, -1, tf.constant([0, 2])
    tokens, score = greedy(model, *arguments)
    assert tokens.shape == (2, 2)
    assert np.all(tokens[0] == 0) and score[0] == 0 and np.all(tokens[1] == 3)


def test_ended_rows_leave_the_batch():
    """Eight rows end after 1, 2, 3, ... steps; once a quarter has ended, steps compute the others only."""
    sizes = []

    class Counted(Toy):
        def step(self, token, index, memory, cache):
            sizes.append(len(token))
            ends = tf.one_hot(tf.fill(tf.shape(token), END), VOCABULARY)
            return tf.where((index + 1 >= memory[1][:, :1]), 9 * ends, 9 * tf.one_hot(token * 0 + 3, VOCABULARY)), cache

    model, lengths = Counted(np.zeros((VOCABULARY, VOCABULARY))), np.arange(1, 9, dtype=np.int32)
    memory = tf.constant(np.repeat(lengths[:, None], VOCABULARY, 1))
    tokens, _ = greedy(model, *model.start(memory, 0), START, END, tf.fill([8], 60))
    assert np.count_nonzero(tokens, axis=1).tolist() == lengths.tolist()
    assert sizes == [8, 8, 6, 6, 4, 3, 2, 1]


def test_full_cache_grows(monkeypatch):
    monkeypatch.setattr("kerasnets.decoding.loop.INITIAL_CAPACITY", 2)
    network, start, plain = MODELS["transformer pre"]()
    tokens, _ = greedy(network, *start(slice(None)), START, -1, tf.fill([4], 11))
    limits, alpha = tf.fill([4], 11), tf.ones(4)
    beams, _ = beam_search(network, *start(slice(None)), START, -1, limits, alpha, 2)
    for row in range(4):

        def logits(so_far, row=row):
            return plain(row, so_far)

        expected = [START]
        for _ in range(11):
            expected.append(int(np.argmax(logits(expected))))
        assert tokens[row].numpy().tolist() == expected[1:]
        assert beams[row].numpy().tolist() == [
            list(sequence) for sequence, _ in reference_beam_search(logits, 11, 1.0, 2, end=-1)
        ]


# Beam search.


def test_beam_search_equals_the_reference(case):
    """Its first result is that of a search that never stops before the limit."""
    network, start, plain = case
    limits, alphas = np.array([6, 3, 5, 5], np.int32), [1.0, 0.0, 0.0, -0.5]
    tokens, scores = beam_search(network, *start(slice(None)), START, END, tf.constant(limits), tf.constant(alphas), 3)
    for row, limit in enumerate(limits):
        arguments = (lambda so_far, row=row: plain(row, so_far)), limit, alphas[row], 3
        expected = reference_beam_search(*arguments)
        assert expected[0] == reference_beam_search(*arguments, stop_early=False)[0]
        padded = [[*sequence, *[0] * (tokens.shape[2] - len(sequence))] for sequence, _ in expected]
        assert tokens[row].numpy().tolist() == padded
        assert_close(scores[row], np.array([score for _, score in expected]), 1e-4)


def sequences(limit):
    """All sequences of a vocabulary of five tokens: with an end token, or as long as the limit."""
    for length in range(1, limit + 1):
        for tokens in itertools.product([0, 1, 3, 4], repeat=length - 1):
            yield (*tokens, END)
            if length == limit:
                yield from ((*tokens, last) for last in [0, 1, 3, 4])


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 2.0, -1.0])
def test_beam_search_with_enough_beams_is_exhaustive(alpha):
    table = np.random.default_rng(7).normal(0, 2, (5, 5))
    memory = np.random.default_rng(8).normal(0, 1, (3, 5)).astype(np.float32)
    model, limit = Toy(table), 4
    all_sequences = list(sequences(limit))
    beams = len(all_sequences)
    arguments = START, END, tf.fill([3], limit), tf.fill([3], alpha)
    tokens, scores = beam_search(model, *model.start(tf.constant(memory), 0), *arguments, beams)
    for row in range(3):

        def score(sequence, row=row):
            pairs = zip((START, *sequence), sequence, strict=False)
            total = sum(log_softmax(table[before] + memory[row])[token] for before, token in pairs)
            return total / len(sequence) ** alpha

        expected = sorted(all_sequences, key=score, reverse=True)
        assert_close(scores[row], np.array([score(s) for s in expected]), 1e-4)
        assert tokens[row, 0].numpy().tolist() == [*expected[0], *[0] * (limit - len(expected[0]))]


def test_beam_search_stops_when_no_live_hypothesis_can_improve():
    """A certain end after two tokens: no step after those that the bound requires."""
    steps = []

    class Counted(Toy):
        def step(self, token, index, memory, cache):
            steps.append(1)
            return super().step(token, index, memory, cache)

    table = np.full((VOCABULARY, VOCABULARY), 0.0)
    table[START, 4] = table[4, END] = 20.0
    model = Counted(table)
    arguments = START, END, tf.constant([50]), tf.zeros(1)
    tokens, scores = beam_search(model, *model.start(tf.zeros((1, VOCABULARY)), 0), *arguments, 1)
    assert tokens[0, 0, :3].numpy().tolist() == [4, END, 0]
    assert len(steps) == 2 and scores[0, 0] > -1e-3


def test_steep_length_penalty_allows_scores_below_no_hypothesis():
    """With α = -5, 40 unlikely tokens score below -1e9."""
    model = Toy(np.eye(VOCABULARY)[[3] * VOCABULARY])
    arguments = START, -1, tf.constant([40]), tf.constant([-5.0])
    tokens, scores = beam_search(model, *model.start(tf.zeros((1, VOCABULARY)), 0), *arguments, 2)
    assert tokens[0, 0].numpy().tolist() == [3] * 40
    assert -1e11 < scores[0, 0] < -1e9


def test_missing_sequences_have_the_score_no_sequence():
    """With a limit of one token, two sequences exist for three beams."""
    model = Toy(np.zeros((2, 2)))
    arguments = START, 0, tf.constant([1]), tf.ones(1)
    _, scores = beam_search(model, *model.start(tf.zeros((1, 2)), 0), *arguments, 3)
    assert_close(scores[0, :2], np.log([0.5, 0.5]), 1e-6)
    assert scores[0, 2] == decoding.search.NO_SEQUENCE


def test_searches_trace_one_graph(monkeypatch):
    monkeypatch.setattr("kerasnets.decoding.loop.INITIAL_CAPACITY", 4)
    network, start, _ = MODELS["transformer pre"]()
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)])
    def write(source, limits):
        traces.append(1)
        best, score = greedy(network, *network.start(source, 0), START, END, limits)
        beams, scores = beam_search(network, *network.start(source, 0), START, END, limits, tf.ones_like(score), 2)
        return best, score, beams, scores

    for rows, limits in [(slice(0, 1), [4]), (slice(0, 4), [7, 5, 2, 9])]:
        found = write(tf.constant(SOURCES[rows]), tf.constant(limits))
        expected = greedy(network, *start(rows), START, END, tf.constant(limits))
        expected += beam_search(network, *start(rows), START, END, tf.constant(limits), tf.ones(len(limits)), 2)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, 1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("vocabulary", [5, 1280, 1300, 4000])
def test_fast_top_k_equals_top_k(vocabulary):
    random = np.random.default_rng(vocabulary)
    for logits in (random.normal(0, 1, (3, 2, vocabulary)), random.integers(0, 9, (3, 2, vocabulary))):
        logits = tf.constant(logits, tf.float32)
        count = min(6, vocabulary)
        for found, expected in zip(
            decoding.search.fast_top_k(logits, count), tf.math.top_k(logits, count), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


# Buckets.


def test_search_by_length_buckets_by_length_and_keeps_order(monkeypatch):
    monkeypatch.setattr("kerasnets.decoding.buckets.BUCKET_ROWS", 2)
    shapes = []

    def search(rows, source, limits):
        tf.py_function(lambda source: shapes.append(tuple(source.shape)), [source], [])
        return source[:, tf.newaxis], tf.cast(limits, tf.float32)[:, tf.newaxis]

    # The two buckets of the four longest, then those of the others; a batch that fits into one bucket is not split.
    cases = [([5, 2, 9, 2, 7, 1, 4], [(2, 9), (2, 7), (2, 2), (1, 2)]), ([3, 8], [(2, 8)])]
    for lengths, buckets in [*cases, ([1, 1, 1, 1, 1], [(2, 1), (2, 1), (1, 1)])]:
        lengths, shapes[:] = np.array(lengths, np.int32), []
        source = np.where(np.arange(9) < lengths[:, None], lengths[:, None], 0).astype(np.int32)
        tokens, scores = search_by_length(
            search, tf.constant(source), tf.constant(lengths), tf.constant(lengths + 1), (1,)
        )
        assert sorted(shapes) == sorted(buckets)
        longest = tokens.shape[2]
        np.testing.assert_array_equal(tokens[:, 0], np.pad(source, [(0, 0), (0, 1)])[:, :longest])
        np.testing.assert_array_equal(scores[:, 0], lengths + 1)
