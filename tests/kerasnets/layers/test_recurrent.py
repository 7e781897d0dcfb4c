"""Recurrent layers: layer checks, parity with stock Keras layers of the same weights, and their properties."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from layer_checks import assert_close, check_layer, normal, probe, randomize, tensors, value_and_gradients

from kerasnets.layers import LSTM, RNN, Bidirectional, LSTMCell, SimpleRNNCell, StackedRNN


def randomized(layer, *shapes):
    """-> the layer with random weights."""
    layer.build(*shapes)
    randomize(layer)
    return layer


# Layer checks.


ALL_OPTIONS = {
    "units": 5,
    "recurrent_dropout": 0.5,
    "peepholes": True,
    "layer_norm": True,
    "projection": 4,
    "recurrent_weight_dropout": 0.4,
}


def sequence(b, t):
    return {"x": normal(b, t, 3)}


def padded_sequence(width):
    """-> inputs with states and padding, for states of these widths."""

    def inputs(b, t):
        states = tuple(normal(b, size, seed=1 + n) for n, size in enumerate(width))
        return {"x": normal(b, t, 3), "states": states, "valid": normal(b, t, seed=3) > 0}

    return inputs


def one_step(width):
    def inputs(b, t):
        return {"x": normal(b, 3), "states": tuple(normal(b, size, seed=1 + n) for n, size in enumerate(width))}

    return inputs


def test_simple_rnn_cell_passes_layer_checks(tmp_path):
    arguments = {"units": 4, "recurrent_dropout": 0.5, "recurrent_weight_dropout": 0.4}
    check_layer(SimpleRNNCell, arguments, one_step([4]), tmp_path)


def test_lstm_cell_passes_layer_checks(tmp_path):
    check_layer(LSTMCell, {"units": 4}, one_step([4, 4]), tmp_path, every_argument=False)


def test_lstm_cell_with_all_options_passes_layer_checks(tmp_path):
    check_layer(LSTMCell, ALL_OPTIONS, one_step([4, 5]), tmp_path)


CELLS = {
    "simple": lambda: SimpleRNNCell(4, name="cell"),
    "lstm": lambda: LSTMCell(5, layer_norm=True, projection=4, name="cell"),
}


@pytest.mark.parametrize("kind", CELLS)
def test_rnn_passes_layer_checks(kind, tmp_path):
    arguments = {"cell": CELLS[kind], "reverse": True, "truncate": 2}
    check_layer(RNN, arguments, padded_sequence(CELLS[kind]().state_size), tmp_path, every_argument=False)


def test_bidirectional_passes_layer_checks(tmp_path):
    check_layer(Bidirectional, {"rnn": lambda: RNN(SimpleRNNCell(4), name="rnn")}, sequence, tmp_path)


def test_stacked_rnn_passes_layer_checks(tmp_path):
    def rnns():
        return [Bidirectional(LSTM(2), name="first"), LSTM(4, name="second")]

    check_layer(StackedRNN, {"rnns": rnns, "dropout": 0.3, "variational": True}, sequence, tmp_path)


def test_lstm_passes_layer_checks(tmp_path):
    check_layer(LSTM, {"units": 4}, sequence, tmp_path, every_argument=False)


def test_lstm_with_states_and_padding_passes_layer_checks(tmp_path):
    check_layer(LSTM, {"units": 4}, padded_sequence([4, 4]), tmp_path, every_argument=False)


def test_lstm_with_all_options_passes_layer_checks(tmp_path):
    arguments = ALL_OPTIONS | {"reverse": True, "truncate": 3}
    check_layer(LSTM, arguments, padded_sequence([4, 5]), tmp_path, every_argument=False)


# Recurrence.


def lstm_pair(units=5, features=4):
    ours = randomized(LSTM(units), (None, None, features))
    theirs = keras.layers.LSTM(units, return_sequences=True, return_state=True)
    theirs.build((None, None, features))
    theirs.set_weights(ours.get_weights())
    return ours, theirs


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_lstm_equals_the_stock_layer(masked, graph):
    ours, theirs = lstm_pair()
    x, h, c = tensors([normal(3, 7, 4), normal(3, 5, seed=1), normal(3, 5, seed=2)])
    valid = None
    if masked:
        # The stock layer returns zeros until the first valid step, whatever the initial state.
        valid = tf.constant(np.array([[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0, 0]], bool))

    def run_ours():
        hs, states = ours(x, (h, c), valid)
        return [hs, *states]

    def run_theirs():
        return list(theirs(x, mask=valid, initial_state=[h, c]))

    wrap = tf.function if graph else (lambda function: function)
    result, gradients = wrap(lambda: value_and_gradients(run_ours, [x, h, c, *ours.trainable_variables]))()
    reference, expected = wrap(lambda: value_and_gradients(run_theirs, [x, h, c, *theirs.trainable_variables]))()
    assert_close(result, reference)
    assert_close(gradients, expected)


def test_lstm_initial_states_equal_the_stock_layers():
    ours, theirs = lstm_pair()
    x = tf.constant(normal(2, 6, 4))
    hs, states = ours(x)
    assert_close([hs, *states], list(theirs(x)))


def test_lstm_initial_weights_equal_the_stock_layers():
    ours, theirs = LSTM(5), keras.layers.LSTM(5)
    ours.build((None, None, 4))
    theirs.build((None, None, 4))
    np.testing.assert_array_equal(ours.cell.bias, theirs.cell.bias)
    kernel = np.asarray(ours.cell.recurrent_kernel)
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(5), atol=1e-5)  # orthogonal
    assert np.abs(ours.cell.kernel).max() <= np.sqrt(6 / (4 + 20))  # Glorot-uniform


def test_lstm_cell_equals_one_step_of_the_stock_layer():
    ours, theirs = lstm_pair()
    x, h, c = tensors([normal(3, 4), normal(3, 5, seed=1), normal(3, 5, seed=2)])

    def stock():
        y, *states = theirs(x[:, tf.newaxis], initial_state=[h, c])
        return [y[:, 0], *states]

    def cell():
        y, states = ours.cell(x, (h, c))
        return [y, *states]

    result, gradients = value_and_gradients(cell, [x, h, c, *ours.trainable_variables])
    reference, expected = value_and_gradients(stock, [x, h, c, *theirs.trainable_variables])
    assert_close(result, reference)
    assert_close(gradients, expected)


def test_lstm_cell_runs_in_the_stock_loop():
    lstm, _ = lstm_pair()
    x = tf.constant(normal(2, 6, 4))
    hs, (h, c) = lstm(x)
    assert_close(keras.layers.RNN(lstm.cell, return_sequences=True, return_state=True)(x), [hs, h, c])


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_lstm_gradient_equals_finite_differences(masked):
    lstm = LSTM(3, dtype="float64")
    lstm.build((None, None, 2))
    randomize(lstm)
    arrays = [
        normal(2, 4, 2),
        normal(2, 3, seed=1),
        normal(2, 3, seed=2),
        *(v.numpy() for v in lstm.trainable_variables),
    ]
    values = [tf.constant(array, tf.float64) for array in arrays]
    valid = tf.constant([[False, True, True, False], [True, False, True, True]]) if masked else None

    @tf.function
    def value(x, h, c, *weights):
        for variable, weight in zip(lstm.trainable_variables, weights, strict=True):
            variable.assign(weight)
        return probe(lstm(x, (h, c), valid))

    sources = [*values[:3], *lstm.trainable_variables]
    _, gradients = value_and_gradients(lambda: lstm(*values[:1], tuple(values[1:3]), valid), sources)
    assert all(gradient.dtype == tf.float64 for gradient in gradients)
    step = 1e-6
    for n, gradient in enumerate(gradients):
        for index in np.ndindex(*gradient.shape):
            change = np.zeros(gradient.shape)
            change[index] = step
            up, down = ([*values[:n], values[n] + sign * change, *values[n + 1 :]] for sign in (1, -1))
            slope = (value(*up) - value(*down)) / (2 * step)
            assert abs(slope - gradient[index]) < 1e-7, (n, index)


def test_lstm_keeps_its_states_at_padding():
    lstm, _ = lstm_pair()
    x, h, c = tensors([normal(1, 5, 4), normal(1, 5, seed=1), normal(1, 5, seed=2)])
    hs, states = lstm(x, (h, c), tf.constant([[False, True, False, True, True]]))
    assert_close(hs[:, 0], h, 0)
    assert_close(hs[:, 2], hs[:, 1], 0)
    assert_close(states, lstm(tf.gather(x, [1, 3, 4], axis=1), (h, c))[1], 0)


def test_lstm_gradient_does_not_depend_on_padding():
    lstm, _ = lstm_pair()
    valid = tf.constant([[True, True, False, False], [True, False, True, False]])
    gradients = []
    for filling in (0.0, 7.0):
        x = tf.where(valid[..., tf.newaxis], normal(2, 4, 4), filling)
        _, (by_x, *by_weights) = value_and_gradients(lambda x=x: lstm(x, valid=valid), [x, *lstm.trainable_variables])
        assert np.all(by_x.numpy()[~valid.numpy()] == 0)
        gradients.append(by_weights)
    assert_close(gradients[0], gradients[1], 1e-6)


def test_lstm_in_two_halves_equals_one_pass_and_single_steps():
    lstm, _ = lstm_pair()
    x = tf.constant(normal(2, 6, 4))
    whole, last = lstm(x)
    first, states = lstm(x[:, :2])
    second, states = lstm(x[:, 2:], states)
    assert_close([ops.concatenate([first, second], axis=1), states], [whole, last], 1e-6)
    state, outputs = lstm.cell.get_initial_state(2), []
    for t in range(6):
        y, state = lstm.step(x[:, t], state)
        outputs.append(y)
    assert_close([ops.stack(outputs, axis=1), state], [whole, last], 1e-6)


# The options of the cells, compared with the equations in NumPy, and the loop.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normalized(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def plain_lstm(cell, xs, h, c, valid=None):
    """Run an LSTM with the cell's options in NumPy: xs [B, T, D] -> h of every step, last h, last c."""
    units, hs = cell.units, []
    w, u, b = (np.asarray(v, np.float64) for v in (cell.kernel, cell.recurrent_kernel, cell.bias))
    peephole = np.asarray(cell.peephole) if cell.peepholes else np.zeros((3, units))
    for t in range(xs.shape[1]):
        from_x, from_h = xs[:, t] @ w, h @ u
        if cell.layer_norm:
            from_x = normalized(from_x) * np.asarray(cell.norms["input"].gamma)
            from_h = normalized(from_h) * np.asarray(cell.norms["recurrent"].gamma)
        i, f, g, o = np.split(from_x + from_h + b, 4, axis=-1)
        i, f, g = sigmoid(i + peephole[0] * c), sigmoid(f + peephole[1] * c), np.tanh(g)
        new_c = f * c + i * g
        cell_output = new_c
        if cell.layer_norm:
            cell_output = normalized(new_c) * np.asarray(cell.norms["cell"].gamma) + np.asarray(cell.norms["cell"].beta)
        new_h = sigmoid(o + peephole[2] * new_c) * np.tanh(cell_output)
        if cell.projection:
            new_h = new_h @ np.asarray(cell.projection_kernel)
        is_valid = np.ones((len(xs), 1), bool) if valid is None else valid[:, t, np.newaxis]
        h, c = np.where(is_valid, new_h, h), np.where(is_valid, new_c, c)
        hs.append(h)
    return np.stack(hs, axis=1), h, c


