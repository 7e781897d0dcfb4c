"""Attention: parity with the stock layer, gradients, masks, groups of heads; its linear layer and normalization."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from layer_checks import assert_close, check_layer, normal, probe, randomize, tensors, value_and_gradients

from kerasnets.layers import LayerNormalization, Linear, MultiHeadAttention
from kerasnets.layers.kernels import attention as kernel
from kerasnets.layers.kernels.attention import causal_mask, mask_bias


@pytest.fixture(autouse=True)
def explicit_gradients(monkeypatch):
    """Compute short sequences as longer ones, with the explicit gradient."""
    monkeypatch.setattr(kernel, "MAX_UNFUSED", 0)


def randomized(layer, *shapes):
    """-> the layer with random weights."""
    layer.build(*shapes)
    randomize(layer)
    return layer


ALL_OPTIONS = {"num_heads": 4, "dropout": 0.1, "num_key_value_heads": 2, "rotary": True}


def test_attention_passes_layer_checks(tmp_path):
    def inputs(b, t):
        mask = normal(b, t, t + 1, seed=2) > 0
        return {"query": normal(b, t, 8), "memory": normal(b, t + 1, 6, seed=1), "attention_mask": mask}

    check_layer(MultiHeadAttention, ALL_OPTIONS, inputs, tmp_path)


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_passes_layer_checks(causal, tmp_path):
    def inputs(b, t):
        return {"query": normal(b, t, 8), "attention_mask": normal(1, t, t, seed=2) > 0}

    check_layer(MultiHeadAttention, ALL_OPTIONS, inputs, tmp_path, causal=causal)


def test_linear_passes_layer_checks(tmp_path):
    check_layer(Linear, {"units": 5}, lambda b, t: {"x": normal(b, t, 6)}, tmp_path)


def test_layer_normalization_passes_layer_checks(tmp_path):
    check_layer(LayerNormalization, {}, lambda b, t: {"x": normal(b, t, 6)}, tmp_path)


# Parity with stock layers.


def attention_pair(num_heads=2, width=6, memory_width=6):
    ours = randomized(MultiHeadAttention(num_heads), (None, None, width), (None, None, memory_width))
    theirs = keras.layers.MultiHeadAttention(num_heads, width // num_heads, output_shape=width)
    theirs.build((None, None, width), (None, None, memory_width))
    theirs.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), theirs.weights, strict=True)])
    return ours, theirs


MASKS = {
    "none": lambda b, t, s: None,
    "padding": lambda b, t, s: tf.sequence_mask(tf.range(b) + 2, s)[:, tf.newaxis],
    "causal": lambda b, t, s: tf.linalg.band_part(tf.ones((1, t, s), tf.bool), -1, 0),
    "any": lambda b, t, s: tf.constant(normal(b, t, s) > 0) | tf.eye(t, s, dtype=tf.bool),
}


@pytest.mark.parametrize("memory_width", [None, 6, 10], ids=["self", "cross", "cross of another width"])
@pytest.mark.parametrize("kind", MASKS)
def test_attention_equals_the_stock_layer(kind, memory_width):
    ours, theirs = attention_pair(memory_width=memory_width or 6)
    query, memory = tensors([normal(3, 5, 6), normal(3, 7, memory_width or 6, seed=1)])
    sources = [query, memory] if memory_width else [query]
    mask = MASKS[kind](3, 5, 7 if memory_width else 5)

    def stock():
        return theirs(query, memory if memory_width else query, attention_mask=mask)

    result, gradients = value_and_gradients(
        lambda: ours(*sources, attention_mask=mask), [*sources, *ours.trainable_variables]
    )
    reference, expected = value_and_gradients(stock, [*sources, *theirs.trainable_variables])
    assert_close(result, reference)
    assert_close(gradients, [tf.reshape(e, g.shape) for g, e in zip(gradients, expected, strict=True)])


@pytest.mark.parametrize("length", [4, 5, 11])
@pytest.mark.parametrize("masked", ["none", "padding", "any"])
def test_causal_attention_equals_the_stock_layer(monkeypatch, masked, length):
    monkeypatch.setattr(kernel, "BLOCK", 4)  # 4, 5 and 11 positions: one block, a block and one more, three blocks
    ours, theirs = attention_pair()
    x = tf.constant(normal(3, length, 6))
    mask = {"none": None, "padding": MASKS["padding"](3, 1, length), "any": MASKS["any"](3, length, length)}[masked]

    def stock():
        return theirs(x, x, attention_mask=mask, use_causal_mask=True)

    result, gradients = value_and_gradients(
        lambda: ours(x, attention_mask=mask, causal=True), [x, *ours.trainable_variables]
    )
    reference, expected = value_and_gradients(stock, [x, *theirs.trainable_variables])
    assert_close(result, reference)
    assert_close(gradients, [tf.reshape(e, g.shape) for g, e in zip(gradients, expected, strict=True)])


def test_grouped_attention_equals_the_stock_layer():
    ours = randomized(MultiHeadAttention(4, num_key_value_heads=2), (None, None, 8))
    theirs = keras.layers.GroupQueryAttention(2, 4, 2)
    x = tf.constant(normal(3, 5, 8))
    theirs(x, x)
    theirs.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), theirs.weights, strict=True)])
    result, gradients = value_and_gradients(lambda: ours(x), [x, *ours.trainable_variables])
    reference, expected = value_and_gradients(lambda: theirs(x, x), [x, *theirs.trainable_variables])
    assert_close(result, reference)
    assert_close(gradients, [tf.reshape(e, g.shape) for g, e in zip(gradients, expected, strict=True)])
    assert ours.project(x)[0].shape == (3, 2, 5, 2)  # half the cache of ungrouped attention


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_linear_equals_the_stock_layer(shape):
    ours, theirs, x = randomized(Linear(4), (None, 6)), keras.layers.Dense(4), tf.constant(normal(2, *shape))
    theirs.build((None, 6))
    theirs.set_weights(ours.get_weights())
    result, gradients = value_and_gradients(lambda: ours(x), [x, *ours.trainable_variables])
    reference, expected = value_and_gradients(lambda: theirs(x), [x, *theirs.trainable_variables])
    assert_close(result, reference, 1e-6)
    assert_close(gradients, expected, 1e-6)


def test_layer_normalization_equals_the_stock_layer():
    ours, theirs = randomized(LayerNormalization(), (None, None, 6)), keras.layers.LayerNormalization(epsilon=1e-6)
    x = tf.constant(normal(2, 4, 6, scale=3.0) + 5)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    result, gradients = value_and_gradients(lambda: ours(x), [x, *ours.trainable_variables])
    reference, expected = value_and_gradients(lambda: theirs(x), [x, *theirs.trainable_variables])
    assert_close(result, reference)
    assert_close(gradients, expected)


def test_layer_normalization_equals_its_equation():
    norm = randomized(LayerNormalization(), (None, None, 6))
    x = normal(2, 4, 6)
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    assert_close(norm(x), scaled * np.asarray(norm.gamma) + np.asarray(norm.beta))


# Explicit gradients.


def make_attention():
    return randomized(MultiHeadAttention(2, num_key_value_heads=1, rotary=True, dtype="float64"), (None, None, 4))


GRADIENT_CASES = {
    "linear": (lambda: randomized(Linear(3, dtype="float64"), (None, None, 4)), {}),
    "layer normalization": (lambda: randomized(LayerNormalization(dtype="float64"), (None, None, 4)), {}),
    "attention": (make_attention, {}),
    "attention with a mask": (make_attention, {"attention_mask": tf.constant(normal(2, 5, 5) > 0)}),
    "causal attention": (make_attention, {"causal": True}),
}


@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_gradients_equal_finite_differences(name, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", 2)
    make, options = GRADIENT_CASES[name]
    layer, x = make(), normal(2, 5, 4).astype(np.float64)
    for variable in layer.trainable_variables:
        assert variable.dtype == "float64"

    @tf.function  # it is called several hundred times
    def value(x):
        return probe(layer(x, **options))

    _, gradients = value_and_gradients(lambda: layer(tf.constant(x), **options), layer.trainable_variables)
    inputs = tf.constant(x)
    _, (x_gradient,) = value_and_gradients(lambda: layer(inputs, **options), [inputs])
    step = 1e-6
    for index in np.ndindex(*x.shape):
        change = np.zeros(x.shape)
        change[index] = step
        slope = (value(inputs + change) - value(inputs - change)) / (2 * step)
        assert abs(slope - x_gradient[index]) < 1e-7, index
    for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
        before = variable.numpy()
        for index in np.ndindex(*before.shape):
            values = []
            for sign in (1, -1):
                changed = before.copy()
                changed[index] += sign * step
                variable.assign(changed)
                values.append(value(inputs))
            variable.assign(before)
            assert abs((values[0] - values[1]) / (2 * step) - gradient[index]) < 1e-7, (variable.path, index)


# Properties.


@pytest.mark.parametrize("causal", [False, True])
def test_attention_weights_are_normalized_and_masked(causal):
    attention, _ = attention_pair()
    x = tf.constant(normal(2, 4, 6))
    keys, values = attention.project(x)
    weights = attention.attention_weights(x, keys, None if causal else mask_bias(causal_mask(4)), causal)
    assert weights.shape == (2, 2, 4, 4)
    np.testing.assert_allclose(ops.sum(weights, axis=-1), 1, atol=1e-6)
    assert np.all(np.asarray(weights)[..., ~np.tri(4, dtype=bool)] == 0)
    mixed = tf.reshape(tf.transpose(weights @ values, (0, 2, 1, 3)), (2, 4, 6))
    assert_close(attention.out(mixed), attention(x, causal=True), 1e-6)


def test_attention_drops_weights_in_training_only():
    attention = randomized(MultiHeadAttention(2, dropout=0.5), (None, None, 6))
    x = tf.constant(normal(2, 5, 6))
    assert_close(attention(x), attention(x, training=False), 0)
    assert np.abs(attention(x, training=True) - attention(x, training=True)).max() > 0.1
    many = attention(tf.repeat(x, 2000, axis=0), training=True)
    assert_close(np.mean(tf.reshape(many, (2, 2000, 5, 6)), axis=1), attention(x), 0.1)


def test_attention_with_dropout_does_not_see_future_positions():
    attention = randomized(MultiHeadAttention(2, dropout=0.5), (None, None, 6))
    x = tf.Variable(normal(1, 4, 6))
    with tf.GradientTape() as tape:
        first = tf.reduce_sum(attention(x, causal=True, training=True)[:, 0])
    assert np.all(tape.gradient(first, x)[0, 1:] == 0)


def test_rotary_attention_depends_only_on_distances():
    attention = randomized(MultiHeadAttention(2, rotary=True), (None, None, 8))
    x = tf.constant(normal(2, 4, 8))
    weights = [attention.attention_weights(x, attention.project(x, start=s)[0], start=s) for s in (0, 100)]
    assert_close(weights[0], weights[1], 1e-4)
    order = [3, 0, 1, 2]
    assert np.abs(attention(tf.gather(x, order, axis=1)) - tf.gather(attention(x), order, axis=1)).max() > 1e-2


def test_fully_masked_attention_is_finite():
    attention, _ = attention_pair()
    x = tf.constant(normal(2, 4, 6))
    outputs, gradients = value_and_gradients(lambda: attention(x, attention_mask=tf.zeros((2, 1, 4), tf.bool)), [x])
    assert np.isfinite(outputs).all()
    assert np.isfinite(gradients[0]).all()


def test_attention_without_positions_is_permutation_equivariant():
    attention, _ = attention_pair()
    x, order = tf.constant(normal(2, 5, 6)), [3, 0, 4, 1, 2]
    assert_close(attention(tf.gather(x, order, axis=1)), tf.gather(attention(x), order, axis=1), 1e-6)


def test_large_scores_are_finite_in_half_precision():
    attention = randomized(MultiHeadAttention(1, dtype="mixed_float16"), (None, None, 4))
    x = tf.constant(normal(1, 3, 4, scale=100.0))
    assert np.isfinite(attention(x)).all()


def test_layer_normalization_statistics_are_float32():
    norm = randomized(LayerNormalization(dtype="mixed_float16"), (None, None, 64))
    x = tf.cast(normal(2, 3, 64, scale=10.0) + 200, tf.float16)
    exact = randomized(LayerNormalization(), (None, None, 64))
    exact.set_weights(norm.get_weights())
    assert_close(norm(x), tf.cast(exact(tf.cast(x, tf.float32)), tf.float16), 2e-3)


# Invalid arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0), "units is 0"),
        (lambda: MultiHeadAttention(0), "num_heads is 0"),
        (lambda: MultiHeadAttention(2, dropout=2), "dropout is 2"),
        (
            lambda: MultiHeadAttention(4).build((None, None, 6)),
            "width 6 must be a multiple of num_heads, which is 4",
        ),
        (lambda: MultiHeadAttention(4, num_key_value_heads=3), "num_key_value_heads is 3; it must divide num_heads"),
        (lambda: MultiHeadAttention(4, num_key_value_heads=0), "num_key_value_heads is 0"),
        (lambda: MultiHeadAttention(2, rotary=True).build((None, None, 6)), "width of a head is 3; it must be even"),
        (
            lambda: attention_pair()[0](normal(2, 4, 6), attention_mask=np.ones((2, 4), bool)),
            r"shape \(2, 4\); it must be",
        ),
        (
            lambda: attention_pair()[0](normal(2, 4, 6), normal(2, 5, 6), causal=True),
            "causal is True; with a memory it must be False",
        ),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_long_causal_attention_accepts_masks_of_unknown_rows():
    attention = MultiHeadAttention(2)
    x, mask = tf.constant(normal(1, 200, 4)), tf.constant(normal(1, 1, 200, seed=1) > -1)
    expected = attention(x, attention_mask=mask, causal=True)

    @tf.function(input_signature=[tf.TensorSpec([None, 200, 4]), tf.TensorSpec([None, None, 200], tf.bool)])
    def graph(x, mask):
        return attention(x, attention_mask=mask, causal=True)

    assert_close(graph(x, mask), expected, 1e-5)


def test_half_precision_gradients_are_as_exact_as_the_stock_layers():
    ours, theirs = (
        MultiHeadAttention(1, dtype="mixed_bfloat16"),
        keras.layers.MultiHeadAttention(1, 64, dtype="mixed_bfloat16"),
    )
    exact = MultiHeadAttention(1)
    x = tf.constant(normal(2, 64, 64) + 3.0)  # large scores
    for layer in (ours, exact):
        layer.build(x.shape)
    theirs.build(x.shape, x.shape)
    ours.set_weights(exact.get_weights())
    theirs.set_weights([w.reshape(v.shape) for w, v in zip(exact.get_weights(), theirs.weights, strict=True)])

    def gradient(layer, output):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.cast(output(), tf.float32) * normal(2, 64, 64, seed=1))
        return np.asarray(tape.gradient(total, layer.trainable_variables[0].value)).ravel()

    reference = gradient(exact, lambda: exact(x))
    mine, stock = gradient(ours, lambda: ours(x)), gradient(theirs, lambda: theirs(x, x))
    assert np.abs(mine - reference).max() <= 2 * np.abs(stock - reference).max()
