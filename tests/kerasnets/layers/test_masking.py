"""Keras's masks: after `Embedding(mask_zero=True)` layers ignore padding, as the stock layers do."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as stock
from layer_checks import assert_close, normal, randomize

from kerasnets import layers, models

# A row without padding, one with padding at its end, one with padding in between and at its start.
TOKENS = np.array([[3, 1, 4, 1, 5], [2, 6, 5, 0, 0], [0, 3, 0, 5, 8]], np.int32)
VALID = TOKENS != 0
SOURCE = np.array([[3, 1, 4, 2], [2, 6, 0, 0], [0, 5, 0, 8]], np.int32)
WIDTH = 6


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def embedding(seed=0):
    layer = stock.Embedding(9, WIDTH, mask_zero=True)
    layer.build((None, None))
    layer.set_weights([normal(9, WIDTH, seed=seed)])
    return layer


def masked(tokens=TOKENS, seed=0):
    return embedding(seed)(tokens)


def plain(tokens=TOKENS, seed=0):
    return keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(masked(tokens, seed)))


def mask_of(x):
    return getattr(x, "_keras_mask", None)


def first(outputs):
    return keras.tree.flatten(outputs)[0]


# Constructors of the layers, and the arguments that mask the same padding explicitly.
SEQUENCES = {
    "SimpleRNN": (lambda: layers.RNN(layers.SimpleRNNCell(4)), {"valid": VALID}),
    "RNN of an LSTMCell": (lambda: layers.RNN(layers.LSTMCell(4, layer_norm=True), truncate=2), {"valid": VALID}),
    "LSTM": (lambda: layers.LSTM(4), {"valid": VALID}),
    "LSTM reverse": (lambda: layers.LSTM(4, projection=3, reverse=True), {"valid": VALID}),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(3)), {"valid": VALID}),
    "StackedRNN": (
        lambda: layers.StackedRNN([layers.Bidirectional(layers.LSTM(3)), layers.LSTM(4)]),
        {"valid": VALID},
    ),
    "MultiHeadAttention": (lambda: layers.MultiHeadAttention(2, rotary=False), {"attention_mask": VALID[:, None]}),
    "MultiHeadAttention grouped": (
        lambda: layers.MultiHeadAttention(3, num_key_value_heads=1, rotary=True),
        {"attention_mask": VALID[:, None]},
    ),
    "EncoderBlock": (lambda: layers.EncoderBlock(2, 8), {"attention_mask": VALID[:, None]}),
    "EncoderBlock pre": (lambda: layers.EncoderBlock(2, 8, norm="pre"), {"attention_mask": VALID[:, None]}),
    "SequenceTagger": (lambda: models.SequenceTagger(3, stock.Dense(5), 4), {"valid": VALID}),
    "SequenceClassifier": (lambda: models.SequenceClassifier(3, stock.Dense(5), 4, 2), {"valid": VALID}),
}
# Position-wise layers, whose outputs do not depend on padding.
POSITIONS = {
    "FeedForward": lambda: layers.FeedForward(8, "swiglu"),
    "LayerNormalization": layers.LayerNormalization,
    "Linear": lambda: layers.Linear(4),
    "PositionalEncoding": layers.PositionalEncoding,
    "LearnedPositions": lambda: layers.LearnedPositions(9),
}
IMAGES = {"ConvBlock", "GlobalPooling", "LocallyConnected2D", "ResidualBlock"}  # without steps to mask, as `Conv2D`


def randomized(make, *inputs):
    layer = make()
    layer(*inputs)
    randomize(layer)
    return layer


def test_every_layer_is_tested():
    elsewhere = {
        "AdditiveAttention",
        "MultiplicativeAttention",
        "DecoderBlock",
        "Residual",
        "SimpleRNNCell",
        "LSTMCell",
        "WordDropout",
    }
    tested = {type(make()).__name__ for make, _ in SEQUENCES.values()} | POSITIONS.keys() | elsewhere | IMAGES
    assert set(layers.__all__) <= tested


@pytest.mark.parametrize("name", SEQUENCES)
def test_mask_of_keras_equals_explicit_mask(name):
    make, explicit = SEQUENCES[name]
    layer = randomized(make, plain())
    expected = layer(plain(), **explicit)
    assert_close(layer(masked()), expected, 1e-6)
    assert_close(layer(plain(), mask=VALID), expected, 1e-6)
    assert np.abs(first(layer(plain())) - first(expected)).max() > 1e-3
    # Both masks at once; each covers other steps.
    argument, valid = next(iter(explicit.items()))
    half = np.array(valid)
    half[..., -1] = True
    assert_close(layer(masked(), **{argument: half}), expected, 1e-6)


@pytest.mark.parametrize("name", SEQUENCES)
def test_values_at_padding_do_not_matter(name):
    layer = randomized(SEQUENCES[name][0], plain())
    x = masked()
    other = keras.ops.where(VALID[..., None], x, 99.0)
    other._keras_mask = VALID
    for a, b in zip(keras.tree.flatten(layer(x)), keras.tree.flatten(layer(other)), strict=True):
        if a.shape[:2] == VALID.shape:
            a, b = np.asarray(a)[VALID], np.asarray(b)[VALID]
        assert_close(a, b, 1e-6)


@pytest.mark.parametrize("name", SEQUENCES | POSITIONS)
def test_mask_is_propagated(name):
    layer = SEQUENCES[name][0]() if name in SEQUENCES else POSITIONS[name]()
    outputs, *states = keras.tree.flatten(layer(masked()))
    if name == "SequenceClassifier":
        assert mask_of(outputs) is None
    else:
        np.testing.assert_array_equal(mask_of(outputs), VALID)
    assert all(mask_of(state) is None for state in states)
    assert all(mask_of(x) is None for x in keras.tree.flatten(layer(plain())))


@pytest.mark.parametrize("name", POSITIONS)
def test_position_wise_layers_ignore_masks(name):
    layer = randomized(POSITIONS[name], plain())
    assert_close(layer(masked()), layer(plain()), 0)


@pytest.mark.parametrize("cell", [layers.SimpleRNNCell, layers.LSTMCell])
def test_states_of_padding_rows_do_not_change(cell):
    cell = cell(4)
    x, states = masked()[:, 0], cell.get_initial_state(3)
    after = cell(x, states)[1]
    x._keras_mask = VALID[:, 0]
    masked_after = cell(x, after)[1]
    assert_close([state[2] for state in masked_after], [state[2] for state in after], 0)
    assert np.abs(masked_after[0][:2] - after[0][:2]).max() > 1e-3


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("with_memory", [True, False])
def test_decoder_block_ignores_padding(norm, with_memory):
    memory = [plain(SOURCE, 1)] if with_memory else []
    block = randomized(lambda: layers.DecoderBlock(2, 8, norm=norm), plain(), *memory)
    masked_memory = [masked(SOURCE, 1)] if with_memory else []
    outputs = block(masked(), *masked_memory)
    np.testing.assert_array_equal(mask_of(outputs), VALID)
    for row in range(3):  # without its padding
        alone = [x[row : row + 1, SOURCE[row] != 0] for x in np.asarray(memory)]
        expected = block(np.asarray(plain())[row : row + 1, VALID[row]], *alone)
        assert_close(np.asarray(outputs)[row, VALID[row]], expected[0], 1e-5)
    if with_memory:
        # In a call with a memory Keras passes no `mask`; a user may.
        masks = {"mask": VALID, "memory_mask": SOURCE != 0}
        assert_close(block(plain(), *memory, **masks), outputs, 1e-6)
        assert_close(block(masked(), *memory, cross_mask=(SOURCE != 0)[:, None]), outputs, 1e-6)


@pytest.mark.parametrize(
    "make", [lambda: layers.AdditiveAttention(5), layers.MultiplicativeAttention, lambda: layers.MultiHeadAttention(2)]
)
def test_memory_mask_of_keras_equals_explicit_mask(make):
    layer = randomized(make, plain(), plain(SOURCE, 1))
    expected = layer(plain(), plain(SOURCE, 1), attention_mask=(SOURCE != 0)[:, None])
    outputs = layer(masked(), masked(SOURCE, 1))
    assert_close(outputs, expected, 1e-6)
    np.testing.assert_array_equal(mask_of(outputs), VALID)
    half = np.ones((3, 1, 4), bool)
    half[2, 0, 0] = False
    assert_close(layer(plain(), masked(SOURCE, 1), attention_mask=half), expected, 1e-6)


def test_residual_passes_the_mask_to_its_sublayer():
    attention = randomized(lambda: layers.MultiHeadAttention(2), plain())
    for norm in ("post", "pre"):
        residual = layers.Residual(norm)
        outputs = residual(masked(), sublayer=attention)
        expected = residual(plain(), sublayer=lambda y: attention(y, attention_mask=VALID[:, None]))
        assert_close(outputs, expected, 1e-6)
        np.testing.assert_array_equal(mask_of(outputs), VALID)


# The stock layers.


@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_equals_the_stock_layer(reverse):
    ours = randomized(lambda: layers.LSTM(4, reverse=reverse), plain())
    theirs = stock.LSTM(4, return_sequences=True, return_state=True, go_backwards=reverse)
    theirs.build((None, None, WIDTH))
    theirs.set_weights(ours.get_weights())
    outputs, states = ours(masked())
    expected, *expected_states = theirs(masked())
    assert_close(outputs, np.asarray(expected)[:, ::-1] if reverse else expected, 1e-6)
    assert_close(states, expected_states, 1e-6)


def test_bidirectional_equals_the_stock_layer():
    ours = randomized(lambda: layers.Bidirectional(layers.LSTM(4)), plain())
    theirs = stock.Bidirectional(stock.LSTM(4, return_sequences=True, return_state=True))
    theirs.build((None, None, WIDTH))
    theirs.set_weights(ours.get_weights())
    outputs, states = ours(masked())
    expected, *expected_states = theirs(masked())
    assert_close(keras.tree.flatten(states), expected_states, 1e-6)
    # At a padded step the stock layer returns zeros, ours the state.
    assert_close(np.asarray(outputs)[VALID], np.asarray(expected)[VALID], 1e-6)


@pytest.mark.parametrize("case", ["self", "causal", "cross"])
def test_attention_equals_the_stock_layer(case):
    ours, theirs = layers.MultiHeadAttention(2), stock.MultiHeadAttention(2, WIDTH // 2)
    ours.build((None, None, WIDTH))
    theirs.build((None, None, WIDTH), (None, None, WIDTH))
    randomize(ours)
    theirs.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), theirs.weights, strict=True)])
    x, memory = masked(), masked(SOURCE, 1)
    outputs = ours(x, memory) if case == "cross" else ours(x, causal=case == "causal")
    expected = theirs(masked(), memory if case == "cross" else masked(), use_causal_mask=case == "causal")
    assert_close(np.asarray(outputs)[VALID], np.asarray(expected)[VALID], 1e-5)


# Models.


def test_functional_model_does_not_learn_from_padding():
    """The mask reaches the loss through all layers: labels at padding change no weight."""

    def weights(labels):
        keras.utils.set_random_seed(0)
        tokens = keras.Input((None,), dtype="int32")
        x = layers.PositionalEncoding()(embedding()(tokens))
        x = layers.FeedForward(8)(layers.LayerNormalization()(layers.EncoderBlock(2, 8)(x)))
        x, _ = layers.StackedRNN([layers.Bidirectional(layers.LSTM(3))])(x)
        model = keras.Model(tokens, layers.Linear(4)(x))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, run_eagerly=True)
        model.fit(TOKENS, labels, verbose=0)
        return model.get_weights()

    labels = np.random.default_rng(0).integers(0, 4, TOKENS.shape)
    assert_close(weights(np.where(VALID, labels, 3)), weights(np.where(VALID, labels, 0)), 0)


@pytest.mark.parametrize("cls", [models.SequenceTagger, models.SequenceClassifier])
def test_masked_embedding_inside_a_model(cls, tmp_path):
    model = randomized(lambda: cls(3, embedding(), 4, num_layers=2), TOKENS)
    logits = model(TOKENS)
    # A user's `valid` does not unmask padding.
    assert_close(model(TOKENS, valid=np.ones_like(VALID)), logits, 1e-6)
    for row in range(3):
        alone = np.asarray(model(TOKENS[row : row + 1, VALID[row]]))[0]
        padded = np.asarray(logits)[row]
        assert_close(padded[VALID[row]] if cls is models.SequenceTagger else padded, alone, 1e-5)
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(TOKENS), logits, 0)


@pytest.mark.parametrize("cls", [models.EncoderTransformer, models.DecoderTransformer, models.CharLSTM])
def test_token_models_ignore_padding_at_the_end(cls):
    options = (9, 5, 6) if cls is models.CharLSTM else (9, 8, 2, 12, 2)
    model = randomized(lambda: cls(*options), TOKENS)
    assert_close(np.asarray(model(TOKENS))[1, :3], model(TOKENS[1:2, :3])[0], 1e-5)


def test_no_mask_operations_without_a_mask():
    x = keras.ops.convert_to_tensor(normal(2, 5, WIDTH))
    for make in (lambda: layers.EncoderBlock(2, 8), lambda: layers.StackedRNN([layers.LSTM(4)])):
        layer = randomized(make, x)
        graph = operations(layer, x)
        assert not [name for name in graph if "Logical" in name or name.startswith("Select")], graph


def operations(layer, x):
    import tensorflow as tf

    graph = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec(x.shape, x.dtype)).graph
    return {operation.type for operation in graph.get_operations()}