OPTIONS = [{"peepholes": True}, {"layer_norm": True}, {"projection": 3}, {"peepholes": True, "layer_norm": True}]


@pytest.mark.parametrize("options", [{}, *OPTIONS], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_lstm_options_equal_their_equations(options, masked):
    lstm = randomized(LSTM(5, **options), (None, None, 4))
    x, h, c = normal(3, 7, 4), normal(3, lstm.cell.output_size, seed=1), normal(3, 5, seed=2)
    valid = normal(3, 7, seed=3) > 0 if masked else None
    hs, states = lstm(x, (h, c), valid)
    assert_close([hs, *states], list(plain_lstm(lstm.cell, x, h, c, valid)))


def test_simple_rnn_equals_the_stock_layer():
    ours = randomized(RNN(SimpleRNNCell(5)), (None, None, 4))
    theirs = keras.layers.SimpleRNN(5, return_sequences=True, return_state=True)
    theirs.build((None, None, 4))
    theirs.set_weights(ours.get_weights())
    x, h = tensors([normal(3, 7, 4), normal(3, 5, seed=1)])

    def run_ours():
        hs, states = ours(x, (h,))
        return [hs, *states]

    result, gradients = value_and_gradients(run_ours, [x, h, *ours.trainable_variables])
    reference, expected = value_and_gradients(
        lambda: list(theirs(x, initial_state=h)), [x, h, *theirs.trainable_variables]
    )
    assert_close(result, reference)
    assert_close(gradients, expected)


@pytest.mark.parametrize("truncate", [None, 3], ids=["whole", "truncated"])
@pytest.mark.parametrize("masked", [False, True], ids=["all valid", "masked"])
def test_fast_lstm_loop_equals_the_general_loop(masked, truncate):
    fast = randomized(LSTM(5, truncate=truncate, reverse=True), (None, None, 4))
    general = RNN(fast.cell, reverse=True, truncate=truncate)
    x, h, c = tensors([normal(3, 8, 4), normal(3, 5, seed=1), normal(3, 5, seed=2)])
    valid = tf.constant(normal(3, 8, seed=3) > 0) if masked else None
    sources = [x, h, c, *fast.trainable_variables]
    result, gradients = value_and_gradients(lambda: fast(x, (h, c), valid), sources)
    reference, expected = value_and_gradients(lambda: general(x, (h, c), valid), sources)
    assert_close(result, reference)
    assert_close(gradients, expected)


def test_stock_loop_for_gpus_equals_ours(monkeypatch):
    ours = randomized(LSTM(5), (None, None, 4))
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0"])
    assert LSTM(5, dtype="mixed_bfloat16")(normal(1, 2, 4))[0].dtype == tf.bfloat16
    fused = LSTM(5)
    fused.build((None, None, 4))
    fused.set_weights(ours.get_weights())
    assert fused.stock is not None and len(fused.weights) == 3
    x, h, c = tensors([normal(3, 7, 4), normal(3, 5, seed=1), normal(3, 5, seed=2)])
    result, gradients = value_and_gradients(
        lambda: fused(x, (h, c), training=True), [x, h, c, *fused.trainable_variables]
    )
    reference, expected = value_and_gradients(lambda: ours(x, (h, c)), [x, h, c, *ours.trainable_variables])
    assert_close(result, reference)
    assert_close(gradients, expected)


@pytest.mark.parametrize("cell", [LSTMCell(3), SimpleRNNCell(3)], ids=["lstm", "simple"])
def test_truncated_gradients_end_at_chunk_boundaries(cell):
    rnn = randomized(RNN(cell, truncate=3), (None, None, 2))
    x = tf.constant(normal(1, 8, 2))
    assert_close(rnn(x), RNN(cell)(x), 1e-6)
    for t in range(8):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = tf.reduce_sum(rnn(x)[0][:, t])
        reached = np.abs(tape.gradient(output, x)[0]).max(axis=-1) > 0
        assert list(np.flatnonzero(reached)) == list(range(t // 3 * 3, t + 1))


def test_reverse_equals_reading_the_reversed_sequence():
    forward, x = randomized(LSTM(4), (None, None, 3)), normal(2, 6, 3)
    backward = RNN(forward.cell, reverse=True)
    hs, states = backward(x)
    expected, last = forward(x[:, ::-1])
    assert_close([hs, states], [expected[:, ::-1], last])
    assert_close(hs[:, 0], states[0], 0)


def test_reverse_starts_at_the_last_valid_step():
    backward, x = randomized(LSTM(4, reverse=True), (None, None, 3)), normal(1, 4, 3)
    padded = np.concatenate([x, normal(1, 2, 3, seed=9)], axis=1)
    hs, states = backward(padded, valid=np.array([[True] * 4 + [False] * 2]))
    assert_close([hs[:, :4], states], list(backward(x)), 1e-6)


def test_bidirectional_equals_the_stock_layer():
    ours = randomized(Bidirectional(LSTM(4)), (None, None, 3))
    theirs = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))
    theirs.build((None, None, 3))
    theirs.set_weights([*ours.rnn.get_weights(), *ours.backward.get_weights()])
    x = normal(2, 6, 3)
    assert_close(ours(x)[0], theirs(x))


def test_stacked_rnns_equal_their_layers_and_steps_equal_a_call():
    stack = randomized(StackedRNN([LSTM(4), RNN(SimpleRNNCell(3))], dropout=0.5), (None, None, 2))
    x = tf.constant(normal(2, 5, 2))
    outputs, states = stack(x)
    below, first = stack.rnns[0](x)
    above, second = stack.rnns[1](below)
    assert_close([outputs, states], [above, [first, second]], 0)
    state = stack.start(2)
    for t in range(5):
        y, state = stack.step(x[:, t], state)
        assert_close(y, outputs[:, t], 1e-6)
    assert_close(state, states, 1e-6)


def test_stateful_rnn_continues_from_the_last_batch():
    rnn = LSTM(4, stateful=True)
    rnn.build((2, None, 3))
    x = tf.constant(normal(2, 6, 3))
    whole, states = RNN(rnn.cell)(x)
    first, second = rnn(x[:, :2])[0], rnn(x[:, 2:])[0]
    assert_close(ops.concatenate([first, second], axis=1), whole, 1e-6)
    assert_close([v.numpy() for v in rnn.carried_states], states, 1e-6)
    rnn.reset_states()
    assert_close(rnn(x)[0], whole, 1e-6)


@pytest.mark.parametrize("make", [lambda p: LSTMCell(40, p), lambda p: SimpleRNNCell(40, p)], ids=["lstm", "simple"])
def test_recurrent_dropout_uses_one_mask_per_sequence(make):
    rnn = RNN(make(0.5))
    rnn.build((None, None, 1))
    x, start = tf.zeros((3, 6, 1)), [tf.ones((3, 40)) for _ in rnn.cell.state_size]
    assert_close(rnn(x, start, training=False), rnn(x, start), 0)
    mask = rnn.cell.dropout_mask(3, training=True)
    assert set(np.unique(mask)) == {0.0, 2.0} and 0.3 < np.mean(np.asarray(mask) == 0) < 0.7
    assert np.abs(rnn(x, start, training=True)[0] - rnn(x, start)[0]).max() > 1e-2
    seen = []
    advance = rnn.cell.advance
    rnn.cell.advance = lambda projected, states, mask, *kernel: seen.append(mask) or advance(projected, states, mask)
    rnn(x, start, training=True)
    assert len(seen) >= 1 and all(mask is seen[0] for mask in seen) and seen[0] is not None


@pytest.mark.parametrize("valid", [None, np.array([[True] * 6, [True] * 4 + [False] * 2])], ids=["whole", "padded"])
@pytest.mark.parametrize("make", [LSTM, lambda *a, **k: RNN(SimpleRNNCell(*a, **k))], ids=["lstm", "simple"])
def test_dropped_recurrent_weights_equal_a_cell_with_these_weights(make, valid):
    """Outputs and gradients; the same weights at every step and for every sequence."""
    rnn = randomized(make(4, recurrent_weight_dropout=0.5), (None, None, 3))
    same = randomized(make(4), (None, None, 3))
    kernel = np.asarray(rnn.cell.dropped_kernel(training=True))
    whole = rnn.cell.recurrent_kernel.numpy()
    assert 0.1 < np.mean(kernel == 0) < 0.9
    assert_close(kernel, 2 * whole * (kernel != 0))
    x = tf.constant(normal(2, 6, 3))
    same.set_weights([rnn.cell.kernel.numpy(), kernel, rnn.cell.bias.numpy()])
    rnn.cell.dropped_kernel = lambda training: rnn.cell.recurrent_kernel * tf.constant(2 * np.float32(kernel != 0))

    def gradients(layer):
        variables = [layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias]
        return value_and_gradients(lambda: layer(x, valid=valid, training=True), variables)

    (ours, (d_kernel, d_recurrent, d_bias)), (theirs, expected) = gradients(rnn), gradients(same)
    assert_close(ours, theirs, 1e-6)
    assert_close([d_kernel, d_bias], [expected[0], expected[2]])
    assert_close(d_recurrent, expected[1] * 2 * np.float32(kernel != 0))


def test_each_call_drops_other_recurrent_weights():
    rnn = randomized(LSTM(8, recurrent_weight_dropout=0.5), (None, None, 3))
    x, states = tf.zeros((1, 2, 3)), (normal(1, 8), normal(1, 8, seed=1))
    outputs = [np.asarray(rnn(x, states, training=True)[0]) for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@pytest.mark.parametrize("rnn", [lambda: LSTM(40), lambda: Bidirectional(LSTM(20))], ids=["forward", "both"])
def test_variational_dropout_zeroes_the_same_features_at_every_step_of_a_call(rnn):
    stack = randomized(StackedRNN([rnn()], dropout=0.5, variational=True), (None, None, 2))
    x = tf.constant(normal(3, 6, 2))
    calls = [np.asarray(stack(x, training=True)[0] == 0) for _ in range(2)]
    for zero in calls:
        assert (zero == zero[:, :1]).all() and 0.3 < zero.mean() < 0.7
        assert (zero[0] != zero[1]).any()
    assert (calls[0] != calls[1]).any()
    by_step = randomized(StackedRNN([rnn()], dropout=0.5), (None, None, 2))(x, training=True)[0] == 0
    assert (by_step != by_step[:, :1]).numpy().any()


def test_gates_are_float32_under_every_policy():
    options = {"peepholes": True, "projection": 3}
    exact = randomized(LSTM(4, **options), (None, None, 3))
    half = LSTM(4, **options, dtype="mixed_bfloat16")
    half.build((None, None, 3))
    half.set_weights(exact.get_weights())
    x = tf.constant(normal(2, 5, 3))
    assert_close(list(half.gates(x)), list(exact.gates(x)), 1e-6)
    normalized = randomized(LSTM(4, layer_norm=True, dtype="mixed_float16"), (None, None, 3))
    assert all(part.dtype == tf.float32 and np.isfinite(part).all() for part in normalized.gates(x))


def test_gates_satisfy_the_equations():
    lstm = randomized(LSTM(4, peepholes=True, layer_norm=True), (None, None, 3))
    x, states = tf.constant(normal(2, 5, 3)), (normal(2, 4, seed=1), normal(2, 4, seed=2))
    i, f, g, o, c = lstm.gates(x, states)
    hs, (_, last) = lstm(x, states)
    assert i.shape == f.shape == g.shape == o.shape == c.shape == (2, 5, 4)
    assert_close(c[:, -1], last, 1e-6)
    before = np.concatenate([states[1][:, np.newaxis], c[:, :-1]], axis=1)
    assert_close(c, f * before + i * g, 1e-6)
    assert_close(hs, o * np.tanh(lstm.cell.norms["cell"](c)), 1e-6)


# Invalid arguments.


def stateful_of_two(x):
    rnn = LSTM(2, stateful=True)
    rnn.build((2, None, 3))
    return rnn(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMCell(0), "units is 0"),
        (lambda: LSTM(-2), "units is -2"),
        (lambda: SimpleRNNCell(-1), "units is -1"),
        (lambda: LSTM(2, recurrent_dropout=1.0), r"recurrent_dropout is 1\.0"),
        (lambda: LSTM(2, recurrent_weight_dropout=-1), "recurrent_weight_dropout is -1"),
        (lambda: LSTM(2, projection=0), "projection is 0"),
        (lambda: LSTM(2, truncate=0), "truncate is 0"),
        (lambda: LSTM(2, stateful=True).build((None, None, 3)), "stateful is True and the batch size is None"),
        (lambda: LSTM(2).build((None, 3)), r"x has the shape \(None, 3\)"),
        (lambda: LSTM(2)(normal(2, 3, 4), valid=np.ones((2, 3, 1), bool)), r"valid has the shape \(2, 3, 1\)"),
        (lambda: Bidirectional(LSTM(2, reverse=True)), "rnn is LSTM reverse; it must be an RNN that reads forward"),
        (lambda: Bidirectional(keras.layers.LSTM(2)), "rnn is LSTM; it must be an RNN"),
        (lambda: StackedRNN([]), r"rnns is \[\]; it must be"),
        (lambda: StackedRNN([keras.layers.LSTM(2)]), r"rnns is \['LSTM'\]; it must be"),
        (lambda: StackedRNN([LSTM(2)], dropout=2), "dropout is 2"),
        (lambda: RNN(keras.layers.LSTMCell(2)), "cell is a LSTMCell; it must have `project`"),
        (lambda: RNN(LSTMCell(2), dtype="mixed_bfloat16"), "cell computes in float32; it must be bfloat16"),
        (lambda: LSTM(2, reverse=True).gates(normal(1, 3, 2)), "reverse is True"),
        (lambda: stateful_of_two(normal(3, 4, 3)), "the batch size is 3; it must be 2"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
